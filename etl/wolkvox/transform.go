package wolkvox

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/jsonread"
)

const (
	maxRows      = 60_000 // the vendor's own limit of one download; bounds memory
	maxDrift     = 100    // unknown members listed
	maxDriftPath = 200
	minRows      = 10 // R11 needs so many to tell drift from dirt
)

// Transform reads one answer by the acceptance rules. Rows reach the sink in the order of the
// answer, after all of it was read and found good. The operation must have been learned before,
// see LearnOperation.
func (a *Account) Transform(ans *etl.Answer, sink etl.Sink) (etl.Report, error) {
	t := &transformer{
		account: a,
		entry:   entryOf(ans.Request.Product),
		asked:   ans.RequestedAt.UTC(),
		today:   etl.DayOf(ans.RequestedAt.In(a.cfg.Zone)),
		wanted:  a.Operation(),
		report:  etl.Report{Warnings: etl.Warnings{}},
	}
	if ans.NoData {
		return t.report, nil
	}
	if ans.Status != 200 {
		return t.report, etl.Rejected("http_status", "status %d, want 200", ans.Status)
	}
	body, err := ans.Body.Open()
	if err != nil {
		return t.report, err
	}
	defer body.Close()
	if err := t.read(body); err != nil {
		return t.report, explain(ans.Body, err)
	}
	return t.report, t.emit(sink)
}

type transformer struct {
	account *Account
	entry   entry
	asked   time.Time
	today   etl.Day // of the request, in the vendor's zone
	wanted  string  // operation; "" until the first good row

	r      *jsonread.Reader
	report etl.Report
	cells  [4]cell
	rows   []row
	blank  int // rows without a reading
	wrong  int // rows of another operation

	data         jsonread.Kind // of the member data; 0 when it is missing
	code, errors cell
	msg          string
}

// cell is one member of a row as delivered.
type cell struct {
	present bool
	kind    jsonread.Kind
	text    []byte
}

func (c *cell) set(s jsonread.Scalar) {
	c.present, c.kind, c.text = true, s.Kind, append(c.text[:0], s.Text...)
}

// scalar is the cell's value; what is missing reads like null.
func (c *cell) scalar() jsonread.Scalar {
	if !c.present {
		return jsonread.Scalar{Kind: jsonread.Null}
	}
	return jsonread.Scalar{Kind: c.kind, Text: c.text}
}

func (c *cell) isBlank() bool {
	return c.present && (c.kind == jsonread.Null || c.kind == jsonread.String && len(accept.Trim(c.text)) == 0)
}

// The members of a row, in the order in which they are judged.
const (
	operation = iota
	description
	items
	date
)

var members = [4]string{"operation", "description", "items", "date"}

// row is a good reading, a refused one, or a repeated one.
type row struct {
	path     string
	reading  etl.LicenseReading
	reject   *etl.Reject
	repeated bool
}

func (t *transformer) warn(name, path string) { t.report.Warnings.Add(name, path) }

func (t *transformer) warnAll(names []string, path string) {
	for _, name := range names {
		t.warn(name, path)
	}
}

// read reads the whole document and judges it.
func (t *transformer) read(body io.Reader) error {
	t.r = jsonread.New(body)
	kind, err := t.r.Kind()
	if err != nil {
		return err
	}
	if t.r.BOM() {
		t.warn("bom_stripped", "")
	}
	if kind == jsonread.Object {
		err = t.r.Object(t.member)
	} else {
		err = t.r.Skip()
	}
	if err == nil {
		err = t.r.End()
	}
	switch {
	case err != nil:
		return err
	case kind != jsonread.Object:
		return etl.Rejected("envelope_unknown", "got %s, want an object", kind)
	}
	return t.judge()
}

// member reads one member of the envelope.
func (t *transformer) member(name string) error {
	switch name {
	case "code", "error", "msg":
		s, err := t.r.Scalar()
		if err != nil {
			return err
		}
		switch name {
		case "code":
			t.code.set(s)
		case "error":
			t.errors.set(s)
		default:
			t.msg = string(s.Text)
		}
		return nil
	case "data":
		kind, err := t.r.Kind()
		if err != nil {
			return err
		}
		switch t.data = kind; kind {
		case jsonread.Array:
			return t.r.Array(func(i int) error { return t.row("/data/" + strconv.Itoa(i)) })
		case jsonread.Object:
			t.warn("data_object", "/data")
			return t.row("/data")
		}
		return t.r.Skip()
	}
	t.drift("/" + escape(name))
	return t.r.Skip()
}

// escape makes a name a token of a JSON pointer.
func escape(name string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(name) }

