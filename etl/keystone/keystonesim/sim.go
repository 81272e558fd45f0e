package keystonesim

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says which vendor to play. The zero value is a vendor with 120 days
// of history, three customers with subscriptions and one without, and all the
// documented quirks.
type Config struct {
	Seed         uint64
	Now          func() time.Time // business clock: which days exist, invoiced flags, restatements; default time.Now
	TokenNow     func() time.Time // clock of token expiry; default time.Now
	Start        time.Time        // first UTC day with data; default 120 days before Now()
	Customers    int              // with subscriptions; one without is added; default 3, the scenario's table
	RefreshToken string           // as handed out by the portal; default derived from Seed

	Lenient   bool // a spent refresh token is still accepted, and so is any that this seed ever made
	Running   bool // accrued_burst_tib in history runs from the month's start instead of per-sample increments
	Clean     bool // one envelope, numbers as numbers, plain dates, no repeated customer
	DailyOnly bool // every level has daily samples: small and fast
	TwoMinute bool // the Performance level has a sample every two minutes
	Shuffle   bool // the order of a subscription's levels changes from (business) day to day and by endpoint
	Oddities  bool // one negative reading on the third day
	Restate   bool // one day in twenty of each series changes its figures three days after its end
}

// Sim is the fake vendor, an http.Handler safe for concurrent use.
type Sim struct {
	cfg       Config
	start     time.Time
	customers []customer
	series    []series // of all customers, in the scenario's order

	mu     sync.Mutex // guards all below
	tokens custody
	faults []*scripted
	log    []*Request
}

// New returns a Sim whose first token pair has just been handed out.
func New(cfg Config) *Sim {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.TokenNow == nil {
		cfg.TokenNow = time.Now
	}
	if cfg.Start.IsZero() {
		cfg.Start = cfg.Now().Add(-120 * daily)
	}
	if cfg.Customers == 0 {
		cfg.Customers = len(scenario)
	}
	s := &Sim{cfg: cfg, start: cfg.Start.UTC().Truncate(daily), customers: cast(cfg.Customers)}
	for _, c := range s.customers {
		for _, sub := range c.subscriptions {
			s.series = append(s.series, s.seriesOf(c, sub)...)
		}
	}
	s.tokens = newCustody(cfg)
	return s
}

func (s *Sim) seriesOf(c customer, sub subscription) []series {
	seen := map[string]int{}
	var all []series
	for _, l := range sub.levels {
		if s.cfg.TwoMinute && l.name == "Performance" {
			l.step = twoMinute
		}
		if s.cfg.DailyOnly {
			l.step = daily
		}
		se := series{level: l, customer: c.id, number: sub.number, ordinal: seen[l.name]}
		se.key = mix(mixText(mixText(mixText(mix(s.cfg.Seed, 0), c.id), sub.number), l.name), uint64(se.ordinal))
		seen[l.name]++
		all = append(all, se)
	}
	return all
}

// Customer is one entry of the customers call.
type Customer struct{ ID, Name string }

// Customers lists who can be asked for; the last one has no subscriptions.
func (s *Sim) Customers() []Customer {
	var all []Customer
	for _, c := range s.customers {
		all = append(all, Customer{c.id, c.name})
	}
	return all
}

// A Request is one line of the log. It never holds a token.
type Request struct {
	Start, End   time.Time // real time; End is zero while it is being answered
	Method, Path string
	Query        string // as sent
	Credential   Credential
	Status       int // 0 when the connection was closed without an answer
}

// logged is how many requests are remembered.
const logged = 10_000

// Requests returns the newest requests, at most 10 000, in order of arrival.
func (s *Sim) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Request, 0, len(s.log))
	for _, r := range s.log {
		all = append(all, *r)
	}
	return all
}

// A call is one request on its way through the simulator.
type call struct {
	*http.Request
	form  url.Values // nil if the query cannot be read
	token string     // as presented, on either kind of endpoint
	now   time.Time  // one reading of the business clock for the whole answer
	empty bool       // answer well-formed but without records
}

