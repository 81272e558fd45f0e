package keystonesim

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	accessLife  = time.Hour
	refreshLife = 7 * 24 * time.Hour
	loginLife   = 90 * 24 * time.Hour
)

// Credential is what a request identified itself with.
type Credential string

const (
	None    Credential = "none"
	Unknown Credential = "unknown" // not a token of ours
	Expired Credential = "expired" // one of ours, too old: by its own life or the login's
	Access  Credential = "access"  // a valid access token
	Refresh Credential = "refresh" // a valid refresh token
	Spent   Credential = "spent"   // a refresh token that was used before; Lenient accepts it
)

// custody is the vendor's side of the tokens. The caller holds Sim.mu.
type custody struct {
	cfg     Config
	login   time.Time
	serial  int // of the newest pair
	current string
	access  map[string]time.Time // until when
	refresh map[string]time.Time // until when; spent ones stay listed
}

func newCustody(cfg Config) custody {
	t := custody{cfg: cfg, access: map[string]time.Time{}, refresh: map[string]time.Time{}}
	first := cfg.RefreshToken
	if first == "" {
		first = t.mint("r", 0)
	}
	if n, ok := t.serialOf(first); ok {
		t.serial = n
	}
	t.handOut(first)
	return t
}

// handOut makes refresh the current token of a fresh login.
func (t *custody) handOut(refresh string) {
	t.login = t.cfg.TokenNow()
	t.current = refresh
	t.refresh[refresh] = t.login.Add(refreshLife)
}

// mint makes the token of a kind and serial number: always the same one for a
// seed, opaque, and about as long as the vendor's.
func (t *custody) mint(kind string, serial int) string {
	key := binary.BigEndian.AppendUint64(nil, t.cfg.Seed)
	var tail []byte
	for i := range 8 {
		mac := hmac.New(sha512.New, key)
		fmt.Fprintf(mac, "%s.%d.%d", kind, serial, i)
		tail = mac.Sum(tail)
	}
	return fmt.Sprintf("sim-%s.%d.%s", kind, serial, base64.RawURLEncoding.EncodeToString(tail))
}

// serialOf reads the serial number of a refresh token this seed can have made.
func (t *custody) serialOf(refresh string) (int, bool) {
	parts := strings.Split(refresh, ".")
	if len(parts) != 3 {
		return 0, false
	}
	n, err := strconv.Atoi(parts[1])
	return n, err == nil && n >= 0 && refresh == t.mint("r", n)
}

func (t *custody) accessClass(token string) Credential {
	until, known := t.access[token]
	switch {
	case token == "":
		return None
	case !known:
		return Unknown
	case !t.cfg.TokenNow().Before(until):
		return Expired
	}
	return Access
}

func (t *custody) refreshClass(token string) Credential {
	now := t.cfg.TokenNow()
	until, known := t.refresh[token]
	if !known && t.cfg.Lenient {
		_, known = t.serialOf(token) // from an earlier process
		until = now.Add(refreshLife)
	}
	switch {
	case token == "":
		return None
	case !known:
		return Unknown
	case !now.Before(until), !now.Before(t.login.Add(loginLife)):
		return Expired
	case token != t.current:
		return Spent
	}
	return Refresh
}

// rotate spends a refresh token for a new pair.
func (t *custody) rotate(token string) (access, refresh string, ok bool) {
	if class := t.refreshClass(token); class != Refresh && !(class == Spent && t.cfg.Lenient) {
		return "", "", false
	}
	if n, ok := t.serialOf(token); ok {
		t.serial = max(t.serial, n)
	}
	t.serial++
	access, refresh = t.mint("a", t.serial), t.mint("r", t.serial)
	now := t.cfg.TokenNow()
	t.access[access] = now.Add(accessLife)
	t.refresh[refresh] = now.Add(refreshLife)
	t.current = refresh
	return access, refresh, true
}

// RefreshToken returns the refresh token that is valid now, as the portal or
// the last exchange handed it out.
func (s *Sim) RefreshToken() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens.current
}

// Login is a person logging in at the portal and generating a new pair: it
// returns the refresh token and starts the 90 days again. The one held before
// is spent.
func (s *Sim) Login() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens.serial++
	s.tokens.handOut(s.tokens.mint("r", s.tokens.serial))
	return s.tokens.current
}

// exchange answers POST /v1/tokens/accessToken.
func (s *Sim) exchange(w http.ResponseWriter, c *call) {
	w.Header().Set("Content-Type", "application/json")
	if c.token == "" {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"refresh_token is required"}`)
		return
	}
	if media, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || media != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "Unsupported Media Type")
		return
	}
	s.mu.Lock()
	access, refresh, ok := s.tokens.rotate(c.token)
	s.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid refresh token"}`)
		return
	}
	_, _ = io.WriteString(w, `{"access_token":`+quote(access)+`,"refresh_token":`+quote(refresh)+"}")
}

// presentedRefresh reads the token out of an exchange's body, "" if it has none.
func presentedRefresh(r *http.Request) string {
	var body struct {
		RefreshToken string `json:"refresh_token"`
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil || json.Unmarshal(raw, &body) != nil {
		return ""
	}
	return body.RefreshToken
}