// drift lists an unknown member once.
func (t *transformer) drift(path string) {
	if path = accept.Excerpt([]byte(path)); len(path) > maxDriftPath {
		path = strings.ToValidUTF8(path[:maxDriftPath], "") + "…"
	}
	if len(t.report.Drift) < maxDrift && !slices.Contains(t.report.Drift, path) {
		t.report.Drift = append(t.report.Drift, path)
	}
}

// row reads one row and judges it by itself.
func (t *transformer) row(path string) error {
	if t.report.Records == maxRows {
		return etl.Rejected("body_too_large", "more than %d rows", maxRows)
	}
	kind, err := t.r.Kind()
	if err != nil {
		return err
	}
	t.report.Records++
	t.report.Received++
	if kind != jsonread.Object {
		s, err := t.r.Scalar()
		t.rows = append(t.rows, row{path: path, reject: t.refused(path, "type_mismatch", s.Text)})
		return err
	}
	for i := range t.cells {
		t.cells[i].present = false
	}
	err = t.r.Object(func(name string) error {
		known := slices.Index(members[:], name)
		if known < 0 {
			t.drift("/data/*/" + escape(name))
			return t.r.Skip()
		}
		s, err := t.r.Scalar()
		if err == nil {
			t.cells[known].set(s)
		}
		return err
	})
	if err == nil {
		t.take(path)
	}
	return err
}

// take turns the cells of a row into a reading or a reject.
func (t *transformer) take(path string) {
	c := &t.cells
	if c[operation].isBlank() && c[description].isBlank() && c[items].isBlank() && c[date].isBlank() {
		t.warn("no_reading", path)
		t.blank++
		t.report.Ignored++
		return
	}
	got := row{path: path, reading: etl.LicenseReading{Product: t.entry.Code, ReadAt: t.asked}}
	if at, reason := t.fill(path, &got.reading); reason != "" {
		got.reject = t.refused(path+"/"+members[at], reason, c[at].text)
		if !c[at].present {
			got.reject.Excerpt = ""
		}
		if known, _, unknown := accept.KeyText(c[description].scalar(), false); unknown == "" {
			got.reject.Description = known
		}
		if reason == "wrong_operation" {
			t.wrong++
		}
	} else if t.wanted == "" {
		t.wanted = got.reading.Operation
	}
	t.rows = append(t.rows, got)
}

// fill judges the cells one after the other; at is the one for which the row is refused.
func (t *transformer) fill(path string, to *etl.LicenseReading) (at int, reason string) {
	var warnings []string
	c := &t.cells
	to.Operation, warnings, reason = accept.KeyText(c[operation].scalar(), false)
	t.warnAll(warnings, path+"/operation")
	if reason == "" && t.wanted != "" && to.Operation != t.wanted {
		reason = "wrong_operation"
	}
	if reason != "" {
		return operation, reason
	}
	to.Description, warnings, reason = accept.KeyText(c[description].scalar(), false)
	t.warnAll(warnings, path+"/description")
	if reason != "" {
		return description, reason
	}
	to.Items, to.ItemsText, warnings, reason = acceptItems(c[items].scalar(), t.entry)
	t.warnAll(warnings, path+"/items")
	if reason != "" {
		return items, reason
	}
	to.LocalDate, warnings, reason = t.date(c[date].scalar())
	t.warnAll(warnings, path+"/date")
	return date, reason
}

// date reads the local day of a row: R29. The field is the date of the question, so what cannot be
// read is the request's day; but a day that is read must fit, or the answer is about another time.
func (t *transformer) date(s jsonread.Scalar) (day etl.Day, warnings []string, reason string) {
	day, warnings, ok := t.localDay(s)
	switch {
	case !ok:
		return t.today, []string{"date_from_request"}, ""
	case day > t.today+1:
		return 0, warnings, "time_future"
	case day.Month() != t.today.Month():
		return 0, warnings, "out_of_month"
	}
	return day, warnings, ""
}

func (t *transformer) localDay(s jsonread.Scalar) (day etl.Day, warnings []string, ok bool) {
	if s.Kind != jsonread.String {
		return 0, nil, false
	}
	const dateLength = len("2006-01-02")
	text := accept.Trim(s.Text)
	if len(text) != len(s.Text) {
		warnings = []string{"trimmed"}
	}
	if day, ok := accept.Date(text); ok {
		return day, warnings, true
	}
	if len(text) == len("2006-01-02 15:04:05") && text[dateLength] == ' ' { // the vendor's zone
		day, ok := accept.Date(text[:dateLength])
		_, ok2 := accept.Clock(text[dateLength+1:])
		return day, warnings, ok && ok2 && !bytes.HasSuffix(text, []byte(":60"))
	}
	at, more, reason := accept.Time(jsonread.Scalar{Kind: jsonread.String, Text: text})
	if reason != "" {
		return 0, nil, false
	}
	return etl.DayOf(at.In(t.account.cfg.Zone)), append(warnings, more...), true
}

