package warehouse

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

// customer is the scope of a Keystone answer with everything that is stored under it.
type customer struct {
	key           int64
	subscriptions []*subscription
}

type subscription struct {
	key           int64
	number        string
	discriminator string
	start, end    *time.Time // whole seconds
	levels        []*level
}

type level struct {
	key     int64
	name    string
	ordinal int
}

// on names a day of the level instance in warnings and errors.
func (v *level) on(day etl.Day) string { return fmt.Sprintf("%s %d %s", v.name, v.ordinal, day) }

// Customer implements etl.Sink for the account's list of customers.
func (l *loader) Customer(c etl.Customer) error {
	if l.customers[c.ID] {
		return fmt.Errorf("customer %q came twice from the transform", c.ID)
	}
	l.customers[c.ID] = true
	var stored *string
	var account string
	var absent *time.Time
	err := l.tx.QueryRow(l.ctx, `select customer_name, account, absent_since from dw.dim_customer where customer_id = $1`, c.ID).
		Scan(&stored, &account, &absent)
	same := c.Name == nil || stored != nil && *stored == *c.Name
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		l.out.Inserted++
		if _, err := l.payload(); err != nil {
			return err
		}
		_, err = l.tx.Exec(l.ctx, `insert into dw.dim_customer (customer_id, customer_name, account, first_seen_at, seen_at)
			values ($1, $2, $3, $4, $4)`, c.ID, c.Name, l.run.job.Account, l.ans.FetchedAt)
		return err
	case err != nil:
		return err
	case len(l.newer) > 0 && !same: // a list from before the newest one
		l.out.Ignored++
		return nil
	case same:
		l.out.Unchanged++
		if len(l.newer) > 0 || absent == nil && account == l.run.job.Account {
			return nil
		}
		_, err = l.tx.Exec(l.ctx, `update dw.dim_customer set absent_since = null, account = $2 where customer_id = $1`, c.ID, l.run.job.Account)
		return err
	case stored == nil:
		l.out.Inserted++ // known before only by its id
	default:
		l.out.Restated++
		l.warn("restated", "customer "+c.ID)
	}
	if _, err := l.payload(); err != nil {
		return err
	}
	_, err = l.tx.Exec(l.ctx, `update dw.dim_customer set customer_name = $2, account = $3, seen_at = $4, absent_since = null where customer_id = $1`,
		c.ID, c.Name, l.run.job.Account, l.ans.FetchedAt)
	return err
}

// theCustomer is the customer whose data was asked for, made if need be.
func (l *loader) theCustomer() (*customer, error) {
	if l.customer != nil {
		return l.customer, nil
	}
	l.customer = l.scope
	if l.customer == nil {
		c := &customer{}
		if err := l.tx.QueryRow(l.ctx, `insert into dw.dim_customer (customer_id, account, first_seen_at, seen_at)
			values ($1, $2, $3, $3) returning customer_key`, l.run.job.Scope, l.run.job.Account, l.ans.FetchedAt).Scan(&c.key); err != nil {
			return nil, fmt.Errorf("customer %s: %w", l.run.job.Scope, err)
		}
		l.customer = c
	}
	return l.customer, nil
}

// storedSubscription finds which of a customer's stored subscriptions a record means; nil when it is new. A number
// that an answer holds once means the stored one with that number, whatever its dates: contracts are
// renewed. Where an answer holds it several times, equal starts decide, then equal ends; what is
// left is new. taken are the discriminators of the number.
func (l *loader) storedSubscription(c *customer, rec etl.Subscription) (found *subscription, taken map[string]bool) {
	start, end := seconds(rec.Start), seconds(rec.End)
	var candidates []*subscription
	taken = map[string]bool{}
	for _, s := range c.subscriptions {
		if s.number == rec.Number {
			taken[s.discriminator] = true
			if !l.deliveredSubs[s.key] {
				candidates = append(candidates, s)
			}
		}
	}
	found = choose(candidates, func(s *subscription) bool { return start != nil && sameTime(s.start, start) })
	if found == nil {
		found = choose(candidates, func(s *subscription) bool { return end != nil && sameTime(s.end, end) })
	}
	if found == nil && !rec.Repeated && len(candidates) > 0 {
		// Dates that match none: the one whose term began last is the one that goes on.
		found = slices.MaxFunc(candidates, func(a, b *subscription) int { return compareTimes(a.start, b.start) })
	}
	return found, taken
}

