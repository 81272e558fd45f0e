package keystone

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The protocol of custody.go as a model that is searched completely: failure model 4.5. Two replicas
// exchange twice, while at most two crashes, one lost request or answer, one time-out of the client
// and one failover of the database that forgets its last commit happen at any moment.
//
// A step of the model is a piece of custody.go between two points at which something else may happen.
// It has no lock besides the attempt itself, so every state is one in which a lock has vanished; only
// the variant that relies on a lock has one, and loses it once. Time is what it allows: the event grace
// says that an attempt's deadline and the grace time are over, which needs every request that was made
// under it to be over too (exchangeTimeout and startWithin are shorter).

// variant is the protocol with something left out.
type variant struct {
	strict       bool // the vendor revokes everything when a spent token comes back; else it only refuses
	perHost      bool // each replica has a spool of its own
	probeForeign bool // and probes after an attempt whose spool it does not see
	closesAny    bool // storing a pair closes whatever attempt is open
	dropsSpool   bool // the spool's answer is removed as soon as the pair is stored
	noDeadline   bool // sends however late it is
	noWait       bool // does not wait after a failover
	noSpool      bool // and gives up when the database fails after the answer
	rowLock      bool // a lock across the call instead of attempts and spool
	noProbe      bool // never tries again after an unclear exchange
}

const (
	rotations = 2
	nobody    = 0
)

// Phases of a replica.
const (
	idle     = iota
	planned  // read the chain: accessLocked, standing
	intended // BeginAttempt has committed: intend
	checked  // intend's checks are passed
	waiting  // the request is out: send
	answered // the answer is in the spool, where there is one: settle
)

// Kinds of message.
const (
	noMessage = iota
	request
	pairAnswer
	refusal
)

// chainDB is what the database knows. Generations count from 0.
type chainDB struct {
	generation uint8
	attempt    uint8 // the open or unclear one; 0 for none
	from       uint8 // its generation
	owner      uint8 // whose spool it names
	grace      uint8 // its deadline and grace time are over
	dead       uint8 // generation+1 whose refusal is the last attempt
}

type replica struct {
	phase, generation uint8
	attempt           uint8 // its own
	over              uint8 // the attempt it takes over from
	overOwner, probe  uint8
	late              uint8 // the local deadline has passed
	refused           uint8 // the answer is a refusal
}

type message struct {
	kind, generation, attempt uint8
	to                        uint8 // replica+1; nobody when the client has gone
}

// world is one state. It holds no pointers, so a map of worlds costs the collector nothing.
type world struct {
	vendor, revoked uint8 // the generation whose token works
	messages        [3]message
	replicas        [2]replica
	db, before      chainDB  // before: without the last commit
	spool           [2]uint8 // newest answer; one for both unless perHost
	failedOver      uint8    // and the wait is not over
	lock            uint8    // replica+1 (rowLock)

	crashes, losses, timeouts, failovers, vanishings uint8 // still to come
}

// canonical names attempts in order of appearance and sorts messages, so that equal states are equal.
func (w world) canonical() world {
	names, next := [16]uint8{}, uint8(1)
	name := func(id *uint8) {
		if *id != 0 {
			if names[*id] == 0 {
				names[*id] = next
				next++
			}
			*id = names[*id]
		}
	}
	name(&w.db.attempt)
	name(&w.before.attempt)
	for r := range w.replicas {
		name(&w.replicas[r].attempt)
		name(&w.replicas[r].over)
	}
	slices.SortFunc(w.messages[:], func(a, b message) int {
		return int(b.kind)<<8 + int(b.generation)<<4 + int(b.to) - int(a.kind)<<8 - int(a.generation)<<4 - int(a.to)
	})
	for m := range w.messages {
		name(&w.messages[m].attempt)
	}
	return w
}

// freshAttempt is a name that nothing uses.
func (w *world) freshAttempt() uint8 {
	used := [16]bool{}
	for _, id := range []uint8{
		w.db.attempt, w.before.attempt, w.replicas[0].attempt, w.replicas[0].over, w.replicas[1].attempt, w.replicas[1].over,
		w.messages[0].attempt, w.messages[1].attempt, w.messages[2].attempt,
	} {
		used[id] = true
	}
	used[0] = true
	return uint8(slices.Index(used[:], false))
}

