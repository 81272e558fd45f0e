package wolkvoxsim

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says how an answer goes wrong.
type Kind string

// The kinds. Reply is the default; those from BlankRow on spoil the rows of a
// good billing answer and leave other answers as they are.
const (
	Reply       Kind = "reply"       // Status (default 200) and Body, verbatim
	Maintenance Kind = "maintenance" // 403 and Body, by default a page that never says token
	TokenLimit  Kind = "token_limit" // 403 TOKEN LIMIT EXCEEDED, whatever the quota
	Concurrency Kind = "concurrency" // 403 EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS …, though alone
	BadToken    Kind = "bad_token"   // 403 PLEASE VALIDATE TOKEN, though it is the right one
	NoData      Kind = "no_data"     // 404 Validate dates entered
	Slow        Kind = "slow"        // the right answer after Delay (default 60 s)
	Skewed      Kind = "skewed"      // the right answer, dated with Skew (default 3 h)
	Close       Kind = "close"       // the connection closes without an answer
	Truncate    Kind = "truncate"    // Content-Length of the whole body, half of it, then close
	Redirect    Kind = "redirect"    // 302 to Header Location, by default a host that does not exist

	BlankRow       Kind = "blank_row"       // 200 with one row of blanks
	EmptyData      Kind = "empty_data"      // 200 with data []
	ZeroItems      Kind = "zero_items"      // items "0"
	DataObject     Kind = "data_object"     // data is the first row itself, not a list
	ErrorNull      Kind = "error_null"      // error is the text "null"
	DuplicateRows  Kind = "duplicate_rows"  // every row twice
	OtherOperation Kind = "other_operation" // rows of operation Body, by default "otra_demo"
	Items          Kind = "items"           // items is Body, verbatim
	ItemsInteger   Kind = "items_integer"   // items without its fraction: 31
	ItemsDecimal   Kind = "items_decimal"   // items with one: 31.5
	ItemsDuration  Kind = "items_duration"  // items as minutes on a clock: 00:31:00
	ItemsBlank     Kind = "items_blank"     // items ""
	ItemsDash      Kind = "items_dash"      // items "-"
)

var kinds = []Kind{
	Reply, Maintenance, TokenLimit, Concurrency, BadToken, NoData, Slow, Skewed, Close, Truncate, Redirect,
	BlankRow, EmptyData, ZeroItems, DataObject, ErrorNull, DuplicateRows, OtherOperation,
	Items, ItemsInteger, ItemsDecimal, ItemsDuration, ItemsBlank, ItemsDash,
}

// Fault is one scripted misbehaviour.
type Fault struct {
	API    string // "" any, token_info included
	Skip   int    // let so many matching requests pass first
	Count  int    // then spoil so many; 0 for ever
	Kind   Kind
	Status int           // of the answer; 0 leaves the kind's own
	Body   []byte        // for Reply, Maintenance, OtherOperation, Items
	Header http.Header   // added to the answer, or put in place of what is there
	Delay  time.Duration // real time before the answer, with any kind
	Skew   time.Duration // of the clock that dates the answer, with any kind: its Date is that much later than it is
}

