package console

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// copies keeps what the mart takes seconds to compute at 10,000 series: a month's statement, its days. A copy is made
// in the background, in one snapshot of the database, together with the fingerprint of what it depends on. It is
// shown as what is now only while a fingerprint taken for the same page is equal, so that no figure differs from
// the mart; else it is shown with the instant it is of, and made anew.
type copies struct {
	s     *Server
	maker chan struct{} // one at a time: loading goes first

	mu    sync.Mutex
	known map[string]*copied

	// The fingerprint of a snapshot of the database, for whoever sees the same one.
	snapshot string
	print    fingerprint
}

// fingerprint is what computed copies depend on.
type fingerprint struct {
	key string
	// By the business clock: then something becomes due without anything being written. A demo takes its clock back.
	from, until time.Time
}

// holds tells whether nothing else is due at an instant.
func (f fingerprint) holds(now time.Time) bool { return !now.Before(f.from) && now.Before(f.until) }

// copied is what is known of one copy.
type copied struct {
	what    any
	print   fingerprint
	of      time.Time // when its snapshot was taken, by this machine's clock; zero: there is none yet
	took    time.Duration
	made    int           // how often it was tried
	failed  bool          // the last time
	running chan struct{} // closed when the one that is being made is there
	asked   time.Time
}

const (
	mostCopies = 24
	mostMaking = 3 // at a time, of which all but one wait: nobody shall be kept from a month by those who ask for others
	copyWithin = 10 * time.Minute
	copyRest   = 3 // times as long as it took, it is left alone when somebody loads all the time
	// What is no older than that, beside what it took and rested, is of a moment ago.
	copyMoment = time.Minute
)

// copyState says of when a copy is.
type copyState struct {
	At        string // UTC, by this machine's clock; empty: there is none yet
	IsCurrent bool   // it is what the mart said when it was asked for
	IsRecent  bool   // it is, or was a moment ago
	IsMade    bool   // another one is being made
	Failed    bool   // the last attempt did
	Took      string
}

// makeCopy computes a copy; what it reads beside the view must not outlive the copy's key, see [copies.make].
type makeCopy func(context.Context, *view) (any, error)

// fingerprint is taken in the snapshot of the view.
func (v *view) fingerprint() (fingerprint, error) {
	if v.print.key != "" {
		return v.print, nil
	}
	snapshot, _, err := v.one(`select pg_current_snapshot()::text as snapshot`)
	if err != nil {
		return fingerprint{}, err
	}
	c, now := &v.s.copies, v.s.cfg.Now()
	c.mu.Lock()
	isSame := c.snapshot == snapshot["snapshot"].Text && c.print.holds(now)
	v.print = c.print
	c.mu.Unlock()
	if isSame {
		return v.print, nil
	}
	found, _, err := v.one(v.s.sql("fingerprint"))
	if err != nil {
		return fingerprint{}, err
	}
	until, err := strconv.ParseInt(found["until"].Text, 10, 64)
	if err != nil {
		return fingerprint{}, fmt.Errorf("fingerprint: until %q: want microseconds: %w", found["until"].Text, err)
	}
	v.print = fingerprint{key: found["key"].Text, from: now, until: time.UnixMicro(until)}
	c.mu.Lock()
	c.snapshot, c.print = snapshot["snapshot"].Text, v.print
	c.mu.Unlock()
	return v.print, nil
}

// taken is a copy as a view has it.
type taken struct {
	what  any
	state copyState
}

