package console

import (
	"context"
	"errors"
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
		{"/month/seen", Closer, s.seenMonth},
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
	}, func(string, error, bool) {})
	return to, said, err
}

// patiently does something that may take long: it goes on when the browser does not wait any more. When it is over,
// ended is told what became of it, and whether the browser was.
func (s *Server) patiently(r *http.Request, what string, who visitor, within time.Duration, do func(context.Context) (string, error), ended func(said string, err error, isTold bool)) (string, error) {
	type outcome struct {
		said string
		err  error
	}
	done, gone := make(chan outcome), make(chan struct{})
	defer close(gone)
	began := s.work.do(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		said, err := survive(func() (string, error) { return do(ctx) })
		var refused Refused
		switch {
		case err == nil:
			s.cfg.Log.Info("done for the console", "what", what, "by", who.person(), "said", said)
		case errors.As(err, &refused):
			s.cfg.Log.Warn("refused for the console", "what", what, "by", who.person(), "why", string(refused))
		default:
			s.cfg.Log.Error("not done", "what", what, "by", who.person(), "error", err)
			err = Refused("It failed, and maybe it was not done: look whether it was; the log has the cause.")
		}
		s.advice.forget()
		select {
		case done <- outcome{said, err}:
		case <-gone:
			ended(said, err, false)
		}
	})
	if !began {
		err := Refused("Meterhouse is stopping: nothing was done.")
		ended("", err, true)
		return "", err
	}
	select {
	case o := <-done:
		ended(o.said, o.err, true)
		return o.said, o.err
	case <-r.Context().Done():
		return "", r.Context().Err()
	case <-time.After(retryPatience):
		return "It takes longer, and goes on. Load this page again in a while to see what became of it.", nil
	}
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
