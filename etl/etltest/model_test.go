package etltest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/internal/jsonread"
)

const secret = "made-up-credential-5f2b90c1"

var noon = time.Date(2026, 5, 15, 12, 0, 0, 0, time.UTC)

// acme is a vendor of one report: samples of one level, one a day, both ends of the window included.
func acme(w http.ResponseWriter, r *http.Request) {
	from, _ := time.Parse(time.DateOnly, r.FormValue("from"))
	until, _ := time.Parse(time.DateOnly, r.FormValue("until"))
	fmt.Fprintf(w, `{"customer":%q,"rows":[`, r.FormValue("customer"))
	for at, comma := from, ""; !at.After(until); at, comma = at.Add(24*time.Hour), "," {
		fmt.Fprintf(w, `%s{"at":%q,"tib":"%d.5"}`, comma, at.Format(time.RFC3339), at.Day())
	}
	fmt.Fprintln(w, `]}`)
}

// model is a source that keeps every promise: the smallest there is.
type model struct {
	base   string
	client *fetch.Client
	env    Env
	policy fetch.Policy
	turn   sync.Mutex
}

func newModel(env Env) (*model, error) {
	client, err := fetch.New(fetch.Config{Timeout: env.Timeout, MaxBody: env.MaxBody, Now: env.Now, Wall: env.Wall})
	return &model{base: env.BaseURL, client: client, env: env}, err
}

func (m *model) Extract(ctx context.Context, req etl.Request) (ans *etl.Answer, err error) {
	if req.Dataset != "acme.usage" {
		return nil, fmt.Errorf("acme: unknown dataset %q", req.Dataset)
	}
	target, err := fetch.CheckBaseURL(m.base)
	if err != nil {
		return nil, err
	}
	target.RawQuery = url.Values{
		"customer": {req.Scope}, "from": {req.Window.From.String()}, "until": {req.Window.Until.String()},
	}.Encode()
	m.turn.Lock()
	defer m.turn.Unlock()
	err = fetch.Retry(ctx, m.policy, m.env.Sleep, func() error {
		if ans != nil {
			ans.Body.Close()
			ans = nil
		}
		res, err := m.client.Do(ctx, fetch.Call{Method: http.MethodGet, URL: target, Header: http.Header{"acme-token": {secret}}})
		if err != nil {
			return err
		}
		ans = &etl.Answer{
			Request: req, Method: http.MethodGet, URL: target.String(), Status: res.Status, ContentType: res.ContentType,
			RequestedAt: res.RequestedAt, FetchedAt: res.FetchedAt, Body: res.Body, Warnings: res.Warnings,
		}
		return fetch.Status(res)
	})
	return ans, err
}

func (m *model) Transform(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
	body, err := ans.Body.Open()
	if err != nil {
		return etl.Report{}, err
	}
	defer body.Close()
	t := reading{r: jsonread.New(body), window: ans.Request.Window, report: etl.Report{Warnings: etl.Warnings{}}}
	if err := t.document(); err != nil {
		return etl.Report{}, err
	}
	switch {
	case !t.listed:
		return etl.Report{}, etl.Rejected("envelope_unknown", "no rows")
	case t.customer != ans.Request.Scope:
		return etl.Report{}, etl.Rejected("wrong_customer", "got %q, want %q", t.customer, ans.Request.Scope)
	}
	for _, reject := range t.rejects {
		if err := sink.Reject(reject); err != nil {
			return etl.Report{}, err
		}
	}
	return t.report, sink.History(etl.History{
		Subscription: etl.Subscription{Number: "A-1"}, Levels: []etl.LevelHistory{{Level: "Usage", Samples: t.samples}},
	})
}

// reading is one Transform.
type reading struct {
	r        *jsonread.Reader
	window   etl.Window
	customer string
	listed   bool
	samples  []etl.Sample
	rejects  []etl.Reject
	report   etl.Report
}

func (t *reading) document() error {
	if kind, err := t.r.Kind(); err != nil || kind != jsonread.Object {
		return errors.Join(err, etl.Rejected("envelope_unknown", "got %s, want an object", kind))
	}
	err := t.r.Object(func(name string) error {
		switch name {
		case "customer":
			v, err := t.r.Scalar()
			t.customer = string(v.Text)
			return err
		case "rows":
			t.listed = true
			return t.r.Array(func(int) error { return t.row() })
		}
		return t.r.Skip()
	})
	if err != nil {
		return err
	}
	return t.r.End()
}

func (t *reading) row() error {
	at, tib := jsonread.Scalar{Kind: jsonread.Null}, jsonread.Scalar{Kind: jsonread.Null}
	err := t.r.Object(func(name string) error {
		v, err := t.r.Scalar()
		v.Text = append([]byte(nil), v.Text...) // good until the next read only
		switch name {
		case "at":
			at = v
		case "tib":
			tib = v
		}
		return err
	})
	if err != nil {
		return err
	}
	t.report.Records++
	t.report.Received++
	refuse := func(member, reason string, v jsonread.Scalar) {
		t.report.Quarantined++
		t.rejects = append(t.rejects, etl.Reject{Path: t.r.Path() + "/" + member, Reason: reason, Excerpt: accept.Excerpt(v.Text)})
	}
	s := etl.Sample{}
	var reason string
	if s.At, _, reason = accept.Micros(at); reason != "" {
		refuse("at", reason, at)
		return nil
	}
	if s.ConsumedTiB, _, reason = accept.Measure(tib); reason != "" {
		refuse("tib", reason, tib)
		return nil
	}
	if !t.window.Contains(s.Day()) {
		t.report.Ignored++
		return nil
	}
	t.samples = append(t.samples, s)
	return nil
}