// theSubscription finds the stored subscription that a record means, or makes it, with a discriminator unless
// it is the first ever seen with its number.
func (l *loader) theSubscription(rec etl.Subscription) (*subscription, error) {
	c, err := l.theCustomer()
	if err != nil {
		return nil, err
	}
	found, taken := l.storedSubscription(c, rec)
	if found == nil {
		start, end := seconds(rec.Start), seconds(rec.End)
		found = &subscription{number: rec.Number, discriminator: discriminator(taken, start, end), start: start, end: end}
		if err := l.tx.QueryRow(l.ctx, `
			insert into dw.dim_subscription (customer_key, subscription_number, discriminator, start_at, end_at, first_seen_at)
			values ($1, $2, $3, $4, $5, $6) returning subscription_key`,
			c.key, found.number, found.discriminator, start, end, l.ans.FetchedAt).Scan(&found.key); err != nil {
			return nil, fmt.Errorf("subscription %s: %w", rec.Number, err)
		}
		c.subscriptions = append(c.subscriptions, found)
	}
	l.deliveredSubs[found.key] = true
	return found, nil
}

func choose(candidates []*subscription, fits func(*subscription) bool) *subscription {
	if i := slices.IndexFunc(candidates, fits); i >= 0 {
		return candidates[i]
	}
	return nil
}

// discriminator tells a new subscription from those with the same number: empty for the first,
// then its start, its start and end, its occurrence.
func discriminator(taken map[string]bool, start, end *time.Time) string {
	date := func(t *time.Time) string {
		if t == nil {
			return "open"
		}
		return t.UTC().Format(time.DateOnly)
	}
	for _, d := range []string{"", date(start), date(start) + ".." + date(end)} {
		if !taken[d] {
			return d
		}
	}
	for n := 2; ; n++ {
		if d := date(start) + ".." + date(end) + "#" + strconv.Itoa(n); !taken[d] {
			return d
		}
	}
}

// seconds cuts fractions: the vendor's reports disagree about them for one and the same date.
func seconds(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	cut := t.UTC().Truncate(time.Second)
	return &cut
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

func compareTimes(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return a.Compare(*b)
}

// theLevels gives each instance of a record its stored level, making what is missing. names are
// the instances in the order of the answer. Among equal names an instance takes the stored ordinal
// that it resembles most by score, and order decides only where nothing is alike.
func (l *loader) theLevels(s *subscription, names []string, score func(instance int, stored *level) int) ([]*level, error) {
	type pair struct {
		instance int
		stored   *level
		score    int
	}
	assigned := make([]*level, len(names))
	used := map[*level]bool{}
	var pairs []pair
	for i, name := range names {
		for _, v := range s.levels {
			if v.name == name {
				pairs = append(pairs, pair{i, v, score(i, v)})
			}
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.instance, b.instance), cmp.Compare(a.stored.ordinal, b.stored.ordinal))
	})
	for _, p := range pairs {
		if assigned[p.instance] == nil && !used[p.stored] {
			assigned[p.instance], used[p.stored] = p.stored, true
		}
	}
	for i, name := range names {
		if assigned[i] != nil {
			l.deliveredLevels[assigned[i].key] = true
			continue
		}
		v := &level{name: name}
		for _, other := range s.levels {
			if other.name == name {
				v.ordinal = max(v.ordinal, other.ordinal+1)
			}
		}
		if err := l.tx.QueryRow(l.ctx, `
			insert into dw.dim_service_level (customer_key, subscription_key, service_level, level_ordinal, level_class)
			values ($1, $2, $3, $4, dw.classify_level($3)) returning service_level_key`,
			l.customer.key, s.key, v.name, v.ordinal).Scan(&v.key); err != nil {
			return nil, fmt.Errorf("level %s of %s: %w", name, s.number, err)
		}
		s.levels = append(s.levels, v)
		assigned[i] = v
		l.deliveredLevels[v.key] = true
	}
	return assigned, nil
}