// commit changes the database; a failover forgets the last one.
func (w *world) commit(change func(*chainDB)) {
	w.before = w.db
	change(&w.db)
}

func (w *world) rest(r int) { w.replicas[r] = replica{} }

// hangUp leaves what is under way for a replica to nobody.
func (w *world) hangUp(r int) {
	for m := range w.messages {
		if w.messages[m].to == uint8(r+1) {
			w.messages[m].to = nobody
			if w.messages[m].kind != request {
				w.messages[m] = message{}
			}
		}
	}
}

// spoolOf is what a replica sees.
func (v variant) spoolOf(w *world, r int) uint8 {
	if v.perHost {
		return w.spool[r]
	}
	return w.spool[0]
}

func (v variant) spoolIn(w *world, r int, generation uint8) {
	switch {
	case v.noSpool || v.rowLock:
	case v.perHost:
		w.spool[r] = max(w.spool[r], generation)
	default:
		w.spool[0] = max(w.spool[0], generation)
	}
}

// newestKnown is the greatest generation that is stored, spooled or in a living process.
func (w *world) newestKnown() uint8 {
	newest := max(w.db.generation, w.spool[0], w.spool[1])
	for _, r := range w.replicas {
		if r.phase == answered && r.refused == 0 {
			newest = max(newest, r.generation+1)
		}
	}
	return newest
}

// alive says that the token that works is known, or is on its way to somebody who listens.
func (w *world) alive() bool {
	if w.revoked == 1 {
		return false
	}
	for _, m := range w.messages {
		if m.kind == pairAnswer && m.to != nobody && m.generation == w.vendor {
			return true
		}
	}
	return w.newestKnown() >= w.vendor
}

// normal says that everything is as it should be, and nothing is under way.
func (w *world) normal() bool {
	return w.revoked == 0 && w.db.generation == w.vendor && w.replicas == [2]replica{} && w.messages == [3]message{} &&
		w.failedOver == 0 && w.db.dead != w.db.generation+1 && (w.db.attempt == 0 || w.db.from < w.db.generation)
}

// step is what can happen next.
type step struct {
	name   string
	to     world
	fault  bool // something breaks: normal operation must not need it
	window bool // window W: what is lost in it is lost by the vendor's design
	wrong  string
}

func (v variant) steps(w *world, emit func(step)) {
	for r := range w.replicas {
		v.stepsOf(w, r, emit)
	}
	for m := range w.messages {
		v.stepsOfMessage(w, m, emit)
	}
	inFlight := func(attempt uint8) bool {
		for _, m := range w.messages {
			if m.kind != noMessage && (attempt == 0 || m.attempt == attempt) {
				return true
			}
		}
		for _, r := range w.replicas {
			if r.phase == waiting && (attempt == 0 || r.attempt == attempt) {
				return true
			}
		}
		return false
	}
	if w.db.attempt != 0 && w.db.grace == 0 && !inFlight(w.db.attempt) { // DeadlineAt + probeAfter
		n := *w
		n.db.grace = 1
		for r := range n.replicas {
			if p := &n.replicas[r]; p.attempt == n.db.attempt && (p.phase == intended || p.phase == checked) {
				p.late = 1
			}
		}
		emit(step{name: "grace", to: n})
	}
	if w.failedOver == 1 && !inFlight(0) { // failoverWait
		n := *w
		n.failedOver = 0
		for r := range n.replicas {
			if p := &n.replicas[r]; p.phase == intended || p.phase == checked {
				p.late = 1
			}
		}
		emit(step{name: "waited after failover", to: n})
	}
	if w.failovers > 0 {
		n := *w
		n.failovers--
		n.db, n.failedOver, n.lock = n.before, 1, 0
		emit(step{name: "failover", to: n, fault: true})
	}
	if v.rowLock && w.lock != 0 && w.vanishings > 0 {
		n := *w
		n.vanishings--
		n.lock = 0
		emit(step{name: "lock vanishes", to: n, fault: true})
	}
}

