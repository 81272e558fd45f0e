package keystonesim

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is one thing that goes wrong. Faults are offered each request in the
// order they were injected; the first that is due takes it, and those behind
// it do not see it. So "429 once" followed by "504 once" hits the first
// request with 429 and the second with 504.
type Fault struct {
	Kind  FaultKind
	Path  string // a substring of the request's path; "" is any
	Skip  int    // let this many matching requests pass first
	Count int    // then apply to this many; 0 = for ever

	Status  int           // Status: default 500; Replace: default 200; Redirect: default 302
	Body    []byte        // Status: default a body that fits; Replace: verbatim
	Header  http.Header   // added to the answer: Retry-After, Location, Content-Encoding …
	MaxDays int           // LongWindow504
	Delay   time.Duration // waited first, by any kind, unless the client leaves; Drip: between bytes, default 1 s
	Skew    time.Duration // of the clock that dates the answer, of any kind: its Date is that much later than it is
}

// FaultKind says what a Fault does.
type FaultKind int

const (
	Status        FaultKind = iota // answers Status, Body and Header instead of asking the vendor
	ExpireAccess                   // the presented access token has expired, from now on
	LongWindow504                  // 504 for history windows longer than MaxDays; others pass uncounted
	Replace                        // 200 with Body, verbatim
	Truncate                       // Content-Length says the whole answer, half of it comes
	CutChunked                     // chunked, cut before the last chunk
	CutSilent                      // HTTP/1.0 without a length, cut in the middle: no error at the reader
	Close                          // connection closed without an answer
	SpendAndDrop                   // token exchange: spends the token, then closes without an answer
	Redirect                       // to Header's Location
	Slow                           // only the Delay, then the true answer
	Skewed                         // only the Skew, of the true answer
	Drip                           // the true answer, byte by byte
	Endless                        // blanks until the client leaves
	Gzip                           // the true answer, compressed whether asked for or not
	Bomb                           // gzip of 200 MiB of blanks
	Empty                          // the true answer without its records
)

var faultNames = map[FaultKind]string{
	Status: "status", ExpireAccess: "expire", LongWindow504: "long", Replace: "replace",
	Truncate: "truncate", CutChunked: "cutchunked", CutSilent: "cutsilent", Close: "close",
	SpendAndDrop: "drop", Redirect: "redirect", Slow: "slow", Skewed: "skewed", Drip: "drip", Endless: "endless",
	Gzip: "gzip", Bomb: "bomb", Empty: "empty",
}

// String returns the kind's name in ParseFault's grammar.
func (k FaultKind) String() string { return faultNames[k] }

// scripted is a Fault and how many requests it has been offered.
type scripted struct {
	Fault
	offered int
}

// Inject adds a fault behind those injected before.
func (s *Sim) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &scripted{Fault: f})
}

// ClearFaults takes all faults away; from now on the vendor is well.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// nextFault is the fault due for this request, if any. The caller holds mu.
func (s *Sim) nextFault(c *call) *Fault {
	for _, f := range s.faults {
		if !f.concerns(c) {
			continue
		}
		f.offered++
		if f.offered > f.Skip && (f.Count == 0 || f.offered <= f.Skip+f.Count) {
			return &f.Fault
		}
	}
	return nil
}

func (f *Fault) concerns(c *call) bool {
	if !strings.Contains(c.URL.Path, f.Path) {
		return false
	}
	switch f.Kind {
	case SpendAndDrop:
		return isToken(c.URL.Path)
	case ExpireAccess, Empty:
		return !isToken(c.URL.Path)
	case LongWindow504:
		from, to, ok := bounds(c.form)
		return c.URL.Path == historyPath && ok && to.Sub(from) > time.Duration(f.MaxDays)*daily
	}
	return true
}

