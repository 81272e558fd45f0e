package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

var runColumns = []column{
	{name: "run_id", title: "Run", kind: isNumber, sort: true, link: "/runs/{run_id}"},
	{name: "dataset", title: "Dataset"},
	{name: "scope", title: "Scope"},
	{name: "window_text", title: "Window"},
	{name: "status", title: "Status", kind: isStatus},
	{name: "started_at", title: "Started", kind: isTime},
	{name: "took", title: "Took, s", kind: isNumber},
	{name: "received", title: "Received", kind: isNumber},
	{name: "inserted", title: "Inserted", kind: isNumber},
	{name: "restated", title: "Restated", kind: isNumber},
	{name: "unchanged", title: "Unchanged", kind: isNumber},
	{name: "quarantined", title: "Refused", kind: isNumber},
}

var runsTable = &table{
	name:    "runs",
	caption: "Attempts to load one window of one scope, the newest first. Times in UTC, counts in records.",
	columns: runColumns,
	filters: []filter{
		{name: "q", label: "Scope"},
		{name: "dataset", label: "Dataset", query: "select distinct dataset from mart.freshness order by dataset"},
		{name: "status", label: "Status", choices: []string{"running", "ok", "partial", "failed"}},
	},
	order: "run_id desc", key: "run_id", isKeyFirst: true,
	empty: "There is no such run.",
}

func runsPage() page {
	return page{path: "/runs", nav: "Runs", template: "list", tables: []*table{runsTable}, load: func(v *view) (content, error) {
		l, err := v.list(runsTable)
		return content{Title: "Runs", Data: l}, err
	}}
}

// runDetail is what templates/run.html is given.
type runDetail struct {
	Run      record
	Refused  []record
	Payloads []record
	Replays  []record
	CanLoad  bool
}

const refreshEvery = 2 // seconds

func runPage() page {
	return page{path: "/runs/{id}", template: "run", load: func(v *view) (content, error) {
		id, err := number(v.r)
		if err != nil {
			return content{}, err
		}
		var d runDetail
		var found bool
		if d.Run, found, err = v.one(v.s.sql("run"), id); err != nil || !found {
			return content{}, missing(err)
		}
		for _, part := range []struct {
			query string
			to    *[]record
		}{{"run_refused", &d.Refused}, {"run_payloads", &d.Payloads}, {"run_replays", &d.Replays}} {
			result, err := v.query(v.s.sql(part.query), id)
			if err != nil {
				return content{}, err
			}
			*part.to = result.records()
		}
		d.CanLoad = v.s.cfg.Loads != nil && v.who.Role >= Operator && d.Run["status"].Text != "running"
		c := content{Title: fmt.Sprintf("Run %d", id), Data: d}
		if d.Run["status"].Text == "running" {
			c.Refresh = refreshEvery
		}
		return c, nil
	}}
}

// missing is the error for what was not found.
func missing(err error) error {
	if err == nil {
		return errNotThere
	}
	return err
}

// follow is what templates/follow.html is given.
type follow struct {
	Dataset, Scope string
	Progress       Progress
	Runs           []record
	IsOver         bool
}

// followPage shows a load that somebody began, run by run, until it is over. Who began it is led to one that asks again
// by itself.
func followPage() page {
	return page{path: "/loads/{id}", template: "follow", load: func(v *view) (content, error) {
		id, err := number(v.r)
		if err != nil {
			return content{}, err
		}
		if v.s.cfg.Loads == nil {
			return content{}, errNotThere
		}
		asked := v.r.URL.Query()
		f := follow{Dataset: asked.Get("dataset"), Scope: asked.Get("scope")}
		after, err := strconv.ParseInt(asked.Get("after"), 10, 64)
		if err != nil {
			after = 0
		}
		// How it stands first: when it is over, all its runs are there to be read.
		if f.Progress, err = v.s.cfg.Loads.Progress(v.ctx, id); err != nil {
			return content{}, err
		}
		result, err := v.query(v.s.sql("load_runs"), strings.ToValidUTF8(f.Dataset, ""), strings.ToValidUTF8(f.Scope, ""), after)
		if err != nil {
			return content{}, err
		}
		f.Runs = result.records()
		c := content{Title: "Load now", Data: f}
		if !f.Progress.IsOver {
			c.Refresh = refreshEvery
		}
		return c, nil
	}}
}

// payloadDetail is what templates/payload.html is given.
type payloadDetail struct {
	Payload record
	MayRead bool
	Text    string // of the body, made readable
	Cut     bool   // there is more
	Broken  string // why it cannot be shown
}

const mostShown = 1 << 20 // bytes of a body on a page

func payloadPage() page {
	return page{path: "/payloads/{id}", template: "payload", load: func(v *view) (content, error) {
		id, err := number(v.r)
		if err != nil {
			return content{}, err
		}
		d := payloadDetail{MayRead: v.who.MayRead() && v.s.cfg.Body != nil}
		var found bool
		if d.Payload, found, err = v.one(v.s.sql("payload"), id); err != nil || !found {
			return content{}, missing(err)
		}
		if d.MayRead {
			text, cut, err := v.body(id, mostShown)
			if err != nil {
				v.s.cfg.Log.Warn("body not shown", "payload", id, "error", err)
				d.Broken = "The body cannot be read: the log says why."
			}
			d.Text, d.Cut = readable(text, cut), cut
		}
		return content{Title: fmt.Sprintf("Landed answer %d", id), Data: d}, nil
	}}
}

// body is the beginning of a landed body.
func (v *view) body(id int64, most int64) (text []byte, cut bool, err error) {
	body, err := v.s.cfg.Body(v.ctx, id)
	if err != nil {
		return nil, false, err
	}
	defer body.Close()
	text, err = io.ReadAll(io.LimitReader(body, most+1))
	if int64(len(text)) > most {
		return text[:most], true, err
	}
	return text, false, err
}

// readable indents JSON, with every digit and in its order; anything else is shown as it is.
func readable(text []byte, cut bool) string {
	var b bytes.Buffer
	if bare := bytes.TrimPrefix(text, []byte("\ufeff")); !cut && indented(bare) <= 4*mostShown && json.Indent(&b, bare, "", "  ") == nil {
		text = b.Bytes()
	}
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\ufffd"))
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' && r != '\r' {
			return '\ufffd'
		}
		return r
	}, string(text))
}

// indented is how many bytes a JSON text has at most when it is indented by two blanks: in one that is nested deep,
// each comma may bring thousands.
func indented(text []byte) (size int) {
	depth, inString, escaped := 0, false, false
	for _, c := range text {
		size++
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped, inString = c == '\\', c != '"'
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			depth++
			size += 1 + 2*depth
		case c == '}' || c == ']':
			depth = max(depth-1, 0)
			size += 1 + 2*depth
		case c == ',':
			size += 1 + 2*depth
		case c == ':':
			size++
		}
	}
	return size
}
