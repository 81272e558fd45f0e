package etltest

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
)

// transform gives the answer, or the same with another body, to the source and a fresh sink.
func (b *bench) transform(ans *etl.Answer, body []byte) (*record, etl.Report, error) {
	var r record
	if body == nil {
		report, err := b.vendor.Source.Transform(ans, &r)
		return &r, report, err
	}
	other := *ans
	other.Body = fetch.NewBody(body)
	defer other.Body.Close()
	report, err := b.vendor.Source.Transform(&other, &r)
	return &r, report, err
}

// kept expects facts from a good answer, with accounts that add up.
func (b *bench) kept(ans *etl.Answer, what string) *record {
	b.Helper()
	r, report, err := b.transform(ans, nil)
	if err != nil || r.kept == 0 || report.Quarantined > 0 {
		b.Errorf("%s: Transform kept %d facts and quarantined %d records (%v), want facts only", what, r.kept, report.Quarantined, err)
	}
	b.adds(what, r, report)
	return r
}

func (b *bench) adds(what string, r *record, report etl.Report) {
	b.Helper()
	if wrong := r.problems(report); len(wrong) > 0 {
		b.Fatalf("%s: %s", what, strings.Join(wrong, "\n"))
	}
}

// sample is a good answer with its body.
func (b *bench) sample() (*etl.Answer, []byte) {
	b.Helper()
	ans := b.extract("a good day")
	body := bytes.TrimSpace(bytes.Clone(b.sent))
	if len(body) == 0 || len(body) > maxGood {
		b.Fatalf("the fake's answer has %d bytes, want 1 to %d: choose a smaller Request", len(body), maxGood)
	}
	return ans, body
}

// rejected tells whether an answer was refused as a whole, as a breach of the contract.
func rejected(err error) bool {
	var reject *etl.RejectError
	return errors.As(err, &reject) && isName(reject.Reason) && errors.Is(err, etl.ErrContract)
}

// outcome is all that a transform said, as text.
func outcome(r *record, report etl.Report, err error) string {
	return strings.Join(r.calls, "\n") + "\n" + text(report) + "\n" + fmt.Sprint(err)
}

// Every record of the answer is a fact, ignored or quarantined.
func checkAccounts(t testing.TB, cfg Config) {
	b := open(t, cfg)
	b.kept(b.extract("a good day"), "a good answer")
}

// Transform is a pure function of the answer: the same every time, from many goroutines, without
// the vendor, and without a trace on the answer.
func checkPurity(t testing.TB, cfg Config) {
	b := open(t, cfg)
	ans := b.extract("a good day")
	asked, before := b.asked(), said(ans)
	b.always(status(http.StatusInternalServerError, ""))
	want := outcome(b.transform(ans, nil))
	var all sync.WaitGroup
	var once sync.Once
	for range 4 {
		all.Go(func() {
			for range 4 {
				if got := outcome(b.transform(ans, nil)); got != want {
					once.Do(func() { t.Errorf("Transform is not deterministic:\nfirst %s\nthen  %s", want, got) })
				}
			}
		})
	}
	all.Wait()
	if b.asked() != asked {
		t.Errorf("Transform asked the vendor %d times, want never", b.asked()-asked)
	}
	if after := said(ans); !reflect.DeepEqual(before, after) {
		t.Errorf("Transform changed the answer from %+v to %+v", before, after)
	}
}

// A landed answer says the same to another process, long after the vendor has gone.
func checkReplay(t testing.TB, cfg Config) {
	b := open(t, cfg)
	ans, body := b.sample()
	want := outcome(b.transform(ans, body))

	later := open(t, cfg)
	later.server.Close()
	if got := outcome(later.transform(landed(ans, nil), body)); got != want {
		t.Errorf("a replay says something else:\nthen %s\nnow  %s", want, got)
	}
}

// Facts of another time than asked for belong to another window.
func checkWindow(t testing.TB, cfg Config) {
	w := cfg.Request.Window
	if w.IsZero() {
		return
	}
	b := open(t, cfg)
	if w.Days() < 3 {
		t.Fatalf("Request.Window is %s, want three days or more", w)
	}
	ans := b.extract("a good day")
	missing := map[etl.Day]bool{}
	for d := w.From; d < w.Until; d++ {
		missing[d] = true
	}
	for _, d := range b.kept(ans, "a good answer").days() {
		delete(missing, d)
		if !w.Contains(d) {
			t.Errorf("asked for %s: a sample of %s reached the sink", w, d)
		}
	}
	if len(missing) > 0 {
		t.Errorf("asked for %s: %d days have no samples, want the fake to have some on each", w, len(missing))
	}

	// The vendor delivers the neighbouring days too.
	inner := *ans
	inner.Request.Window = etl.Window{From: w.From + 1, Until: w.Until - 1}
	r, report, err := b.transform(&inner, nil)
	if err != nil || r.kept == 0 {
		t.Errorf("the answer for %s as one for %s: %d facts (%v), want those inside", w, inner.Request.Window, r.kept, err)
	}
	b.adds("an answer with the neighbouring days", r, report)
	for _, d := range r.days() {
		if !inner.Request.Window.Contains(d) {
			t.Errorf("asked for %s: a sample of %s reached the sink", inner.Request.Window, d)
		}
	}
}