// suffer answers c the way f wants it.
func (s *Sim) suffer(w *statusWriter, c *call, f Fault) {
	if f.Delay > 0 && f.Kind != Drip {
		if !pause(c.Context(), f.Delay) {
			panic(http.ErrAbortHandler)
		}
	}
	for name, values := range f.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	if f.Skew != 0 {
		w.Header().Set("Date", time.Now().Add(f.Skew).UTC().Format(http.TimeFormat))
	}
	switch f.Kind {
	case Status:
		plainAnswer(w, or(f.Status, http.StatusInternalServerError), f.Body)
	case LongWindow504:
		plainAnswer(w, http.StatusGatewayTimeout, f.Body)
	case Redirect:
		w.WriteHeader(or(f.Status, http.StatusFound))
	case Replace:
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(or(f.Status, http.StatusOK))
		_, _ = w.Write(f.Body)
	case ExpireAccess:
		s.mu.Lock()
		if _, known := s.tokens.access[c.token]; known {
			s.tokens.access[c.token] = s.cfg.TokenNow()
		}
		s.mu.Unlock()
		s.answer(w, c)
	case SpendAndDrop:
		s.answer(newHeld(), c)
		panic(http.ErrAbortHandler)
	case Close:
		panic(http.ErrAbortHandler)
	case Empty:
		c.empty = true
		s.answer(w, c)
	case Endless:
		spew(w, bytes.Repeat([]byte(" "), 64<<10), 0)
	case Bomb:
		w.Header().Set("Content-Encoding", "gzip")
		spew(w, squeeze(bytes.Repeat([]byte(" "), 1<<20)), 200) // members of one gzip stream
	case Truncate, CutChunked, CutSilent, Drip, Gzip:
		whole := newHeld()
		s.answer(whole, c)
		s.mangle(w, c, f, whole)
	default: // Slow, Skewed
		s.answer(w, c)
	}
}

// mangle sends a finished answer in an unusual way.
func (s *Sim) mangle(w *statusWriter, c *call, f Fault, whole *held) {
	for name, values := range whole.header {
		w.Header()[name] = values
	}
	body := whole.Bytes()
	half := body[:len(body)/2]
	switch f.Kind {
	case Gzip:
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(whole.status)
		_, _ = w.Write(squeeze(body))
	case Drip:
		w.WriteHeader(whole.status)
		for i := range body {
			_, _ = w.Write(body[i : i+1])
			_ = http.NewResponseController(w).Flush()
			if !pause(c.Context(), or(f.Delay, time.Second)) {
				panic(http.ErrAbortHandler)
			}
		}
	case Truncate, CutChunked:
		if f.Kind == Truncate {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(whole.status)
		_, _ = w.Write(half)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case CutSilent:
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler) // HTTP/2 knows no such answer
		}
		defer conn.Close()
		w.status = whole.status
		fmt.Fprintf(conn, "HTTP/1.0 %d %s\r\nContent-Type: application/json\r\n\r\n%s", whole.status, http.StatusText(whole.status), half)
	}
}

