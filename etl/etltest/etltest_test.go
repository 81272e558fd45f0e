package etltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
)

// config is the model's, with one flaw built in.
func config(flaw func(*model) etl.Source) Config {
	from := etl.DayOf(noon) - 5
	return Config{
		Now:     noon,
		Request: etl.Request{Dataset: "acme.usage", Scope: "C-1001", Window: etl.Window{From: from, Until: from + 3}},
		Foreign: func(body []byte) []byte { return bytes.Replace(body, []byte("C-1001"), []byte("C-2002"), 1) },
		Open: func(t testing.TB, env Env) Vendor {
			m, err := newModel(env)
			if err != nil {
				t.Fatal(err)
			}
			return Vendor{Source: flaw(m), Fake: http.HandlerFunc(acme), Secrets: []string{secret}}
		},
	}
}

func TestModelKeepsEveryPromise(t *testing.T) {
	Source(t, config(func(m *model) etl.Source { return m }))
}

// flawed is the model with something else in place of one method.
type flawed struct {
	*model
	extract   func(context.Context, etl.Request) (*etl.Answer, error)
	transform func(*etl.Answer, etl.Sink) (etl.Report, error)
}

func (f flawed) Extract(ctx context.Context, req etl.Request) (*etl.Answer, error) {
	if f.extract == nil {
		return f.model.Extract(ctx, req)
	}
	return f.extract(ctx, req)
}

func (f flawed) Transform(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
	if f.transform == nil {
		return f.model.Transform(ans, sink)
	}
	return f.transform(ans, sink)
}

// answers is a flaw in good answers.
func answers(change func(*etl.Answer)) func(*model) etl.Source {
	return func(m *model) etl.Source {
		return flawed{model: m, extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
			ans, err := m.Extract(ctx, req)
			if err == nil {
				change(ans)
			}
			return ans, err
		}}
	}
}

// errs is a flaw in what Extract says of a failure.
func errs(change func(context.Context, error) error) func(*model) etl.Source {
	return func(m *model) etl.Source {
		return flawed{model: m, extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
			ans, err := m.Extract(ctx, req)
			if err != nil {
				err = change(ctx, err)
			}
			return ans, err
		}}
	}
}

// tuned is a flaw in how the model is set up.
func tuned(change func(*model)) func(*model) etl.Source {
	return func(m *model) etl.Source {
		change(m)
		return m
	}
}

// transforms is a flaw in Transform.
func transforms(change func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error)) func(*model) etl.Source {
	return func(m *model) etl.Source {
		return flawed{model: m, transform: func(ans *etl.Answer, sink etl.Sink) (etl.Report, error) { return change(m, ans, sink) }}
	}
}

// tells is a flaw in what the sink is told.
func tells(change func(*etl.History) *etl.History) func(*model) etl.Source {
	return transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		return m.Transform(ans, between{sink, change})
	})
}

type between struct {
	etl.Sink
	change func(*etl.History) *etl.History
}

func (b between) History(h etl.History) error { return b.Sink.History(*b.change(&h)) }

// body is the vendor's with something else in place of a method.
type body struct {
	etl.Body
	size   int64
	opened *int
	closed *int
}

func (b body) Size() int64 { return b.Body.Size() + b.size }
func (b body) Open() (io.ReadCloser, error) {
	if b.opened != nil {
		if *b.opened++; *b.opened > 2 {
			return nil, errors.New("opened before")
		}
	}
	return b.Body.Open()
}
func (b body) Close() error {
	if b.closed != nil {
		if *b.closed++; *b.closed > 1 {
			return errors.New("closed before")
		}
	}
	return b.Body.Close()
}

type otherSum struct{ etl.Body }

func (otherSum) SHA256() (sum [32]byte) { return sum }

var calls atomic.Int64