// What the sink says ends the transform and comes back as it is: it is no fault of the vendor.
func checkSinkErrors(t testing.TB, cfg Config) {
	b := open(t, cfg)
	ans, body := b.sample()
	for _, body := range append(b.withRejects(ans, body), body) {
		all, _, _ := b.transform(ans, body)
		for n := 1; n <= all.made; n++ {
			r := record{failAt: n}
			other := *ans
			other.Body = fetch.NewBody(body)
			_, err := b.vendor.Source.Transform(&other, &r)
			other.Body.Close()
			if !errors.Is(err, errSink) || rejected(err) {
				t.Fatalf("the sink failed at call %d of %d: Transform returned %v, want the sink's error", n, all.made, err)
			}
			if r.after > 0 {
				t.Fatalf("the sink failed at call %d of %d and was called %d times more", n, all.made, r.after)
			}
		}
	}
}

// withRejects is a damaged body, if there is one, of which a record is quarantined.
func (b *bench) withRejects(ans *etl.Answer, body []byte) (bodies [][]byte) {
	for _, d := range damages(body) {
		if r, _, err := b.transform(ans, d.body); err == nil && len(r.rejects) > 0 {
			return [][]byte{d.body}
		}
	}
	return nil
}

// An answer that was cut anywhere is refused as a whole.
func checkCut(t testing.TB, cfg Config) {
	b := open(t, cfg)
	ans, body := b.sample()
	for n := range body {
		if _, _, err := b.transform(ans, body[:n]); !rejected(err) {
			t.Fatalf("%d of %d bytes, up to …%s: Transform returned %v, want a RejectError", n, len(body), body[max(0, n-40):n], err)
		}
	}
}

// What is no answer at all is refused as a whole.
func checkGarbage(t testing.TB, cfg Config) {
	b := open(t, cfg)
	ans, body := b.sample()
	var wide []byte
	for _, u := range utf16.Encode([]rune(string(body))) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	for what, garbage := range map[string]string{
		"blanks": " \r\n\t", "null": "null", "a text": `"OK"`, "a number": "200", "an empty object": "{}", "an empty array": "[]",
		"a page": "<html><body>Scheduled maintenance</body></html>", "a warning before it": "Warning: out of memory\n" + string(body),
		"twice": string(body) + string(body), "something behind it": string(body) + "x", "as JSONP": "callback(" + string(body) + ")",
		"zeros": strings.Repeat("\x00", 1000), "UTF-16": string(wide), "an invalid byte": strings.Replace(string(body), `"`, "\"\xff", 1),
		"very deep": strings.Repeat("[", 1_000_000), "an endless number": strings.Repeat("9", 1_000_000), "not a number": "NaN",
	} {
		if _, _, err := b.transform(ans, []byte(garbage)); !rejected(err) {
			t.Errorf("%s: Transform returned %v, want a RejectError", what, err)
		}
	}
}

// A document with one thing wrong is refused, or loses what is wrong and says so; no quantity is
// made up for one that went missing.
func checkDamage(t testing.TB, cfg Config) {
	b := open(t, cfg)
	ans, body := b.sample()
	good := b.kept(ans, "a good answer").quantities()
	quarantined := 0
	for _, d := range damages(body) {
		r, report, err := b.transform(ans, d.body)
		if err != nil {
			if !rejected(err) {
				t.Fatalf("%s: Transform returned %v, want a RejectError", d.what, err)
			}
			continue
		}
		b.adds(d.what, r, report)
		quarantined += report.Quarantined
		if made := invented(r.quantities(), good); len(made) > 0 {
			t.Fatalf("%s: the facts hold %s, which the vendor did not say", d.what, made)
		}
	}
	if quarantined == 0 {
		t.Errorf("no damage put a record into quarantine: a bad record must not cost the good ones")
	}
}

// invented are the quantities that are more often in got than in known; both are sorted.
func invented(got, known []string) (made []string) {
	for _, q := range got {
		i, found := slices.BinarySearch(known, q)
		if !found {
			made = append(made, q)
			continue
		}
		known = slices.Delete(slices.Clone(known), i, i+1)
	}
	return made
}

type damage struct {
	what string
	body []byte
}

var scalar = regexp.MustCompile(`("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null)(\s*:)?`)

// damages spoils one value or one name of a JSON document at a time. It adds no number.
func damages(body []byte) (all []damage) {
	for _, at := range scalar.FindAllSubmatchIndex(body, -1) {
		values := []string{`null`, `""`, `"?"`, `"\u0000"`, `[]`, `{}`}
		if isMember := at[4] >= 0; isMember {
			values = []string{`"renamed"`}
		}
		for _, v := range values {
			spoiled := slices.Concat(body[:at[2]], []byte(v), body[at[3]:])
			all = append(all, damage{fmt.Sprintf("%s in place of …%s", v, body[max(0, at[2]-30):at[3]]), spoiled})
		}
	}
	return all
}

// An answer about somebody else is refused as a whole.
func checkForeign(t testing.TB, cfg Config) {
	if cfg.Foreign == nil {
		return
	}
	b := open(t, cfg)
	ans, body := b.sample()
	foreign := cfg.Foreign(bytes.Clone(body))
	if bytes.Equal(foreign, body) {
		t.Fatal("Config.Foreign changed nothing in the answer")
	}
	if _, _, err := b.transform(ans, foreign); !rejected(err) {
		t.Errorf("an answer about somebody else: Transform returned %v, want a RejectError", err)
	}
}