const (
	tokenPath         = "/v1/tokens/accessToken"
	customersPath     = "/v1/keystone/customers"
	subscriptionsPath = "/v1/keystone/customer/subscriptions-info"
	currentPath       = "/v1/keystone/customer/consumption-details"
	historyPath       = "/v1/keystone/customer/historical-consumption-details"
)

// ServeHTTP answers one request, after whatever fault is due for it.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Request: r, now: s.cfg.Now().UTC()}
	c.form, _ = url.ParseQuery(r.URL.RawQuery)
	entry := &Request{Start: time.Now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery}
	var class func() Credential
	if r.URL.Path == tokenPath {
		c.token = presentedRefresh(r)
		class = func() Credential { return s.tokens.refreshClass(c.token) }
	} else {
		c.token = r.Header.Get("authorizationToken")
		class = func() Credential { return s.tokens.accessClass(c.token) }
	}

	s.mu.Lock()
	entry.Credential = class()
	if s.log = append(s.log, entry); len(s.log) > logged {
		s.log = slices.Delete(s.log, 0, logged/10)
	}
	fault := s.nextFault(c)
	s.mu.Unlock()

	sw := &statusWriter{ResponseWriter: w}
	defer func() { // also when a fault aborts the handler
		s.mu.Lock()
		entry.End, entry.Status = time.Now(), sw.status
		s.mu.Unlock()
	}()
	if fault != nil {
		s.suffer(sw, c, *fault)
	} else {
		s.answer(sw, c)
	}
}

// answer is the vendor on a good day.
func (s *Sim) answer(w http.ResponseWriter, c *call) {
	method, handle := http.MethodGet, s.data
	switch c.URL.Path {
	case tokenPath:
		method, handle = http.MethodPost, s.exchange
	case customersPath, subscriptionsPath, currentPath, historyPath:
	default:
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	if c.Method != method {
		w.Header().Set("Allow", method)
		refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		return
	}
	handle(w, c)
}

// data answers the four GET endpoints.
func (s *Sim) data(w http.ResponseWriter, c *call) {
	s.mu.Lock()
	class := s.tokens.accessClass(c.token)
	s.mu.Unlock()
	if class != Access {
		refuse(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	if c.URL.Path == customersPath {
		s.writeCustomers(w, c)
		return
	}
	if c.form.Get("type") != "customer" || c.form.Get("id") == "" {
		refuse(w, http.StatusBadRequest, "want type=customer and id")
		return
	}
	i := slices.IndexFunc(s.customers, func(one customer) bool { return one.id == c.form.Get("id") })
	if i < 0 {
		refuse(w, http.StatusForbidden, "User is not authorized to access this customer")
		return
	}
	switch c.URL.Path {
	case subscriptionsPath:
		s.writeSubscriptions(w, c, s.customers[i])
	case currentPath:
		s.writeCurrent(w, c, s.customers[i])
	case historyPath:
		from, to, ok := bounds(c.form)
		if !ok {
			refuse(w, http.StatusBadRequest, "want from_date_utc and to_date_utc in RFC 3339, in this order")
			return
		}
		s.writeHistory(w, c, s.customers[i], from, to)
	}
}

// bounds reads the window of a history request, both ends inclusive. A date
// alone is midnight as the lower end and the whole day as the upper one.
func bounds(form url.Values) (from, to time.Time, ok bool) {
	parse := func(text string, rest time.Duration) (time.Time, bool) {
		if t, err := time.Parse(time.DateOnly, text); err == nil {
			return t.Add(rest), true
		}
		t, err := time.Parse(time.RFC3339, text)
		return t.UTC(), err == nil
	}
	from, okFrom := parse(form.Get("from_date_utc"), 0)
	to, okTo := parse(form.Get("to_date_utc"), daily-time.Second)
	return from, to, okFrom && okTo && !from.After(to)
}

// refuse answers with the error body of the data endpoints.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"message":`+quote(message)+"}")
}

// statusWriter remembers the status for the log.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func isToken(path string) bool { return strings.HasPrefix(path, "/v1/tokens/") }