// flaws are sources that break a promise, by the check that must notice.
var flaws = []struct {
	check string
	what  string
	flaw  func(*model) etl.Source
}{
	{"answer", "another request", answers(func(a *etl.Answer) { a.Request.Scope = "C-2002" })},
	{"answer", "a credential in the URL", answers(func(a *etl.Answer) { a.URL += "&token=" + secret })},
	{"answer", "a user in the URL", answers(func(a *etl.Answer) { a.URL = "https://user@acme.example/usage" })},
	{"answer", "wall clock", answers(func(a *etl.Answer) { a.RequestedAt = time.Now().UTC() })},
	{"answer", "one time for both", answers(func(a *etl.Answer) { a.FetchedAt = a.RequestedAt })},
	{"answer", "local time", answers(func(a *etl.Answer) { a.FetchedAt = a.FetchedAt.In(time.FixedZone("", 3600)) })},
	{"body", "wrong size", answers(func(a *etl.Answer) { a.Body = body{Body: a.Body, size: 1} })},
	{"body", "wrong sum", answers(func(a *etl.Answer) { a.Body = otherSum{a.Body} })},
	{"body", "opens once", answers(func(a *etl.Answer) { a.Body = body{Body: a.Body, opened: new(int)} })},
	{"body", "closes once", answers(func(a *etl.Answer) { a.Body = body{Body: a.Body, closed: new(int)} })},
	{"body", "tidied up", answers(func(a *etl.Answer) {
		b, _ := contentOf(a.Body)
		a.Body = fetch.NewBody(bytes.TrimSpace(b))
	})},
	{"cancellation", "ignored", func(m *model) etl.Source {
		return flawed{model: m, extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
			return m.Extract(context.WithoutCancel(ctx), req)
		}}
	}},
	{"cancellation", "blamed on the vendor", errs(func(ctx context.Context, err error) error {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", err, etl.ErrUnavailable)
		}
		return err
	})},
	{"cancellation", "cause lost", errs(func(_ context.Context, err error) error { return errors.New(err.Error()) })},
	{"classes", "one for all", errs(func(_ context.Context, err error) error { return fmt.Errorf("%v: %w", err, etl.ErrUnavailable) })},
	{"classes", "never tires", tuned(func(m *model) { m.policy.Attempts = 50 })},
	{"classes", "evidence that cannot be read", func(m *model) etl.Source {
		return flawed{model: m, extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
			ans, err := m.Extract(ctx, req)
			if ans != nil && err != nil {
				ans.Body.Close()
			}
			return ans, err
		}}
	}},
	{"patience", "none", tuned(func(m *model) { m.policy.Attempts = 1 })},
	{"patience", "less than asked for", tuned(func(m *model) {
		sleep := m.env.Sleep
		m.env.Sleep = func(ctx context.Context, d time.Duration) error { return sleep(ctx, min(d, time.Second)) }
	})},
	{"patience", "too much", tuned(func(m *model) {
		m.env.Sleep = func(ctx context.Context, d time.Duration) error { return fetch.Sleep(ctx, time.Microsecond) }
	})},
	{"time-out", "of its own", tuned(func(m *model) { m.client, _ = fetch.New(fetch.Config{Now: m.env.Now}) })},
	{"time-out", "is as any failure", errs(func(_ context.Context, err error) error { return fmt.Errorf("%v: %w", err, etl.ErrUnavailable) })},
	{"size", "no limit", tuned(func(m *model) { m.client, _ = fetch.New(fetch.Config{Now: m.env.Now}) })},
	{"clock", "never looked at", answers(func(a *etl.Answer) { delete(a.Warnings, etl.VendorClockSkewed) })},
	{"clock", "the business clock", tuned(func(m *model) {
		m.client, _ = fetch.New(fetch.Config{Timeout: m.env.Timeout, MaxBody: m.env.MaxBody, Now: m.env.Now, Wall: m.env.Now})
	})},
	{"clock", "told twice", answers(func(a *etl.Answer) {
		if w, ok := a.Warnings[etl.VendorClockSkewed]; ok {
			a.Warnings.Add(etl.VendorClockSkewed, w.FirstPath)
		}
	})},
	{"clock", "of an answer before", func(m *model) etl.Source {
		all := etl.Warnings{}
		return flawed{model: m, extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
			m.policy.OnRetry = func(int, time.Duration, error) { all.Add(etl.VendorClockSkewed, "before") }
			ans, err := m.Extract(ctx, req)
			if ans != nil && len(all) > 0 {
				ans.Warnings = all
			}
			return ans, err
		}}
	}},
	{"redirect", "followed", func(m *model) etl.Source {
		return flawed{model: m, extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
			ans, err := m.Extract(ctx, req)
			if resp, getErr := http.Get(m.base + redirect); getErr == nil {
				resp.Body.Close()
			}
			return ans, err
		}}
	}},
	{"unknown dataset", "asked for", func(m *model) etl.Source {
		return flawed{model: m, extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
			req.Dataset = "acme.usage"
			return m.Extract(ctx, req)
		}}
	}},
	{"one at a time", "all at once", func(m *model) etl.Source {
		return flawed{model: m, extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
			other, _ := newModel(m.env)
			return other.Extract(ctx, req)
		}}
	}},
	{"discretion", "in an error", errs(func(_ context.Context, err error) error { return fmt.Errorf("with token %s: %w", secret, err) })},
	{"discretion", "half in an error", errs(func(_ context.Context, err error) error { return fmt.Errorf("with token …%s: %w", secret[12:], err) })},
	{"discretion", "in the log", tuned(func(m *model) { m.policy.OnRetry = func(int, time.Duration, error) { m.env.Log.Debug(secret) } })},
	{"discretion", "in the source", func(m *model) etl.Source {
		return struct {
			etl.Source
			token string
		}{m, secret}
	}},

	{"accounts", "one too many", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		report, err := m.Transform(ans, sink)
		report.Received++
		return report, err
	})},
	{"accounts", "no records", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		report, err := m.Transform(ans, sink)
		report.Records = 0
		return report, err
	})},
	{"accounts", "local time", tells(func(h *etl.History) *etl.History {
		local := noon.In(time.FixedZone("", 3600))
		h.Start = &local
		return h
	})},
	{"accounts", "no time", tells(func(h *etl.History) *etl.History { h.End = new(time.Time); return h })},
	{"accounts", "text that Postgres refuses", tells(func(h *etl.History) *etl.History { h.Levels[0].Level = "a\x00b"; return h })},
	{"accounts", "a slice used again", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		var kept []etl.Sample
		report, err := m.Transform(ans, between{sink, func(h *etl.History) *etl.History { kept = h.Levels[0].Samples; return h }})
		kept[0].ConsumedTiB = etl.NewDecimal(7)
		return report, err
	})},
	{"purity", "a counter", tells(func(h *etl.History) *etl.History { h.Number = fmt.Sprint(calls.Add(1)); return h })},
	{"purity", "asks again", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		if resp, err := http.Get(m.base); err == nil {
			resp.Body.Close()
		}
		return m.Transform(ans, sink)
	})},
	{"purity", "changes the answer", func(m *model) etl.Source {
		var once sync.Once
		return flawed{model: m, transform: func(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
			once.Do(func() { ans.URL = "" })
			return m.Transform(ans, sink)
		}}
	}},
	{"replay", "remembers", func(m *model) etl.Source {
		number := ""
		return flawed{model: m,
			extract: func(ctx context.Context, req etl.Request) (*etl.Answer, error) {
				number = "learned"
				return m.Extract(ctx, req)
			},
			transform: func(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
				return m.Transform(ans, between{sink, func(h *etl.History) *etl.History { h.Number = number; return h }})
			},
		}
	}},
	{"replay", "another zone", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		return m.Transform(ans, between{sink, func(h *etl.History) *etl.History { h.Start = &ans.RequestedAt; return h }})
	})},
	{"replay", "refuses what it took", func(m *model) etl.Source { return stranger{m} }},
	{"window", "left", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		wide := *ans
		wide.Request.Window = etl.Window{From: ans.Request.Window.From - 1, Until: ans.Request.Window.Until + 1}
		return m.Transform(&wide, sink)
	})},
	{"sink errors", "lost", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		report, err := m.Transform(ans, sink)
		if errors.Is(err, errSink) {
			err = nil
		}
		return report, err
	})},
	{"sink errors", "blamed on the vendor", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		report, err := m.Transform(ans, sink)
		if errors.Is(err, errSink) {
			err = fmt.Errorf("%w: %w", etl.Rejected("row", "sink"), err)
		}
		return report, err
	})},
	{"sink errors", "goes on", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		report, err := m.Transform(ans, sink)
		if err != nil {
			sink.Customer(etl.Customer{})
		}
		return report, err
	})},
	{"cut", "takes what came", transforms(lenient("json_syntax"))},
	{"garbage", "nothing is no rows", transforms(lenient("json_empty"))},
	{"garbage", "reads the beginning", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		b, _ := contentOf(ans.Body)
		first, _, _ := bytes.Cut(b, []byte("]}"))
		short := *ans
		short.Body = fetch.NewBody(append(bytes.Clone(first), "]}"...))
		return m.Transform(&short, sink)
	})},
	{"damage", "missing is zero", transforms(rewritten(`"tib":null`, `"tib":0`))},
	{"damage", "reject without a reason", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		return m.Transform(ans, nameless{sink})
	})},
	{"damage", "one bad row costs all", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		var first record
		if report, err := m.Transform(ans, &first); err != nil || report.Quarantined > 0 {
			return report, etl.Rejected("bad_row", "got %v", err)
		}
		return m.Transform(ans, sink)
	})},
	{"damage", "no class", transforms(func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		report, err := m.Transform(ans, sink)
		if err != nil {
			err = errors.New(err.Error())
		}
		return report, err
	})},
	{"foreign", "not noticed", transforms(rewritten("C-2002", "C-1001"))},
}