func (v variant) stepsOf(w *world, r int, emit func(step)) {
	me := w.replicas[r]
	name := func(what string) string { return string(rune('A'+r)) + " " + what }
	if me.phase != idle && w.crashes > 0 {
		n := *w
		n.crashes--
		n.hangUp(r)
		n.rest(r)
		if n.lock == uint8(r+1) {
			n.lock = 0
		}
		emit(step{name: name("crashes"), to: n, fault: true, window: me.phase == waiting || v.noSpool || v.rowLock})
	}
	n := *w
	p := &n.replicas[r]
	switch me.phase {
	case idle:
		if seen := v.spoolOf(w, r); seen > w.db.generation { // heal
			n.commit(func(db *chainDB) { db.generation = seen })
			emit(step{name: name("promotes the spool"), to: n})
			return
		}
		if w.db.generation == rotations || w.db.dead == w.db.generation+1 {
			return
		}
		if v.rowLock {
			if w.lock == 0 {
				n.lock, p.phase, p.generation = uint8(r+1), checked, w.db.generation
				emit(step{name: name("locks the row"), to: n})
			}
			return
		}
		if w.db.attempt != 0 && w.db.from >= w.db.generation { // standing
			if w.db.grace == 0 || v.noProbe || v.perHost && !v.probeForeign && w.db.owner != uint8(r) {
				return
			}
			p.probe = 1
		}
		p.phase, p.generation, p.over, p.overOwner = planned, w.db.generation, w.db.attempt, w.db.owner
		emit(step{name: name("plans"), to: n})
	case planned: // BeginAttempt
		if w.db.attempt != me.over {
			n.rest(r)
			emit(step{name: name("finds another attempt"), to: n})
			return
		}
		p.attempt, p.phase = w.freshAttempt(), intended
		n.commit(func(db *chainDB) {
			db.attempt, db.from, db.owner, db.grace, db.dead = p.attempt, p.generation, uint8(r), 0, 0
		})
		emit(step{name: name("intends"), to: n})
	case intended: // what intend reads after the intent
		seen := v.spoolOf(w, r)
		switch {
		case w.db.attempt != me.attempt:
			n.rest(r)
			emit(step{name: name("was taken over"), to: n})
		case w.db.generation != me.generation:
			n.commit(func(db *chainDB) { db.attempt = 0 })
			n.rest(r)
			emit(step{name: name("abandons: faster"), to: n})
		case seen > w.db.generation:
			n.commit(func(db *chainDB) { db.generation = seen })
			emit(step{name: name("promotes after its intent"), to: n})
		case w.failedOver == 1 && !v.noWait:
			giveBack(&n, r)
			emit(step{name: name("abandons: failed over"), to: n})
		default:
			p.phase = checked
			emit(step{name: name("checks"), to: n})
		}
	case checked: // send
		if me.late == 1 && !v.noDeadline {
			giveBack(&n, r)
			emit(step{name: name("abandons: late"), to: n})
			return
		}
		free := slices.Index(w.messages[:], message{})
		if free < 0 {
			return
		}
		n.messages[free] = message{request, me.generation, me.attempt, uint8(r + 1)}
		p.phase = waiting
		s := step{name: name("sends"), to: n}
		if w.newestKnown() > me.generation {
			s.wrong = "sent while a newer generation is known"
		}
		emit(s)
	case waiting:
		if w.timeouts > 0 {
			n.timeouts--
			v.unclear(&n, r)
			emit(step{name: name("times out"), to: n, fault: true, window: true})
		}
	case answered: // storePending, or EndAttempt
		v.settle(w, r, me, emit)
	}
}

// giveBack is abandon, or returnTo after a probe.
func giveBack(n *world, r int) {
	me := n.replicas[r]
	if n.db.attempt == me.attempt {
		n.commit(func(db *chainDB) {
			db.attempt = 0
			if me.probe == 1 {
				*db = chainDB{generation: db.generation, attempt: me.over, from: me.generation, owner: me.overOwner, grace: 1, dead: db.dead}
			}
		})
	}
	n.rest(r)
}

