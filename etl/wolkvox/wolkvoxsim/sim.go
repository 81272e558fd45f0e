package wolkvoxsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
	_ "time/tzdata" // the vendor's zone must exist on any machine
)

// Config describes one fake server. The zero value of a field means its default.
type Config struct {
	Seed      uint64
	Now       func() time.Time // business clock of the readings. Default time.Now
	Operation string           // default "andina_demo"
	Zone      *time.Location   // default America/Bogota
	Token     string           // the accepted wolkvox-token. Default derived from Seed
	Licenses  int              // daily quota = max(25, Licenses) × 1000. Default 25
	Quota     int              // daily quota, whatever the licences; 0: by them
	Missing   []string         // APIs this server does not have; they answer 404
}

// Sim is one fake server. It is safe for concurrent use.
type Sim struct {
	cfg   Config
	quota int

	mu       sync.Mutex
	requests []Request
	flying   int    // requests in flight, refused ones included
	peak     int    // most requests ever in flight
	busy     int    // calls of the token in flight: the vendor allows two
	day      string // local date the two counts below belong to
	used     int    // calls of this token
	others   int    // calls of the operation's other tokens, see Spend
	faults   []Fault
}

// Request is one line of the log. It never holds a token.
type Request struct {
	Start  time.Time // the clock value the answer was made for
	End    time.Time // zero while in flight
	API    string    // as asked
	Status int       // zero while in flight, and when the connection was closed without an answer
	Cost   int       // what it took from the quota
}

// New starts a server with nothing used and nothing injected.
func New(cfg Config) *Sim {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Operation == "" {
		cfg.Operation = "andina_demo"
	}
	if cfg.Zone == nil {
		zone, err := time.LoadLocation("America/Bogota")
		if err != nil {
			panic(err) // tzdata is linked in
		}
		cfg.Zone = zone
	}
	s := &Sim{cfg: cfg, quota: max(25, cfg.Licenses) * 1000}
	if cfg.Quota > 0 {
		s.quota = cfg.Quota
	}
	if s.cfg.Token == "" {
		s.cfg.Token = fmt.Sprintf("wv-demo-%013x", s.dice(1<<52, "token"))
	}
	return s
}

// Token is the one token the server accepts.
func (s *Sim) Token() string { return s.cfg.Token }

// Requests returns the log so far, by arrival.
func (s *Sim) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// MaxConcurrent is the most requests ever in flight at once, refused ones included.
func (s *Sim) MaxConcurrent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}

// Spend takes n calls from today's quota, as another token of the operation would.
func (s *Sim) Spend(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turnDay(s.cfg.Now())
	s.others += n
}

// call is one request on its way through the server.
type call struct {
	line  int       // its line of the log
	at    time.Time // the clock value of its answer
	api   string
	slot  bool   // it holds one of the token's two places
	used  [2]int // quota used by this token and by all, this call included
	fault Fault  // zero: none
}

// answer is what goes back unless a fault says otherwise.
type answer struct {
	status int
	envelope
}

// envelope is the body of every answer, errors included.
type envelope struct {
	Code  any    `json:"code"`
	Error any    `json:"error"`
	Msg   string `json:"msg"`
	Data  any    `json:"data,omitempty"`
}

// row is one reading as sent.
type row struct {
	Operation   string `json:"operation"`
	Description string `json:"description"`
	Items       string `json:"items"`
	Date        string `json:"date"`
	number      string // items as canonical decimal, for faults that rewrite them
}

func refuse(status int, kind, msg string) answer {
	return answer{status, envelope{Code: status, Error: kind, Msg: msg}}
}