// spew writes chunk times times, 0 for ever, until the client leaves.
func spew(w http.ResponseWriter, chunk []byte, times int) {
	w.Header().Set("Content-Type", "application/json")
	for i := 0; times == 0 || i < times; i++ {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func squeeze(body []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(body) // a bytes.Buffer takes everything
	_ = z.Close()
	return b.Bytes()
}

// plainAnswer answers with a body that fits the status if none is given: JSON
// as the vendor's gateway writes it, HTML for the proxy's 502.
func plainAnswer(w http.ResponseWriter, status int, body []byte) {
	kind := "application/json"
	if body == nil {
		switch status {
		case http.StatusBadGateway:
			kind, body = "text/html", []byte("<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n")
		case http.StatusGatewayTimeout:
			body = []byte(`{"message":"Endpoint request timed out"}`)
		case http.StatusNoContent, http.StatusNotModified:
		default:
			body = []byte(`{"message":` + quote(http.StatusText(status)) + `}`)
		}
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", kind)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// pause waits for d and reports whether the client is still there.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// held is an answer kept back.
type held struct {
	bytes.Buffer
	header http.Header
	status int
}

func newHeld() *held { return &held{header: http.Header{}, status: http.StatusOK} }

func (h *held) Header() http.Header    { return h.header }
func (h *held) WriteHeader(status int) { h.status = status }

var _ io.Writer = (*held)(nil)

// places are the endpoints' short names in ParseFault's grammar.
var places = map[string]string{
	"any": "", "token": "/tokens/", "customers": "/keystone/customers",
	"subscriptions": "/subscriptions-info", "current": "/consumption-details", "history": "/historical-consumption-details",
}

// ParseFault reads a fault from a command line:
//
//	[keystone:]WHAT[:WHERE[:OPTION[,OPTION…]]]
//
//	WHAT    a status, 200 to 599, or one of expire, long, replace, truncate,
//	        cutchunked, cutsilent, close, drop, redirect, slow, skewed, drip,
//	        endless, gzip, bomb, empty: the FaultKind of that name
//	WHERE   any (default), token, customers, subscriptions, current, history,
//	        or a piece of a path that begins with a slash
//	OPTION  skip=N, count=N (default: for ever), days=N (long; default 31),
//	        delay=DURATION (slow; default 5s), skew=DURATION (skewed; default
//	        3h, negative for a clock that is behind), retry=SECONDS (a Retry-After
//	        header), status=N, body=TEXT (must come last, commas included),
//	        to=URL (redirect needs it)
//
// For example 504:history, 429:any:count=2,retry=30, long:history:days=7,
// drop:token:count=1 and keystone:slow:current:delay=90s.
func ParseFault(text string) (Fault, error) {
	bad := func(want string) (Fault, error) {
		return Fault{}, fmt.Errorf("fault %q: want %s", text, want)
	}
	fields := strings.SplitN(strings.TrimPrefix(text, "keystone:"), ":", 3)
	f := Fault{Header: http.Header{}, MaxDays: 31}

	if n, err := strconv.Atoi(fields[0]); err == nil && n >= 200 && n <= 599 {
		f.Status = n
	} else {
		found := false
		for kind, name := range faultNames {
			if name == fields[0] && kind != Status {
				f.Kind, found = kind, true
			}
		}
		if !found {
			names := slices.Sorted(maps.Values(faultNames))
			return bad("a status from 200 to 599 or one of " + strings.Join(names, ", ") + " first")
		}
	}
	if len(fields) > 1 {
		path, known := places[fields[1]]
		switch {
		case known:
			f.Path = path
		case strings.HasPrefix(fields[1], "/"):
			f.Path = fields[1]
		default:
			return bad("any, token, customers, subscriptions, current, history or a path as second field")
		}
	}
	if len(fields) > 2 {
		for rest := fields[2]; rest != ""; {
			var option string
			if strings.HasPrefix(rest, "body=") {
				option, rest = rest, ""
			} else {
				option, rest, _ = strings.Cut(rest, ",")
			}
			if !f.set(option) {
				return bad("an option like skip=1, count=2, days=7, delay=5s, skew=3h, retry=30, status=503, body=…, to=https://…, not " + strconv.Quote(option))
			}
		}
	}
	if f.Kind == Slow && f.Delay == 0 {
		f.Delay = 5 * time.Second
	}
	if f.Kind == Skewed && f.Skew == 0 {
		f.Skew = 3 * time.Hour
	}
	if f.Kind == Redirect && f.Header.Get("Location") == "" {
		return bad("to=URL for a redirect")
	}
	return f, nil
}

// set applies one option and reports whether it could be read.
func (f *Fault) set(option string) bool {
	name, value, _ := strings.Cut(option, "=")
	number := func(into *int) bool {
		n, err := strconv.Atoi(value)
		*into = n
		return err == nil && n >= 0
	}
	switch name {
	case "skip":
		return number(&f.Skip)
	case "count":
		return number(&f.Count)
	case "days":
		return number(&f.MaxDays)
	case "status":
		return number(&f.Status) && f.Status >= 200 && f.Status <= 599
	case "delay":
		d, err := time.ParseDuration(value)
		f.Delay = d
		return err == nil && d >= 0
	case "skew":
		d, err := time.ParseDuration(value)
		f.Skew = d
		return err == nil
	case "retry":
		var seconds int
		f.Header.Set("Retry-After", value)
		return number(&seconds)
	case "to":
		f.Header.Set("Location", value)
		return value != ""
	case "body":
		f.Body = []byte(value)
		return true
	}
	return false
}