// unclear ends an attempt as ambiguous: in the model that is as open as before.
func (v variant) unclear(n *world, r int) {
	n.hangUp(r)
	if n.replicas[r].attempt != 0 && n.db.attempt == n.replicas[r].attempt {
		n.commit(func(*chainDB) {})
	}
	if n.lock == uint8(r+1) {
		n.lock = 0
	}
	n.rest(r)
}

func (v variant) settle(w *world, r int, me replica, emit func(step)) {
	name := func(what string) string { return string(rune('A'+r)) + " " + what }
	n := *w
	n.rest(r)
	mine := w.db.attempt == me.attempt
	if v.rowLock {
		mine = w.lock == uint8(r+1)
		n.lock = 0
		if !mine {
			n.lock = w.lock
			emit(step{name: name("finds its transaction dead"), to: n})
			return
		}
	}
	if me.refused == 1 {
		s := step{name: name("is refused")}
		if mine {
			n.commit(func(db *chainDB) { db.attempt, db.dead = 0, me.generation+1 })
			if w.db.generation == me.generation && w.alive() {
				s.wrong = "dead although a token that works is known"
			}
		}
		s.to = n
		emit(s)
		return
	}
	n.commit(func(db *chainDB) {
		db.generation = max(db.generation, me.generation+1)
		if mine && !v.rowLock || v.closesAny {
			db.attempt = 0
		}
	})
	if v.dropsSpool && n.spool[0] == me.generation+1 {
		n.spool[0] = 0
	}
	emit(step{name: name("stores"), to: n})
	if v.noSpool {
		failed := *w
		failed.rest(r)
		emit(step{name: name("cannot store and gives up"), to: failed, fault: true})
	}
}

func (v variant) stepsOfMessage(w *world, m int, emit func(step)) {
	msg := w.messages[m]
	if msg.kind == noMessage {
		return
	}
	if w.losses > 0 {
		n := *w
		n.losses--
		n.messages[m] = message{}
		if msg.to != nobody {
			v.unclear(&n, int(msg.to-1))
		}
		emit(step{name: "network loses", to: n, fault: true, window: true})
	}
	n := *w
	if msg.kind == request {
		s := step{name: "vendor answers"}
		answer := &n.messages[m]
		switch {
		case w.revoked == 0 && msg.generation == w.vendor:
			n.vendor++
			answer.kind, answer.generation = pairAnswer, n.vendor
			s.window = msg.to == nobody
		default:
			if v.strict && w.revoked == 0 {
				n.revoked = 1
				if w.alive() {
					s.wrong = "a spent token came back and killed one that is known"
				}
			}
			answer.kind = refusal
		}
		if msg.to == nobody {
			*answer = message{}
		}
		s.to = n
		emit(s)
		return
	}
	r := int(msg.to - 1)
	n.messages[m] = message{}
	p := &n.replicas[r]
	p.phase = answered
	if msg.kind == refusal {
		p.refused = 1
	} else {
		v.spoolIn(&n, r, msg.generation)
	}
	emit(step{name: string(rune('A'+r)) + " receives", to: n})
}

// found is the outcome of a search.
type found struct {
	states, windows int
	wrong           string // the first thing that must not happen
	story           []string
	stuck           string // a state whose token is known and from which nothing leads back to normal
}

// search goes through all states, or until something is wrong.
func (v variant) search(t *testing.T) found {
	t.Helper()
	start := world{crashes: 2, losses: 1, timeouts: 1, failovers: 1, vanishings: 1}
	if v.rowLock {
		start.failovers = 0 // or the shortest story is that nothing but the database knows the pair
	}
	index := map[world]int32{start: 0}
	all := []world{start}
	parent, how := []int32{-1}, []string{"start"}
	var edges [][2]int32 // without faults
	var out found
	for at := int32(0); int(at) < len(all) && out.wrong == ""; at++ {
		w := all[at]
		v.steps(&w, func(s step) {
			to := s.to.canonical()
			wrong := s.wrong
			if w.alive() && !to.alive() {
				switch {
				case s.window:
					out.windows++
				case wrong == "":
					wrong = "lost outside window W"
				}
			}
			next, seen := index[to]
			if !seen {
				next = int32(len(all))
				index[to] = next
				all, parent, how = append(all, to), append(parent, at), append(how, s.name)
			}
			if !s.fault {
				edges = append(edges, [2]int32{next, at})
			}
			if wrong != "" && out.wrong == "" {
				out.wrong, out.story = wrong, append(storyOf(parent, how, at), s.name)
			}
		})
	}
	out.states = len(all)
	if out.wrong == "" {
		if at := stuck(all, edges); at >= 0 {
			out.stuck, out.story = fmt.Sprintf("%+v", all[at]), storyOf(parent, how, at)
		}
	}
	return out
}