// The vendor's refusals, word for word. The 404 is also its "no data".
var (
	noToken     = refuse(http.StatusUnauthorized, "UNAUTHORIZED", "PLEASE ENTER THE WOLKVOX-TOKEN")
	badToken    = refuse(http.StatusForbidden, "FORBIDDEN", "PLEASE VALIDATE TOKEN")
	tokenLimit  = refuse(http.StatusForbidden, "FORBIDDEN", "TOKEN LIMIT EXCEEDED")
	tooMany     = refuse(http.StatusForbidden, "FORBIDDEN", "EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS PER TOKEN (2)")
	noParameter = refuse(http.StatusBadRequest, "BAD REQUEST", "SOME PARAMETERS ARE REQUIRED")
	noSuchAPI   = refuse(http.StatusBadRequest, "BAD REQUEST", "THE API YOU WANT TO CONSULT DOES NOT EXIST")
	noData      = refuse(http.StatusNotFound, "NOT FOUND", "Validate dates entered")
	noMethod    = refuse(http.StatusMethodNotAllowed, "METHOD NOT ALLOWED", "METHOD NOT ALLOWED")
)

// ServeHTTP lets one request through the gates, answers it, and spoils the
// answer if a fault says so.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if path != "/api/v2/billing.php" && path != "/api/v2/information.php" {
		http.NotFound(w, r)
		return
	}
	c, refusal := s.enter(r)
	var once sync.Once
	leave := func(status int) { once.Do(func() { s.leave(c, status) }) }
	defer leave(0) // a reply that never was: closed, or the client gave up

	a := refusal
	switch {
	case a.status != 0:
	case r.Method != http.MethodGet:
		a = noMethod
	case path == "/api/v2/billing.php":
		a = s.billing(c)
	default:
		a = s.information(c)
	}
	c.fault.serve(w, r, a, leave)
}

// enter logs the request and takes it through token, quota and concurrency.
// The refusal is the zero answer when it may go on.
func (s *Sim) enter(r *http.Request) (call, answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := call{line: len(s.requests), at: s.cfg.Now(), api: r.URL.Query().Get("api")}
	s.requests = append(s.requests, Request{Start: c.at, API: c.api})
	s.flying++
	s.peak = max(s.peak, s.flying)
	s.turnDay(c.at)

	switch token := r.Header.Get("wolkvox-token"); {
	case token == "":
		return c, noToken
	case token != s.cfg.Token:
		return c, badToken
	case s.used+s.others >= s.quota:
		return c, tokenLimit
	}
	s.used++
	s.requests[c.line].Cost = 1
	c.used = [2]int{s.used, s.used + s.others}
	if s.busy == 2 {
		return c, tooMany
	}
	s.busy++
	c.slot = true
	c.fault = s.takeFault(c.api)
	return c, answer{}
}

// leave ends the request in the log and frees its place.
func (s *Sim) leave(c call, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[c.line].End = s.cfg.Now()
	s.requests[c.line].Status = status
	s.flying--
	if c.slot {
		s.busy--
	}
}

// turnDay starts the quota afresh when the local date is another one.
func (s *Sim) turnDay(at time.Time) {
	if day := at.In(s.cfg.Zone).Format(time.DateOnly); day != s.day {
		s.day, s.used, s.others = day, 0, 0
	}
}

func (s *Sim) billing(c call) answer {
	p, known := find(c.api)
	switch {
	case c.api == "":
		return noParameter
	case slices.Contains(s.cfg.Missing, c.api): // it may also name an API beyond the 27
		return noData
	case !known:
		return noSuchAPI
	}
	var rows []row
	for _, rd := range s.readings(p, c.at) {
		rows = append(rows, row{rd.Operation, rd.Description, rd.Items, rd.DateText, rd.Number})
	}
	return answer{http.StatusOK, envelope{Code: p.code(), Msg: p.msg(), Data: rows}}
}

func (s *Sim) information(c call) answer {
	switch c.api {
	case "":
		return noParameter
	case "token_info":
	default:
		return noSuchAPI
	}
	data := []map[string]string{{
		"description":                   "billing reader",
		"token_limit":                   strconv.Itoa(s.quota),
		"token_use_today":               strconv.Itoa(c.used[0]),
		"all_token_today":               strconv.Itoa(c.used[1]),
		"available_consumption_options": strconv.Itoa(s.quota - c.used[1]),
	}}
	return answer{http.StatusOK, envelope{Code: 200, Msg: "1 records were found", Data: data}}
}

func (e envelope) json() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		panic(err) // texts and numbers only
	}
	return bytes.TrimSpace(b.Bytes())
}
