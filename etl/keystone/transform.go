package keystone

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/jsonread"
)

// Transform turns an answer into facts by the acceptance rules of failure model 3.2. It is a pure
// function of the answer and streams: one subscription record is in memory at a time. Only an
// answer that names a subscription number twice is read a second time, after sink.Restart.
func (a *Account) Transform(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
	return transform(ans, sink)
}

func transform(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
	p := newPass(ans, sink)
	if err := p.read(); err != nil {
		return etl.Report{}, err
	}
	if p.repeated != nil {
		if err := sink.Restart(); err != nil {
			return etl.Report{}, err
		}
		held := p.repeated
		p = newPass(ans, sink)
		p.hold = held
		if err := p.read(); err != nil {
			return etl.Report{}, err
		}
		if err := p.releaseHeld(); err != nil {
			return etl.Report{}, err
		}
	}
	return p.conclude()
}

// pass is one reading of an answer.
type pass struct {
	r       *jsonread.Reader
	ans     *etl.Answer
	sink    etl.Sink
	dataset string
	limits  limits

	record  func() error // reads one element of records
	level   *level       // being read
	sample  sampleReader
	verdict *etl.RejectError // why nothing of the answer may be kept; reading goes on to the end

	numbers  map[string]bool // subscription numbers met
	repeated map[string]bool // those met twice; from then on nothing is emitted
	hold     map[string]bool // those to be held back, on the second reading
	held     []*record
	known    map[string]bool // customer ids met

	report  etl.Report
	rows    int // R11: records, levels and samples
	bad     int
	listed  listed
	drifted map[drift]bool
	echoed  bool // the customer was named and it was ours
}

// limits are the bounds of times in microseconds: R24.
type limits struct {
	from, until       int64 // the asked window
	dayBefore, dayEnd int64 // with a day before and after it
	future            int64 // 24 h after the answer
	stale             int64 // 7 days before it
}

// listed counts what the answer lists, good or bad: R07.
type listed struct{ records, customers, repeated, levels, samples int }

func newPass(ans *etl.Answer, sink etl.Sink) *pass {
	w := ans.Request.Window
	p := &pass{
		ans: ans, sink: sink, dataset: ans.Request.Dataset,
		limits: limits{
			from: w.From.Time().UnixMicro(), until: w.Until.Time().UnixMicro(),
			dayBefore: (w.From - 1).Time().UnixMicro(), dayEnd: (w.Until + 1).Time().UnixMicro(),
			future: ans.FetchedAt.Add(24 * time.Hour).UnixMicro(),
			stale:  ans.FetchedAt.Add(-7 * 24 * time.Hour).UnixMicro(),
		},
		numbers: map[string]bool{}, known: map[string]bool{}, drifted: map[drift]bool{},
		report: etl.Report{Warnings: etl.Warnings{}},
	}
	p.record = p.subscriptionRecord
	if p.dataset == Customers {
		p.record = p.customersRecord
	}
	p.sample.member = p.sampleMember // made once: a method value costs an allocation each time
	return p
}

// read reads the document to its end. Its error is a *etl.RejectError, or the sink's own.
func (p *pass) read() error {
	switch p.dataset {
	case Customers, Subscriptions, Current, History:
	default:
		return fmt.Errorf("keystone: unknown dataset %q", p.dataset)
	}
	body, err := p.ans.Body.Open()
	if err != nil {
		return fmt.Errorf("open the answer's body: %w", err)
	}
	defer body.Close()
	p.sample.levelRoom = levelRooms.Get().(*levelRoom)
	defer levelRooms.Put(p.sample.levelRoom)
	return p.inWords(p.document(body))
}

// inWords says of a body that does not even begin like our documents what it is instead.
func (p *pass) inWords(err error) error {
	var reject *etl.RejectError
	if !errors.As(err, &reject) || reject.Reason != "json_syntax" {
		return err
	}
	head, readErr := beginning(p.ans.Body, 256)
	if readErr != nil {
		return err
	}
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(head) == 0 || head[0] == '{' || head[0] == '[' {
		return err
	}
	media, _, _ := mime.ParseMediaType(p.ans.ContentType)
	if media == "" {
		media = "no content type"
	}
	words := accept.Excerpt(head[:min(len(head), 40)])
	said := &etl.RejectError{Reason: reject.Reason, Detail: fmt.Sprintf("the answer (%d, %s) is not JSON, it begins %q", p.ans.Status, media, words+"…")}
	if head[0] == '<' {
		said.Class = asContract("the vendor may be in maintenance")
	}
	return said
}

func (p *pass) document(body io.Reader) error {
	p.r = jsonread.New(body)
	kind, err := p.r.Kind()
	if err != nil {
		return err
	}
	if kind == jsonread.Array {
		envelopes := 0
		err = p.r.Array(func(i int) error {
			envelopes++
			if i > 0 {
				return p.refuse("envelope_multiple", "element %d beside the first", i)
			}
			return p.envelope()
		})
		if envelopes == 0 {
			p.note("envelope_unknown", "an empty array")
		}
	} else {
		err = p.envelope()
	}
	if err == nil {
		err = p.r.End()
	}
	if err == nil && p.verdict != nil {
		err = p.verdict
	}
	if p.r.BOM() {
		p.report.Warnings.Add("bom_stripped", "")
	}
	return err
}