// lenient forgives one reason.
func lenient(reason string) func(*model, *etl.Answer, etl.Sink) (etl.Report, error) {
	return func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		report, err := m.Transform(ans, sink)
		var reject *etl.RejectError
		if errors.As(err, &reject) && reject.Reason == reason {
			return etl.Report{}, nil
		}
		return report, err
	}
}

// rewritten reads one text as another.
func rewritten(from, to string) func(*model, *etl.Answer, etl.Sink) (etl.Report, error) {
	return func(m *model, ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
		b, _ := contentOf(ans.Body)
		other := *ans
		other.Body = fetch.NewBody(bytes.ReplaceAll(b, []byte(from), []byte(to)))
		return m.Transform(&other, sink)
	}
}

// stranger does not know its own answers again.
type stranger struct{ etl.Source }

func (stranger) Recognize(*etl.Answer) error { return errors.New("never seen") }

type nameless struct{ etl.Sink }

func (n nameless) Reject(r etl.Reject) error { r.Reason = ""; return n.Sink.Reject(r) }

// Each check notices the flaws that it is there for.
func TestEveryCheckCanFail(t *testing.T) {
	defer func(d time.Duration) { prompt = d }(prompt)
	prompt = time.Second
	tried := map[string]bool{}
	t.Run("flaws", func(t *testing.T) {
		for _, f := range flaws {
			tried[f.check] = true
			t.Run(f.check+"/"+f.what, func(t *testing.T) {
				t.Parallel()
				failures := failuresOf(t, f.check, config(f.flaw))
				if len(failures) == 0 {
					t.Errorf("the check %q passes", f.check)
				}
				t.Log(strings.Join(failures, "\n"))
			})
		}
	})
	for _, c := range checks {
		if !tried[c.name] {
			t.Errorf("no flaw for the check %q", c.name)
		}
	}
}