// get is the copy of a name, of this moment when that is quick to have; a view has one copy of a name, however often
// it asks. Whoever waits for it gets one that is of this moment or of a later one, unless wait is used up or
// it cannot be computed; 0: what is left of the moment that a page waits.
func (c *copies) get(v *view, name string, wait time.Duration, compute makeCopy) (any, copyState, error) {
	if had, ok := v.taken[name]; ok {
		return had.what, had.state, nil
	}
	print, err := v.fingerprint()
	if err != nil {
		return nil, copyState{}, err
	}
	mustBeCurrent := wait > 0
	began := time.Now()
	c.mu.Lock()
	k := c.find(name)
	if wait == 0 { // all copies of a page together; what takes longer is there when the page asks again
		wait = adviceWait - time.Since(v.began)
	}
	over := time.After(wait)
	isCurrent := func() bool {
		return !k.of.IsZero() && (k.print.key == print.key || k.of.After(began)) && k.print.holds(c.s.cfg.Now())
	}
	for made, isOver := k.made, false; !isCurrent() && !isOver; {
		// What was being made when it was asked for may be of an earlier moment; the next one is not.
		if k.made > made && (!mustBeCurrent || k.failed) {
			break
		}
		var next <-chan struct{} = k.running
		switch {
		case k.running != nil:
		case c.making() >= mostMaking:
			next = c.any() // then there is a place
		case mustBeCurrent || k.of.IsZero() || time.Since(k.of) > copyRest*k.took:
			next = c.begin(k, name, compute)
		}
		if next == nil {
			break
		}
		c.mu.Unlock()
		select {
		case <-next:
		case <-v.ctx.Done():
			return nil, copyState{}, v.ctx.Err()
		case <-over:
			isOver = true
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	had := taken{k.what, k.state(isCurrent())}
	if v.taken == nil {
		v.taken = map[string]taken{}
	}
	v.taken[name] = had
	return had.what, had.state, nil
}

func (k *copied) state(isCurrent bool) copyState {
	s := copyState{IsCurrent: isCurrent, IsRecent: isCurrent, IsMade: k.running != nil, Failed: k.failed && !isCurrent, Took: k.took.Round(10 * time.Millisecond).String()}
	if !k.of.IsZero() {
		s.IsRecent = isCurrent || time.Since(k.of) < copyMoment+(copyRest+1)*k.took
		s.At = k.of.UTC().Format("2006-01-02 15:04:05")
	}
	return s
}

// find is the copy of a name; the one that nobody asked for longest makes room. c is locked.
func (c *copies) find(name string) *copied {
	k := c.known[name]
	if k == nil {
		for len(c.known) >= mostCopies {
			oldest := ""
			for name, other := range c.known {
				if other.running == nil && (oldest == "" || other.asked.Before(c.known[oldest].asked)) {
					oldest = name
				}
			}
			if oldest == "" {
				break
			}
			delete(c.known, oldest)
		}
		k = &copied{}
		c.known[name] = k
	}
	k.asked = time.Now()
	return k
}

// any is closed when one of those that are being made is there. c is locked.
func (c *copies) any() <-chan struct{} {
	for _, k := range c.known {
		if k.running != nil {
			return k.running
		}
	}
	return nil
}

// making is how many copies are being made or wait for it. c is locked.
func (c *copies) making() (n int) {
	for _, k := range c.known {
		if k.running != nil {
			n++
		}
	}
	return n
}

// begin makes a copy in the background, and returns what is closed when it is there; nil: the server ends. c is locked.
func (c *copies) begin(k *copied, name string, compute makeCopy) <-chan struct{} {
	done := make(chan struct{})
	if !c.s.work.do(func(ctx context.Context) {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, copyWithin)
		defer cancel()
		what, print, of, took, err := c.make(ctx, compute)
		c.mu.Lock()
		defer c.mu.Unlock()
		k.running = nil
		k.made++
		if k.failed = err != nil; k.failed {
			if ctx.Err() == nil {
				c.s.cfg.Log.Error("not computed", "copy", name, "error", err)
			}
			return
		}
		k.what, k.print, k.of, k.took = what, print, of, took
	}) {
		return nil
	}
	k.running = done
	return done
}

// make computes a copy and the fingerprint it is of. Some of it may be read in other snapshots, so the
// fingerprint is taken before and after: if something came between, the copy has none.
func (c *copies) make(ctx context.Context, compute makeCopy) (what any, print fingerprint, of time.Time, took time.Duration, err error) {
	err = c.s.readIn(ctx, copyWithin, c.maker, func(ctx context.Context, v *view) (err error) {
		of = time.Now()
		if print, err = v.fingerprint(); err != nil {
			return err
		}
		what, err = survive(func() (any, error) { return compute(ctx, v) })
		return err
	})
	if err != nil {
		return nil, print, of, 0, err
	}
	if after, err := c.now(ctx); err != nil || after.key != print.key {
		if _, isOutside := what.(outside); isOutside {
			print.key = ""
		}
	}
	return what, print, of, time.Since(of), nil
}

// outside marks what was read in snapshots of its own.
type outside interface{ outside() }

func (c *copies) now(ctx context.Context) (print fingerprint, err error) {
	err = c.s.read(ctx, pageWithin, func(_ context.Context, v *view) (err error) {
		print, err = v.fingerprint()
		return err
	})
	return print, err
}

// sheet is a result that pages are cut from in memory.
type sheet struct {
	rows
	shown int // columns that are in the CSV; 0: all
	index map[string]int
	lower []string // of each row, what a search looks through
}

// newSheet prepares a result for searching in some of its columns.
func newSheet(r *rows, searched ...string) *sheet {
	s := &sheet{rows: *r, index: map[string]int{}, lower: make([]string, len(r.Rows))}
	for i, name := range r.Columns {
		s.index[name] = i
	}
	var b strings.Builder
	for i, row := range r.Rows {
		b.Reset()
		for _, name := range searched {
			b.WriteString(row[s.index[name]].Text)
			b.WriteByte(' ')
		}
		s.lower[i] = strings.ToLower(b.String())
	}
	return s
}

func (s *sheet) at(i int, column string) cell { return s.Rows[i][s.index[column]] }

// notComputed is a download of what is not there in time.
type notComputed struct{ copyState }

func (n notComputed) Error() string {
	switch {
	case n.Failed:
		return "It could not be computed: the log says why."
	case n.At == "":
		return "It was not computed in time. Try again later."
	}
	return "It was not computed in time. The last that was, which the page shows, is of " + n.At + " UTC. Try again later."
}

// cut is a table whose rows are in a sheet; without a sheet there are none.
type cut struct {
	*sheet
	*table
	found []int // rows that fit, once they were looked for
	known bool
}

func (c *cut) choices(f filter) (all []string, err error) {
	if c.sheet == nil {
		return nil, nil
	}
	seen := map[string]bool{}
	for i := range c.Rows {
		if text := c.at(i, f.column).Text; text != "" && !seen[text] {
			seen[text], all = true, append(all, text)
		}
	}
	slices.Sort(all)
	return all, nil
}

func (c *cut) count(values []string) (int, error) {
	if c.sheet == nil {
		return 0, nil
	}
	if !c.known {
		lower := make([]string, len(values))
		for j, value := range values {
			lower[j] = strings.ToLower(value)
		}
	row:
		for i := range c.Rows {
			for j, f := range c.filters {
				switch {
				case values[j] == "" || f.isMonth || f.isKept:
				case f.column != "" && c.at(i, f.column).Text != values[j], f.column == "" && !strings.Contains(c.lower[i], lower[j]):
					continue row
				}
			}
			c.found = append(c.found, i)
		}
		c.known = true
	}
	return len(c.found), nil
}

// page orders by a column: numbers by what they are worth, unknown ones last. Rows that are equal keep their order.
func (c *cut) page(values []string, sorted string, isDown bool, limit, offset int) (*rows, error) {
	if c.sheet == nil {
		return &rows{}, nil
	}
	if _, err := c.count(values); err != nil {
		return nil, err
	}
	order := c.found
	if at, ok := c.index[sorted]; ok {
		order = slices.Clone(order)
		compare := func(a, b cell) int { return strings.Compare(a.Text, b.Text) }
		if c.Numeric[at] {
			compare = func(a, b cell) int { return compareDecimals(a.Text, b.Text) }
		}
		slices.SortStableFunc(order, func(a, b int) int {
			x, y := c.Rows[a][at], c.Rows[b][at]
			switch {
			case x.Null || y.Null:
				return cmp.Compare(btoi(x.Null), btoi(y.Null))
			case isDown:
				return compare(y, x)
			}
			return compare(x, y)
		})
	}
	page := &rows{Columns: c.Columns, Numeric: c.Numeric}
	for _, i := range order[min(offset, len(order)):min(offset+limit, len(order))] {
		page.Rows = append(page.Rows, c.Rows[i])
	}
	return page, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareDecimals compares numbers as the database writes them: an optional sign, digits, a point and digits.
func compareDecimals(a, b string) int {
	x, isLess := strings.CutPrefix(a, "-")
	y, isOtherLess := strings.CutPrefix(b, "-")
	switch {
	case isLess && isOtherLess:
		return compareDecimals(y, x)
	case isLess || isOtherLess:
		if strings.Trim(x+y, "0.") == "" {
			return 0
		}
		return cmp.Compare(btoi(isOtherLess), btoi(isLess))
	}
	whole, part, _ := strings.Cut(x, ".")
	otherWhole, otherPart, _ := strings.Cut(y, ".")
	whole, otherWhole = strings.TrimLeft(whole, "0"), strings.TrimLeft(otherWhole, "0")
	return cmp.Or(cmp.Compare(len(whole), len(otherWhole)), strings.Compare(whole, otherWhole),
		strings.Compare(strings.TrimRight(part, "0"), strings.TrimRight(otherPart, "0")))
}