func storyOf(parent []int32, how []string, at int32) (story []string) {
	for ; at > 0; at = parent[at] {
		story = append(story, how[at])
	}
	slices.Reverse(story)
	return story
}

// stuck goes back from the normal states and returns one that it never met although its token is known
// and nobody's request is under way; -1 if there is none.
func stuck(all []world, edges [][2]int32) int32 {
	slices.SortFunc(edges, func(a, b [2]int32) int { return int(a[0] - b[0]) })
	first := make([]int32, len(all)+1)
	for _, e := range edges {
		first[e[0]+1]++
	}
	for i := range all {
		first[i+1] += first[i]
	}
	reached := make([]bool, len(all))
	var queue []int32
	for i := range all {
		if all[i].normal() {
			reached[i] = true
			queue = append(queue, int32(i))
		}
	}
	for len(queue) > 0 {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, e := range edges[first[at]:first[at+1]] {
			if !reached[e[1]] {
				reached[e[1]] = true
				queue = append(queue, e[1])
			}
		}
	}
	for i, w := range all {
		orphan := slices.ContainsFunc(w.messages[:], func(m message) bool { return m.kind == request && m.to == nobody })
		if w.alive() && !orphan && !reached[i] {
			return int32(i)
		}
	}
	return -1
}

func TestModel(t *testing.T) {
	for name, v := range map[string]variant{
		"lenient": {},
		"strict":  {strict: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := v.search(t)
			t.Logf("%d states, %d losses in window W", got.states, got.windows)
			if got.wrong != "" {
				t.Errorf("%s: %s", got.wrong, strings.Join(got.story, ", "))
			}
			if got.stuck != "" {
				t.Errorf("no way back to normal from %s: %s", got.stuck, strings.Join(got.story, ", "))
			}
			if got.states < 100_000 || got.windows == 0 {
				t.Error("the search went wrong: so few states, or nothing was ever lost")
			}
		})
	}
}

// Every protection of the protocol is needed: the model finds what happens without it. The first eight
// are the broken variants of failure model 4.5.
func TestModelCatches(t *testing.T) {
	for name, c := range map[string]struct {
		v    variant
		want string
	}{
		"storing closes any attempt":                  {variant{closesAny: true}, "newer"},
		"spool per host, foreign attempts only alert": {variant{perHost: true, strict: true}, ""},
		"spool per host, foreign attempts probed":     {variant{perHost: true, probeForeign: true, strict: true}, ""},
		"spool removed after the commit":              {variant{dropsSpool: true}, "lost outside window W"},
		"no deadline before the request":              {variant{noDeadline: true, strict: true}, ""},
		"no wait after a failover":                    {variant{noWait: true, strict: true}, ""},
		"no spool, gives up when the database fails":  {variant{noSpool: true}, "lost outside window W"},
		"a row lock across the call and nothing else": {variant{rowLock: true}, ""},
		// Not in that table: that the search sees these two at all.
		"no deadline before the request, lenient": {variant{noDeadline: true}, ""},
		"no probe": {variant{noProbe: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := c.v.search(t)
			t.Logf("%d states: %s%s: %s", got.states, got.wrong, got.stuck, strings.Join(got.story, ", "))
			if c.v.noProbe {
				got.wrong = got.stuck
			}
			if got.wrong == "" || !strings.Contains(got.wrong, c.want) {
				t.Errorf("got %q, want it caught: %s", got.wrong, c.want)
			}
		})
	}
}