// note keeps the first reason for which the whole answer is refused. A document that is not even
// JSON is refused for that, so the rest is still read.
func (p *pass) note(reason, format string, args ...any) {
	if p.verdict == nil {
		p.verdict = &etl.RejectError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
	}
}

// refuse is note for the value that comes next, which it skips.
func (p *pass) refuse(reason, format string, args ...any) error {
	p.note(reason, format, args...)
	return p.r.Skip()
}

// silent tells that nothing more of this reading will be kept.
func (p *pass) silent() bool { return p.verdict != nil || p.repeated != nil }

// envelope reads what wraps the records: R06.
func (p *pass) envelope() error {
	kind, err := p.r.Kind()
	if err != nil {
		return err
	}
	if kind != jsonread.Object {
		return p.refuse("envelope_unknown", "got %s, want an object with result or results", kind)
	}
	found := 0
	err = p.r.Object(func(name string) error {
		if name != "result" && name != "results" {
			return p.unknown(inTop, name)
		}
		if found++; found > 1 {
			return p.refuse("envelope_unknown", "both result and results")
		}
		return p.result(name)
	})
	if err == nil && found == 0 {
		p.note("envelope_unknown", "neither result nor results")
	}
	return err
}

func (p *pass) result(envelope string) error {
	kind, err := p.r.Kind()
	if err != nil {
		return err
	}
	if kind != jsonread.Object {
		return p.refuse("envelope_unknown", "%s is %s, want an object", envelope, kind)
	}
	count, records := countAbsent, false
	var countPath string
	err = p.r.Object(func(name string) error {
		switch name {
		case "returned_records":
			countPath = p.r.Path()
			v, err := p.r.Scalar()
			if err != nil {
				return err
			}
			if count, err = parseCount(v); err != nil {
				p.note("count_invalid", "returned_records %q: want a whole number", accept.Excerpt(v.Text))
			}
			return nil
		case "records":
			kind, err := p.r.Kind()
			if err != nil {
				return err
			}
			if kind != jsonread.Array {
				return p.refuse("envelope_unknown", "records is %s, want an array", kind)
			}
			records = true
			return p.r.Array(func(int) error {
				p.listed.records++
				return p.record()
			})
		case "request_parameters", "customer":
			return p.echo(name)
		case "request_id", "response_time":
			return p.r.Skip()
		}
		return p.unknown(inResult, name)
	})
	if err != nil {
		return err
	}
	if !records {
		p.note("envelope_unknown", "%s without records", envelope)
	}
	p.checkCount(count, countPath)
	if p.dataset == History && !p.echoed {
		p.report.Warnings.Add("identity_unverified", "")
	}
	return nil
}

const countAbsent = -1

// parseCount reads a non-negative integer or its text.
func parseCount(v jsonread.Scalar) (int, error) {
	invalid := fmt.Errorf("not a count")
	if (v.Kind != jsonread.Number && v.Kind != jsonread.String) || len(v.Text) == 0 || len(v.Text) > 18 {
		return countAbsent, invalid
	}
	n := 0
	for _, c := range v.Text {
		if c < '0' || c > '9' {
			return countAbsent, invalid
		}
		n = n*10 + int(c-'0')
	}
	return n, nil
}

// checkCount compares the vendor's count with everything that it may mean: R07.
func (p *pass) checkCount(count int, path string) {
	l := p.listed
	fits := count == l.records
	switch p.dataset {
	case Customers:
		fits = fits || count == l.customers || count == l.customers-l.repeated
	case History:
		fits = fits || count == l.levels || count == l.samples
	default:
		fits = fits || count == l.levels
	}
	switch {
	case count == countAbsent:
		p.report.Warnings.Add("count_absent", "")
	case !fits:
		p.report.Warnings.Add("count_mismatch", path)
		p.report.Mismatch = true
	}
}

// echo reads what the answer says about the question: R08. Only history documents it; where
// another answer names a customer, it must be ours as well.
func (p *pass) echo(member string) error {
	if p.dataset != History {
		p.drift(inResult, member)
	}
	kind, err := p.r.Kind()
	if err != nil || kind != jsonread.Object || p.dataset == Customers {
		if err == nil {
			err = p.r.Skip()
		}
		return err
	}
	return p.r.Object(func(name string) error {
		w := p.ans.Request.Window
		switch {
		case member == "customer" && name == "id", member == "request_parameters" && name == "customer_id":
			v, err := p.r.Scalar()
			if err != nil || v.Kind == jsonread.Null {
				return err
			}
			id, _, _ := accept.KeyText(v, true)
			if id != p.ans.Request.Scope {
				p.note("wrong_customer", "%s is %q, asked for %q", p.r.Path(), accept.Excerpt(v.Text), p.ans.Request.Scope)
			}
			p.echoed = true
			return nil
		case member == "customer" && name == "name":
			return p.r.Skip()
		case member == "request_parameters" && name == "from_date_utc":
			return p.echoDay(w.From, w.From)
		case member == "request_parameters" && name == "to_date_utc":
			return p.echoDay(w.Until-1, w.Until)
		case member == "customer":
			return p.unknown(inCustomer, name)
		}
		return p.unknown(inParameters, name)
	})
}