// Inject adds a fault behind those already there. It panics on an unknown kind.
func (s *Sim) Inject(f Fault) {
	if f.Kind == "" {
		f.Kind = Reply
	}
	if !slices.Contains(kinds, f.Kind) {
		panic("wolkvoxsim: unknown kind of fault " + strconv.Quote(string(f.Kind)))
	}
	f.Body, f.Header = bytes.Clone(f.Body), f.Header.Clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// ClearFaults forgets every fault: the server behaves again.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// takeFault finds the fault that spoils a request for api, and counts it.
// The caller holds mu.
func (s *Sim) takeFault(api string) Fault {
	for i := range s.faults {
		f := &s.faults[i]
		if f.API != "" && f.API != api {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		taken := *f
		if f.Count == 1 {
			s.faults = slices.Delete(s.faults, i, i+1)
		} else if f.Count > 1 {
			f.Count--
		}
		return taken
	}
	return Fault{}
}

// serve sends the answer, spoiled as f says; the zero Fault spoils nothing. It
// calls leave before the last byte goes out, so that a client that has its
// answer is out of the log's flight.
func (f Fault) serve(w http.ResponseWriter, r *http.Request, a answer, leave func(status int)) {
	if f.Kind == Slow && f.Delay == 0 {
		f.Delay = 60 * time.Second
	}
	if f.Kind == Skewed && f.Skew == 0 {
		f.Skew = 3 * time.Hour
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return
		}
	}
	if f.Kind == Close {
		panic(http.ErrAbortHandler)
	}

	status, body := f.spoil(a)
	header := w.Header()
	header.Set("Content-Type", "application/json; charset=utf-8")
	if !bytes.HasPrefix(body, []byte("{")) && !bytes.HasPrefix(body, []byte("[")) {
		header.Set("Content-Type", "text/html; charset=utf-8")
	}
	if f.Kind == Redirect {
		header.Set("Location", "https://elsewhere.invalid"+r.URL.RequestURI())
	}
	if f.Skew != 0 {
		header.Set("Date", time.Now().Add(f.Skew).UTC().Format(http.TimeFormat))
	}
	for name, values := range f.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	if f.Kind == Truncate {
		header.Set("Content-Length", strconv.Itoa(len(body)))
		body = body[:len(body)/2]
	}

	leave(status)
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left is no error of ours
	if f.Kind == Truncate {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// spoil turns the right answer into the status and body to send.
func (f Fault) spoil(a answer) (int, []byte) {
	var verbatim []byte
	switch f.Kind {
	case Reply:
		a.status, verbatim = http.StatusOK, f.Body
	case Maintenance:
		a.status, verbatim = http.StatusForbidden, f.Body
		if len(verbatim) == 0 {
			verbatim = []byte("<html><body><h1>Forbidden</h1><p>Backup window, please come back later.</p></body></html>")
		}
	case Redirect:
		a.status, verbatim = http.StatusFound, []byte{}
	case TokenLimit:
		a = tokenLimit
	case Concurrency:
		a = tooMany
	case BadToken:
		a = badToken
	case NoData:
		a = noData
	}
	if rows, good := a.Data.([]row); good {
		a.envelope = f.spoilRows(a.envelope, rows)
	}
	if f.Status != 0 {
		a.status = f.Status
	}
	if f.Kind == Reply || verbatim != nil {
		return a.status, verbatim
	}
	return a.status, a.json()
}

func (f Fault) spoilRows(e envelope, rows []row) envelope {
	switch f.Kind {
	case EmptyData:
		e.Data = []row{}
	case BlankRow:
		blank := ""
		if e.Code == "200" {
			blank = " " // as the vendor's samples of these APIs have it
		}
		e.Data = []row{{Operation: blank, Description: blank, Items: blank, Date: blank}}
	case DataObject:
		e.Data = rows[0]
	case ErrorNull:
		e.Error = "null"
	case DuplicateRows:
		e.Data = slices.Concat(rows, rows)
	case OtherOperation:
		for i := range rows {
			rows[i].Operation = "otra_demo"
			if len(f.Body) > 0 {
				rows[i].Operation = string(f.Body)
			}
		}
	default:
		for i := range rows {
			rows[i].Items = f.items(rows[i])
		}
	}
	return e
}

// items rewrites one figure; kinds that have nothing to say leave it.
func (f Fault) items(r row) string {
	integer, _, _ := strings.Cut(r.number, ".")
	switch f.Kind {
	case Items:
		return string(f.Body)
	case ZeroItems:
		return "0"
	case ItemsBlank:
		return ""
	case ItemsDash:
		return "-"
	case ItemsInteger:
		return integer
	case ItemsDecimal:
		return integer + ".5"
	case ItemsDuration:
		minutes, _ := strconv.Atoi(integer)
		return fmt.Sprintf("%02d:%02d:00", minutes/60, minutes%60)
	}
	return r.Items
}

// ParseFault reads one fault as the package comment describes it.
func ParseFault(text string) (Fault, error) {
	text, body, hasBody := strings.Cut(text, " body=")
	words := strings.Fields(text)
	if len(words) == 0 {
		return Fault{}, fmt.Errorf("fault is empty, want KIND and key=value words")
	}
	f := Fault{Kind: Kind(words[0])}
	if !slices.Contains(kinds, f.Kind) {
		return Fault{}, fmt.Errorf("fault kind %q: want one of %v", words[0], kinds)
	}
	if hasBody {
		f.Body = []byte(body)
	}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "api":
			f.API = value
		case "skip":
			f.Skip, err = natural(value)
		case "count":
			f.Count, err = natural(value)
		case "status":
			f.Status, err = natural(value)
			if err == nil && (f.Status < 200 || f.Status > 599) {
				err = fmt.Errorf("%d: want 200 to 599", f.Status)
			}
		case "delay":
			f.Delay, err = time.ParseDuration(value)
		case "skew":
			f.Skew, err = time.ParseDuration(value)
		case "header":
			name, content, found := strings.Cut(value, ":")
			if !found || name == "" {
				err = fmt.Errorf("want header=NAME:VALUE")
			}
			if f.Header == nil {
				f.Header = http.Header{}
			}
			f.Header.Add(name, content)
		default:
			err = fmt.Errorf("unknown, want api, skip, count, delay, skew, status, header or body")
		}
		if err != nil {
			return Fault{}, fmt.Errorf("fault %s: %q: %w", f.Kind, word, err)
		}
	}
	return f, nil
}

func natural(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("want a whole number from 0")
	}
	return n, nil
}
