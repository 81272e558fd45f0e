package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// actions are all forms that change something.
func (s *Server) actions() []action {
	return []action{
		{"/loads", Operator, s.beginLoad},
		{"/quarantine/{id}/retry", Operator, s.retry},
		{"/quarantine/{id}/seen", Operator, s.seenRetry},
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
	said, err = s.patiently(r, aboutRecord(id), "Reading this record again", who, retryWithin, func(ctx context.Context) (string, error) {
		return s.cfg.Retry(ctx, id)
	})
	return to, said, err
}

// aboutRecord names a record of the quarantine among [decisions].
func aboutRecord(id int64) string { return fmt.Sprintf("record %d of the quarantine", id) }

// seenRetry takes away what became of reading a record again: somebody has read it.
func (s *Server) seenRetry(r *http.Request, _ visitor) (to, said string, err error) {
	id, err := number(r)
	if err != nil {
		return "", "", err
	}
	s.decisions.seen(aboutRecord(id), r.PostFormValue("at"))
	return fmt.Sprintf("/quarantine/%d", id), "", nil
}

// patiently does something about a thing for a person, unless that goes on already, and it may take long: it goes on
// when the browser does not wait any more. The pages of the thing then tell what becomes of it.
func (s *Server) patiently(r *http.Request, about, what string, who visitor, within time.Duration, do func(context.Context) (string, error)) (string, error) {
	if other := s.decisions.begin(about, what, who.person()); other != nil {
		return "", Refused(fmt.Sprintf("%s, which %s asked for at %s UTC, goes on: wait for what becomes of it.", other.What, other.By, other.At))
	}
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
			s.cfg.Log.Info("done for the console", "what", about, "by", who.person(), "said", said)
		case errors.As(err, &refused):
			s.cfg.Log.Warn("refused for the console", "what", about, "by", who.person(), "why", string(refused))
		default:
			s.cfg.Log.Error("not done", "what", about, "by", who.person(), "error", err)
			err = Refused("It failed, and maybe it was not done: look whether it was; the log has the cause.")
		}
		s.advice.forget()
		select {
		case done <- outcome{said, err}:
		case <-gone:
			s.decisions.end(about, said, err, false)
		}
	})
	if !began {
		err := Refused("Meterhouse is stopping: nothing was done.")
		s.decisions.end(about, "", err, true)
		return "", err
	}
	select {
	case o := <-done:
		s.decisions.end(about, o.said, o.err, true)
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

// decision is what somebody asked for and was not told the end of.
type decision struct {
	What, By, At string // such as Closing this month, the person, UTC by this machine's clock
	Said         string
	Trouble      string // why it is not done; both empty: it goes on
}

// IsOn tells whether it goes on.
func (d *decision) IsOn() bool { return d != nil && d.Said == "" && d.Trouble == "" }

// decisions are the last ones by what they are about, until somebody says that they were seen, another one is taken or
// the process ends: the log has them too, and the database has what was done.
type decisions struct {
	mu  sync.Mutex
	all map[string]decision
}

// begin notes a decision unless another one goes on, which it returns.
func (d *decisions) begin(about, what, who string) *decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	if other, ok := d.all[about]; ok && other.IsOn() {
		return &other
	}
	if d.all == nil {
		d.all = map[string]decision{}
	}
	d.all[about] = decision{What: what, By: who, At: time.Now().UTC().Format("2006-01-02 15:04:05")}
	return nil
}

// end keeps what became of it, unless the browser was told.
func (d *decisions) end(about, said string, err error, isTold bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	it := d.all[about]
	if it.Said = said; err != nil {
		it.Said, it.Trouble = "", err.Error()
	}
	if d.all[about] = it; isTold {
		delete(d.all, about)
	}
}

func (d *decisions) of(about string) *decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	if it, ok := d.all[about]; ok {
		return &it
	}
	return nil
}

// seen forgets the decision of that time, if it is over.
func (d *decisions) seen(about, at string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if it := d.all[about]; !it.IsOn() && it.At == at {
		delete(d.all, about)
	}
}
