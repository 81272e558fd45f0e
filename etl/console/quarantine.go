package console

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

var quarantineTable = &table{
	name:    "quarantine",
	caption: "Records that were refused, the newest first. Times in UTC.",
	columns: []column{
		{name: "quarantine_id", title: "Record", kind: isNumber, sort: true, link: "/quarantine/{quarantine_id}"},
		{name: "dataset", title: "Dataset"},
		{name: "scope", title: "Scope"},
		{name: "reason", title: "Rule"},
		{name: "path", title: "Path", kind: isCode},
		{name: "excerpt", title: "Excerpt", kind: isCode},
		{name: "quarantined_at", title: "Refused at", kind: isTime},
		{name: "state", title: "State", kind: isStatus},
	},
	filters: []filter{
		{name: "state", label: "State", choices: []string{"open", "resolved"}, initial: "open"},
		{name: "dataset", label: "Dataset", query: "select distinct dataset from mart.freshness order by dataset"},
		{name: "reason", label: "Rule", query: "select distinct reason from mart.quarantine where resolved_at is null order by reason"},
		{name: "q", label: "Scope, path or text"},
	},
	order: "quarantine_id desc", key: "quarantine_id",
	empty: "Nothing is in quarantine here.",
}

func quarantinePage() page {
	return page{path: "/quarantine", nav: "Quarantine", template: "list", tables: []*table{quarantineTable}, load: func(v *view) (content, error) {
		l, err := v.list(quarantineTable)
		return content{Title: "Quarantine", Data: l}, err
	}}
}

// refused is what templates/refused.html is given.
type refused struct {
	Record    record
	MayRead   bool
	Around    string // the record in the answer, and what it stood in
	Where     string // JSON pointer of Around
	CanSettle bool
	CanRetry  bool
	Decision  *decision // about reading it again
}

func refusedPage() page {
	return page{path: "/quarantine/{id}", template: "refused", load: func(v *view) (content, error) {
		id, err := number(v.r)
		if err != nil {
			return content{}, err
		}
		var d refused
		var found bool
		if d.Record, found, err = v.one(v.s.sql("refused"), id); err != nil || !found {
			return content{}, missing(err)
		}
		d.MayRead = v.who.MayRead() && v.s.cfg.Body != nil
		if d.MayRead && !d.Record["payload_id"].Null {
			var payload int64
			if _, err := fmt.Sscan(d.Record["payload_id"].Text, &payload); err != nil {
				return content{}, err
			}
			if body, err := v.s.cfg.Body(v.ctx, payload); err == nil {
				d.Around, d.Where = around(body, jsontext.Pointer(d.Record["path"].Text))
				_ = body.Close()
			} else {
				v.s.cfg.Log.Warn("body not shown", "payload", payload, "error", err)
			}
		}
		c := content{Title: fmt.Sprintf("Refused record %d", id)}
		if v.who.Role >= Operator {
			if d.Decision = v.s.decisions.of(aboutRecord(id)); d.Decision.IsOn() {
				c.Refresh = refreshEvery
			}
			isOpen := d.Record["resolved_at"].Null && !d.Decision.IsOn()
			d.CanSettle, d.CanRetry = isOpen && v.s.cfg.Dismiss != nil, isOpen && v.s.cfg.Retry != nil
		}
		c.Data = d
		return c, nil
	}}
}

const (
	mostAround = 16 << 10 // bytes of what is shown of an answer
	mostRead   = 64 << 20 // bytes of an answer that are looked through
)

// around is the value in a JSON text at a pointer with what it is a member of, when that is not too much;
// nothing when the text is not JSON or has no such value.
func around(body io.Reader, at jsontext.Pointer) (text, where string) {
	if !at.IsValid() {
		return "", ""
	}
	whole := at
	if _, err := strconv.Atoi(at.LastToken()); err != nil { // an element of a list stands for itself
		whole = at.Parent()
	}
	value := find(io.LimitReader(body, mostRead), whole)
	if len(value) > mostAround && whole != at {
		value, whole = find(bytes.NewReader(value), at[len(whole):]), at
	}
	if value == nil {
		return "", ""
	}
	if indented(value) <= 4*mostShown {
		_ = value.Indent(jsontext.WithIndent("  ")) // it is valid
	}
	return readable([]byte(clip(string(value), mostAround)), true), string(whole)
}

// find reads a JSON text up to the value at a pointer; nil when there is none.
func find(body io.Reader, at jsontext.Pointer) jsontext.Value {
	buffered := bufio.NewReader(body)
	if mark, err := buffered.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = buffered.Discard(3)
	}
	d := jsontext.NewDecoder(buffered, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for token := range at.Tokens() {
		switch d.PeekKind() {
		case '{':
			_, _ = d.ReadToken()
			for {
				name, err := d.ReadToken()
				if err != nil || name.Kind() != '"' {
					return nil
				}
				if name.String() == token {
					break
				}
				if d.SkipValue() != nil {
					return nil
				}
			}
		case '[':
			_, _ = d.ReadToken()
			n, err := strconv.Atoi(token)
			for ; err == nil && n > 0; n-- {
				err = d.SkipValue()
			}
			if err != nil || d.PeekKind() == ']' {
				return nil
			}
		default:
			return nil
		}
	}
	value, err := d.ReadValue()
	if err != nil {
		return nil
	}
	return value.Clone()
}