// refused makes a reject of refused text.
func (t *transformer) refused(path, reason string, text []byte) *etl.Reject {
	return &etl.Reject{Path: path, Reason: reason, Excerpt: accept.Excerpt([]byte(t.account.redact(string(text))))}
}

// judge settles what concerns more than one row, and the answer as a whole.
func (t *transformer) judge() error {
	if err := t.envelope(); err != nil {
		return err
	}
	t.settleRepeats()
	for i := range t.rows {
		switch got := &t.rows[i]; {
		case got.reject != nil:
			t.report.Quarantined++
		case got.repeated:
			t.report.Ignored++
			t.warn("duplicate_row", got.path)
		}
	}
	switch {
	case t.wrong > 0 && t.wrong == t.report.Received-t.blank:
		return etl.Rejected("wrong_operation", "all rows are of another operation than %q: is the server the right one?", t.wanted)
	case t.report.Received >= minRows && 2*t.report.Quarantined > t.report.Received:
		return etl.Rejected("too_many_bad_rows", "%d of %d rows", t.report.Quarantined, t.report.Received)
	}
	return nil
}

// envelope checks code, error and data: R06 and R10.
func (t *transformer) envelope() error {
	isList := t.data == jsonread.Array || t.data == jsonread.Object
	failed := t.code.present && !t.isSuccess() || !t.isNoError()
	switch {
	case failed || isList && !t.code.present:
		return etl.Rejected("vendor_error", "code %q, error %q, message %q",
			t.account.excerpt(string(t.code.text)), t.account.excerpt(string(t.errors.text)), t.account.excerpt(t.msg))
	case t.data == 0:
		return etl.Rejected("envelope_unknown", "no member data")
	case !isList:
		return etl.Rejected("envelope_unknown", "data is %s, want an array", t.data)
	}
	return nil
}

var successCodes = []etl.Decimal{etl.NewDecimal(200), etl.NewDecimal(0), etl.NewDecimal(201), etl.NewDecimal(202)}

func (t *transformer) isSuccess() bool {
	switch t.code.kind {
	case jsonread.Number:
		code, err := etl.ParseDecimal(t.code.text)
		return err == nil && slices.ContainsFunc(successCodes, code.Equal)
	case jsonread.String:
		return slices.Contains([]string{"200", "0", ""}, string(accept.Trim(t.code.text)))
	}
	return false
}

func (t *transformer) isNoError() bool {
	if !t.errors.present {
		return true
	}
	text := string(accept.Trim(t.errors.text))
	switch t.errors.kind {
	case jsonread.Null:
		return true
	case jsonread.Bool:
		return text == "false"
	case jsonread.String:
		return text == "" || text == "null"
	}
	return false
}

// settleRepeats finds rows of one operation, description and day: R21. Equal ones count once; if
// any two differ, order must not decide and all of them are refused.
func (t *transformer) settleRepeats() {
	type key struct {
		operation, description string
		day                    etl.Day
	}
	keyOf := func(r *row) key { return key{r.reading.Operation, r.reading.Description, r.reading.LocalDate} }
	first := make(map[key]int, len(t.rows))
	conflicts := map[key]bool{}
	for i := range t.rows {
		got := &t.rows[i]
		if got.reject != nil {
			continue
		}
		k := keyOf(got)
		before, seen := first[k]
		switch {
		case !seen:
			first[k] = i
		case t.rows[before].reading.Items.Equal(got.reading.Items):
			got.repeated = true
		default:
			conflicts[k] = true
		}
	}
	for i := range t.rows {
		got := &t.rows[i]
		if got.reject != nil || !conflicts[keyOf(got)] {
			continue
		}
		day := got.reading.LocalDate
		got.reject = t.refused(got.path, "conflicting_duplicate", []byte(got.reading.ItemsText))
		got.reject.Description, got.reject.Day = got.reading.Description, &day
	}
}

// emit hands the rows to the sink.
func (t *transformer) emit(sink etl.Sink) error {
	for i := range t.rows {
		var err error
		switch got := &t.rows[i]; {
		case got.reject != nil:
			err = sink.Reject(*got.reject)
		case !got.repeated:
			err = sink.License(got.reading)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