// A configuration that proves nothing is refused.
func TestConfigThatProvesNothing(t *testing.T) {
	good := func(m *model) etl.Source { return m }
	for name, c := range map[string]struct {
		check  string
		change func(*Config)
		want   string
	}{
		"no secrets": {"answer", func(c *Config) {
			open := c.Open
			c.Open = func(t testing.TB, env Env) Vendor { v := open(t, env); v.Secrets = nil; return v }
		}, "Vendor.Secrets"},
		"one day":          {"window", func(c *Config) { c.Request.Window.Until = c.Request.Window.From + 1 }, "three days"},
		"a large answer":   {"cut", func(c *Config) { c.Request.Window.Until += 5000 }, "smaller Request"},
		"the same foreign": {"foreign", func(c *Config) { c.Foreign = func(b []byte) []byte { return b } }, "changed nothing"},
		"days without facts": {"window", func(c *Config) {
			open := c.Open
			c.Open = func(t testing.TB, env Env) Vendor {
				v := open(t, env)
				v.Fake = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					fmt.Fprintf(w, `{"customer":"C-1001","rows":[{"at":"2026-05-11T00:00:00Z","tib":1}]}`)
				})
				return v
			}
		}, "2 days have no samples"},
	} {
		cfg := config(good)
		c.change(&cfg)
		if got := strings.Join(failuresOf(t, c.check, cfg), "\n"); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q in it", name, got, c.want)
		}
	}
}

// spy is a testing.TB that keeps failures to itself.
type spy struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (s *spy) Helper()          {}
func (s *spy) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *spy) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, fmt.Sprintf(format, args...))
}

func (s *spy) Fatal(args ...any) { s.Fatalf("%s", fmt.Sprint(args...)) }

func (s *spy) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// failuresOf runs one check as a test of its own.
func failuresOf(t *testing.T, check string, cfg Config) []string {
	s := &spy{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for i := len(s.cleanups) - 1; i >= 0; i-- {
				s.cleanups[i]()
			}
		}()
		for _, c := range checks {
			if c.name == check {
				c.run(s, cfg)
			}
		}
	}()
	<-done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures
}