// echoDay compares the echo of one end of the window, which may be told as the last day in it or
// as the first day after it.
func (p *pass) echoDay(day, or etl.Day) error {
	v, err := p.r.Scalar()
	if err != nil || v.Kind == jsonread.Null || p.dataset != History {
		return err
	}
	at, _, reason := accept.Time(v)
	if got := etl.DayOf(at); reason != "" || (got != day && got != or) {
		p.report.Warnings.Add("range_echo_differs", p.r.Path())
	}
	return nil
}

// conclude makes the report, after the whole document was read and found good.
func (p *pass) conclude() (etl.Report, error) {
	if p.rows >= minRows && 2*p.bad > p.rows {
		return etl.Report{}, etl.Rejected("too_many_bad_rows", "%d of %d rows", p.bad, p.rows)
	}
	if p.dataset != Customers {
		p.report.Records = p.listed.records
	}
	return p.report, nil
}

const minRows = 10 // fewer rows say nothing about the whole: R11

// tally is what a part of the document amounts to. It is merged upwards once the part is accepted.
type tally struct {
	rows, bad                      int
	received, ignored, quarantined int
	warnings                       etl.Warnings
	rejects                        []etl.Reject
}

// warn counts a deviation; path is asked for only at the first.
func (t *tally) warn(name string, path func() string) {
	seen, ok := t.warnings[name]
	if !ok {
		seen.FirstPath = path()
		if t.warnings == nil {
			t.warnings = etl.Warnings{}
		}
	}
	seen.Count++
	t.warnings[name] = seen
}

func (t *tally) warnAll(names []string, path func() string) {
	for _, name := range names {
		t.warn(name, path)
	}
}

func (t *tally) add(u *tally) {
	t.rows += u.rows
	t.bad += u.bad
	t.received += u.received
	t.ignored += u.ignored
	t.quarantined += u.quarantined
	t.rejects = append(t.rejects, u.rejects...)
	if t.warnings == nil && len(u.warnings) > 0 {
		t.warnings = etl.Warnings{}
	}
	mergeWarnings(t.warnings, u.warnings)
}

func mergeWarnings(into, from etl.Warnings) {
	for name, w := range from {
		seen, ok := into[name]
		if !ok {
			seen.FirstPath = w.FirstPath
		}
		seen.Count += w.Count
		into[name] = seen
	}
}

// rejected is the tally of a part that is refused as a whole: it counts once, takes its children
// along, and only its own warnings remain.
func rejected(own etl.Warnings, reject etl.Reject) tally {
	return tally{rows: 1, bad: 1, received: 1, quarantined: 1, warnings: own, rejects: []etl.Reject{reject}}
}

// book puts a tally into the report and hands its rejects to the sink.
func (p *pass) book(t *tally) error {
	p.rows += t.rows
	p.bad += t.bad
	p.report.Received += t.received
	p.report.Ignored += t.ignored
	p.report.Quarantined += t.quarantined
	mergeWarnings(p.report.Warnings, t.warnings)
	if p.silent() {
		return nil
	}
	for _, r := range t.rejects {
		if err := p.sink.Reject(r); err != nil {
			return err
		}
	}
	return nil
}

// place is a kind of object in an answer, by its normalised path.
type place uint8

const (
	inTop place = iota
	inResult
	inParameters
	inCustomer
	inRecord
	inListedCustomer
	inSubscription
	inLevel
	inSample
)

func (pl place) String() string {
	return [...]string{
		"", "/results", "/results/request_parameters", "/results/customer", "/results/records/*",
		"/results/records/*/Customers/*", "/results/records/*/subscription",
		"/results/records/*/service_levels/*", "/results/records/*/service_levels/*/historical_consumption/*",
	}[pl]
}

type drift struct {
	in   place
	name string
}

const maxDrift = 100 // unknown members that are told; more would only fill memory

// drift notes an unknown member once: R31.
func (p *pass) drift(in place, name string) {
	d := drift{in, name}
	if p.drifted[d] || len(p.drifted) >= maxDrift {
		return
	}
	p.drifted[d] = true
	p.report.Drift = append(p.report.Drift, in.String()+"/"+accept.Excerpt([]byte(name)))
}

// unknown notes an unknown member and skips its value.
func (p *pass) unknown(in place, name string) error {
	p.drift(in, name)
	return p.r.Skip()
}

// excerptOf is refused text as people may see it.
func excerptOf(v jsonread.Scalar) string {
	if v.Kind == jsonread.Null {
		return "null"
	}
	return accept.Excerpt(v.Text)
}
