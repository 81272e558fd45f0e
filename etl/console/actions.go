package console

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// actions are all forms that change something.
func (s *Server) actions() []action {
	return []action{
		{"/loads", Operator, s.beginLoad},
		{"/quarantine/{id}/retry", Operator, s.retry},
		{"/quarantine/{id}/dismiss", Operator, s.dismiss},
		{"/month/close", Closer, s.closeMonth},
		{"/month/reopen", Closer, s.reopenMonth},
	}
}

// number is the id in the path.
func number(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		return 0, errNotThere
	}
	return id, nil
}

// open is a landed body.
func (s *Server) open(ctx context.Context, payload int64) (io.ReadCloser, error) {
	if s.cfg.Body == nil {
		return nil, errNotThere
	}
	err := s.read(ctx, pageWithin, func(_ context.Context, v *view) error {
		_, found, err := v.one("select from mart.payload where payload_id = $1", payload)
		if err == nil && !found {
			err = errNotThere
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.cfg.Body(ctx, payload)
}

func (s *Server) beginLoad(r *http.Request, who visitor) (to, said string, err error) {
	dataset, scope := r.PostFormValue("dataset"), r.PostFormValue("scope")
	back := "/freshness"
	if s.cfg.Loads == nil {
		return back, "", Refused("Nothing is loaded from here: use `meterhouse run " + clip(dataset, 100) + "`.")
	}
	var newest string
	err = s.read(r.Context(), pageWithin, func(_ context.Context, v *view) error {
		_, found, err := v.one("select from mart.freshness where dataset = $1 and scope = $2", dataset, scope)
		if err == nil && !found {
			err = errNotThere
		}
		if err != nil {
			return err
		}
		rec, found, err := v.one("select run_id::text as run_id from mart.run where dataset = $1 and scope = $2 order by run_id desc limit 1", dataset, scope)
		if found {
			newest = rec["run_id"].Text
		}
		return err
	})
	if err != nil {
		return back, "", err
	}
	load, err := s.cfg.Loads.Begin(r.Context(), dataset, scope, who.person())
	if err != nil {
		return back, "", err
	}
	s.cfg.Log.Info("load wanted", "dataset", dataset, "scope", scope, "by", who.person(), "load", load)
	s.advice.forget()
	to = fmt.Sprintf("/loads/%d?", load) + url.Values{"dataset": {dataset}, "scope": {scope}, "after": {newest}, live: {"1"}}.Encode()
	return to, "", nil
}

// retryPatience is how long a browser waits for a record to be read again; the work goes on beyond.
const (
	retryPatience = 10 * time.Second
	retryWithin   = 10 * time.Minute
)

func (s *Server) retry(r *http.Request, who visitor) (to, said string, err error) {
	id, err := number(r)
	if err != nil {
		return "", "", err
	}
	to = fmt.Sprintf("/quarantine/%d", id)
	if s.cfg.Retry == nil {
		return to, "", Refused(fmt.Sprintf("Nothing is read again from here: use `meterhouse quarantine retry %d`.", id))
	}
	s.cfg.Log.Info("record read again", "quarantine", id, "by", who.person())
	said, err = s.patiently(r, fmt.Sprintf("read record %d of the quarantine again", id), who, retryWithin, func(ctx context.Context) (string, error) {
		return s.cfg.Retry(ctx, id)
	})
	return to, said, err
}

func (s *Server) dismiss(r *http.Request, who visitor) (to, said string, err error) {
	id, err := number(r)
	if err != nil {
		return "", "", err
	}
	to = fmt.Sprintf("/quarantine/%d", id)
	reason := reasonOf(r)
	switch {
	case s.cfg.Dismiss == nil:
		return to, "", Refused(fmt.Sprintf("Nothing is dismissed from here: use `meterhouse quarantine dismiss %d --reason R`.", id))
	case reason == "":
		return to, "", Refused("Say why it is not wanted: whoever closes the month will ask.")
	case len(reason) > mostRefused:
		return to, "", Refused(fmt.Sprintf("The reason is too long: want at most %d bytes.", mostRefused))
	}
	ctx, cancel := context.WithTimeout(r.Context(), actionWithin)
	defer cancel()
	if err := s.cfg.Dismiss(ctx, id, who.person(), reason); err != nil {
		return to, "", err
	}
	s.cfg.Log.Info("record dismissed", "quarantine", id, "by", who.person())
	s.advice.forget()
	return to, "Dismissed. While the vendor repeats it word for word, it is ignored.", nil
}
