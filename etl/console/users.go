package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Role is what somebody may do. Each may do what those before it may.
type Role int

// Roles.
const (
	Viewer   Role = iota // look at everything but the bodies that vendors sent
	Operator             // also load now, settle quarantine, read bodies
	Closer               // also close and reopen months
)

// Roles are the names of all roles, the least first.
var Roles = []string{"viewer", "operator", "closer"}

func (r Role) String() string { return Roles[r] }

// ParseRole reads the name of a role.
func ParseRole(name string) (Role, error) {
	i := slices.Index(Roles, name)
	if i < 0 {
		return 0, fmt.Errorf("%q: want %s or %s", name, strings.Join(Roles[:len(Roles)-1], ", "), Roles[len(Roles)-1])
	}
	return Role(i), nil
}

// User is somebody who may log in.
type User struct {
	Hash string // of the password, by [HashPassword]
	Role Role
}

// Limits of passwords. bcrypt reads no more than 72 bytes.
const (
	leastPassword = 8
	mostPassword  = 72
	hashCost      = 12 // some 200 ms
	mostCost      = 15 // a login would take seconds
)

// HashPassword is what the configuration keeps of a password: a bcrypt hash.
func HashPassword(password string) (string, error) {
	if n := len(password); n < leastPassword || n > mostPassword {
		return "", fmt.Errorf("password has %d bytes: want %d to %d", n, leastPassword, mostPassword)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), hashCost)
	return string(hash), err
}

// CheckHash says why a text is not a hash that passwords can be compared with; it does not repeat the text.
func CheckHash(hash string) error {
	switch cost, err := bcrypt.Cost([]byte(hash)); {
	case err != nil || len(hash) != 60:
		return errors.New("is not a bcrypt hash")
	case cost > mostCost:
		return fmt.Errorf("is a bcrypt hash of cost %d: want at most %d, or each login takes seconds", cost, mostCost)
	}
	return nil
}

// directory knows the users. It is safe for concurrent use.
type directory struct {
	users map[string]User
	none  []byte // takes as long to compare with as the dearest hash of a user
	key   []byte // of this process, for what it remembers
	gate  chan struct{}
	tries limiter

	mu    sync.Mutex
	known map[[sha256.Size]byte]bool // names and passwords that were right
}

func newDirectory(users map[string]User, key []byte) (*directory, error) {
	d := &directory{users: users, key: key, gate: make(chan struct{}, 2), known: map[[sha256.Size]byte]bool{}}
	cost := bcrypt.MinCost
	for name, u := range users {
		if err := CheckHash(u.Hash); err != nil {
			return nil, fmt.Errorf("console: password of user %q %w", name, err)
		}
		c, _ := bcrypt.Cost([]byte(u.Hash)) // checked
		cost = max(cost, c)
	}
	var err error
	d.none, err = bcrypt.GenerateFromPassword([]byte(rand.Text()), cost)
	return d, err
}

// named is a name as the log may have it. What is nobody's may be a password that was typed into the wrong field.
func (d *directory) named(name string) string {
	if _, exists := d.users[name]; exists {
		return name
	}
	return "(nobody's name)"
}

// errTries means that a name was tried too often from an address.
var errTries = errors.New("too many attempts")

// verify tells whether the password is the user's. A wrong one takes as long as that of a user who is not
// there. After some wrong ones from an address it is not even looked at for a while; another address can
// log in.
func (d *directory) verify(name, password, address string) (bool, error) {
	if !d.tries.begin(name, address) {
		return false, errTries
	}
	d.gate <- struct{}{} // guessing shall not take the machine
	defer func() { <-d.gate }()
	u, exists := d.users[name]
	hash := []byte(u.Hash)
	if !exists {
		hash = d.none
	}
	right := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && exists && len(password) <= mostPassword
	if right {
		d.tries.right(name, address)
	}
	return right, nil
}

// remembers is verify for those who ask every few seconds: what was right is not computed again.
func (d *directory) remembers(name, password, address string) (bool, error) {
	mac := hmac.New(sha256.New, d.key)
	fmt.Fprintf(mac, "%d %s %s", len(name), name, password)
	sum := [sha256.Size]byte(mac.Sum(nil))
	d.mu.Lock()
	known := d.known[sum]
	d.mu.Unlock()
	if known {
		return true, nil
	}
	right, err := d.verify(name, password, address)
	if right {
		d.mu.Lock()
		d.known[sum] = true
		d.mu.Unlock()
	}
	return right, err
}

// Limits of guessing.
const (
	mostTries     = 5  // at a name from an address
	mostTriesFrom = 50 // from an address, at whatever names
	triesWithin   = 15 * time.Minute
	mostWatchers  = 10_000
)

// limiter counts passwords that were not right, by name and address and by address.
type limiter struct {
	mu    sync.Mutex
	wrong map[[sha256.Size]byte]*attempts
	now   func() time.Time // default time.Now
}

type attempts struct {
	n, most int
	since   time.Time
}

func (l *limiter) clock() time.Time {
	if l.now != nil {
		return l.now()
	}
	return time.Now()
}

// limited are the keys of a name from an address and of the address. Whoever has an IPv6 address has 2^64 of them, so
// there the network counts.
func limited(name, address string) (named, from [sha256.Size]byte) {
	if a, err := netip.ParseAddr(address); err == nil {
		if a = a.Unmap().WithZone(""); a.Is6() {
			a = netip.PrefixFrom(a, 64).Masked().Addr()
		}
		address = a.String()
	}
	return sha256.Sum256(fmt.Appendf(nil, "%d %s %s", len(name), name, address)), sha256.Sum256([]byte(address))
}

// begin tells whether a password may be looked at, and counts it as wrong until it is known to be right: guesses that
// come at once are as many as those that come one by one.
func (l *limiter) begin(name, address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	named, from := limited(name, address)
	now := l.clock()
	a, b := l.find(named, mostTries, now), l.find(from, mostTriesFrom, now)
	if a.n >= a.most || b.n >= b.most {
		return false
	}
	l.makeRoom(now)
	a.n++
	b.n++
	l.wrong[named], l.wrong[from] = a, b
	return true
}

// right takes back that a password was wrong, and forgets what was wrong before it with the name.
func (l *limiter) right(name, address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	named, from := limited(name, address)
	delete(l.wrong, named)
	if b := l.wrong[from]; b != nil && b.n > 0 {
		b.n--
	}
}

func (l *limiter) find(key [sha256.Size]byte, most int, now time.Time) *attempts {
	if a := l.wrong[key]; a != nil && now.Sub(a.since) < triesWithin {
		return a
	}
	return &attempts{most: most, since: now}
}

// makeRoom keeps who has very many names or addresses from filling the memory. Whoever is stopped stays stopped as
// long as that is possible.
func (l *limiter) makeRoom(now time.Time) {
	if l.wrong == nil {
		l.wrong = map[[sha256.Size]byte]*attempts{}
	}
	const two = 2 // are added
	for _, goes := range []func(*attempts) bool{
		func(a *attempts) bool { return now.Sub(a.since) >= triesWithin },
		func(a *attempts) bool { return a.n < a.most },
		func(*attempts) bool { return true },
	} {
		if len(l.wrong)+two <= mostWatchers {
			return
		}
		for key, a := range l.wrong {
			if goes(a) {
				delete(l.wrong, key)
			}
		}
	}
}

// Life of a session.
const (
	sessionFor  = 12 * time.Hour
	sessionIdle = time.Hour
	mostOpen    = 1000
	mostOwn     = 20 // of one user, so that nobody logs all others out
)

// sessions are who is logged in at this process. A restart logs everybody out.
type sessions struct {
	mu   sync.Mutex
	open map[[sha256.Size]byte]*login // by the hash of the cookie, so that memory holds no key
	now  func() time.Time             // default time.Now
}

type login struct {
	user        string
	begun, seen time.Time
}

func (s *sessions) clock() time.Time {
	if s.now != nil {
		return s.now()
	}
	return time.Now()
}

func (l *login) over(now time.Time) bool {
	return now.Sub(l.begun) >= sessionFor || now.Sub(l.seen) >= sessionIdle
}

// begin opens a session and returns what its cookie holds.
func (s *sessions) begin(user string) string {
	id := newID()
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[[sha256.Size]byte]*login{}
	}
	var oldest, oldestOwn [sha256.Size]byte
	own := 0
	for key, l := range s.open {
		if l.over(now) {
			delete(s.open, key)
			continue
		}
		if o := s.open[oldest]; o == nil || l.seen.Before(o.seen) {
			oldest = key
		}
		if l.user == user {
			own++
			if o := s.open[oldestOwn]; o == nil || l.seen.Before(o.seen) {
				oldestOwn = key
			}
		}
	}
	switch {
	case own >= mostOwn:
		delete(s.open, oldestOwn)
	case len(s.open) >= mostOpen:
		delete(s.open, oldest)
	}
	s.open[sha256.Sum256([]byte(id))] = &login{user, now, now}
	return id
}

// find is who the cookie belongs to; empty when nobody any more.
func (s *sessions) find(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, now := sha256.Sum256([]byte(id)), s.clock()
	l := s.open[key]
	if l == nil {
		return ""
	}
	if l.over(now) {
		delete(s.open, key)
		return ""
	}
	l.seen = now
	return l.user
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(id)))
}

// newID is 256 bits that nobody guesses.
func newID() string { return rand.Text() + rand.Text() }

// sign makes a text that only this process can have made.
func sign(key []byte, purpose, text string) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s\x00%s", purpose, text)
	return fmt.Sprintf("%x", mac.Sum(nil))
}

func signed(key []byte, purpose, text, signature string) bool {
	return subtle.ConstantTimeCompare([]byte(sign(key, purpose, text)), []byte(signature)) == 1
}
