package warehouse

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"meterhouse/etl"
)

//go:embed alert_conditions.sql
var alertConditions string

// How alerts behave.
const (
	// Better news is told only when it has lasted, so that what comes and goes is told once.
	alertHold = 15 * time.Minute
	// What grows is told again, but not more often, unless it has doubled or reached all.
	alertGrowth = 24 * time.Hour
	// So many notices go out at once in an hour. Further ones wait, and then one tells everything
	// that has changed meanwhile: whatever happens, people are not flooded.
	noticesAtOnce = 3
	pageSpacing   = 5 * time.Minute
	warnSpacing   = 30 * time.Minute
	// A pause in judging longer than that gives what fell due in it time to be caught up. Runs from
	// cron judge every few minutes only, and a restart is no pause.
	watchPause = time.Hour
	// Without a judgement for that long, people would not hear of trouble.
	judgedWithin = 10 * time.Minute
	// Missing days are looked for only so often: it reads all days that were ever expected.
	daysEvery = 10 * time.Minute
	// Clocks that differ more than that make trouble for leases and token exchanges.
	skewWarn = 5 * time.Second
	skewPage = 60 * time.Second
	// How long the word of another machine about its clock stands.
	skewWord = 30 * time.Minute
	// Alerts note when they were last met only so often.
	seenEvery = 10 * time.Minute
)

// AlertCheck says how conditions are judged.
type AlertCheck struct {
	// Watched is what is configured: nobody is told of accounts and customers that are no longer.
	// nil: everything that was ever loaded.
	Watched []Watched
	// Enqueue is called for each new notice within the transaction that writes it, to insert a job
	// that delivers it. nil: whoever calls [Notices.Due] finds it, at once.
	Enqueue func(ctx context.Context, tx pgx.Tx, notice int64) error
	// Wall is this machine's clock, which is compared with the database's; default time.Now.
	Wall func() time.Time
}

// Watched is one configured account.
type Watched struct {
	Source    string   `json:"source"` // keystone or wolkvox
	Account   string   `json:"account"`
	Customers []string `json:"customers"` // of Keystone; nil: all that the account sees
}

// CheckAlerts judges every condition as of now and writes what changed as a notice to people, all in
// one transaction. Any number of processes may call it at once: one judges at a time, and each change
// is in one notice. What did not change writes nothing, so it can be called every minute. It tells
// what the notice tells; nothing when there is none.
//
// Conditions follow the business clock, set right by the clock of the database where the two differ;
// credentials, and everything when the business clock stands still, follow the wall clock.
func (w *Warehouse) CheckAlerts(ctx context.Context, check AlertCheck) (changes []etl.AlertChange, err error) {
	if check.Wall == nil {
		check.Wall = time.Now
	}
	if check.Watched != nil && len(check.Watched) == 0 {
		check.Watched = []Watched{{}} // nothing, which is not the same as everything
	}
	err = pgx.BeginTxFunc(ctx, w.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		changes, err = w.checkAlerts(ctx, tx, check)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("check alerts: %w", err)
	}
	return changes, nil
}

func (w *Warehouse) checkAlerts(ctx context.Context, tx pgx.Tx, check AlertCheck) ([]etl.AlertChange, error) {
	// A process that hangs with the lock shall not keep the others silent for ever. Many small steps
	// are judged faster than they are compiled.
	if _, err := tx.Exec(ctx, `select set_config('lock_timeout', '15s', true), set_config('statement_timeout', '60s', true),
		set_config('idle_in_transaction_session_timeout', '60s', true), set_config('jit', 'off', true)`); err != nil {
		return nil, err
	}
	j := judge{ctx: ctx, tx: tx}
	var checkedAt, watchingSince, daysAt *time.Time
	if err := tx.QueryRow(ctx, `select checked_at, watching_since, days_checked_at from ops.alert_check for update`).Scan(&checkedAt, &watchingSince, &daysAt); err != nil {
		return nil, err
	}
	skew, err := w.clockSkew(ctx, tx, check.Wall)
	if err != nil {
		return nil, err
	}
	// One clock for all processes: the database's, unless the business clock is another altogether.
	business := w.cfg.Now()
	j.now = check.Wall().Add(skew).UTC()
	if !w.cfg.Fixed {
		j.now = business.Add(skew).UTC()
		business = j.now
	}
	if checkedAt == nil || watchingSince == nil || j.now.Sub(*checkedAt) > watchPause {
		watchingSince = &j.now
	}
	if j.days = daysAt == nil || j.now.Sub(*daysAt).Abs() >= daysEvery; j.days {
		daysAt = &j.now
	}
	if err := j.readConditions(business, *watchingSince, check.Watched); err != nil {
		return nil, err
	}
	if err := j.readStanding(); err != nil {
		return nil, err
	}
	j.judgeClock(w.cfg.Owner, skew)
	changes, err := j.decide()
	if err != nil {
		return nil, err
	}
	if len(changes) > 0 {
		if err := j.notify(changes, check.Enqueue); err != nil {
			return nil, err
		}
	}
	if err := j.save(); err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `update ops.alert_check set checked_at = $1, watching_since = $2, days_checked_at = $3, finished_at = clock_timestamp()`,
		j.now, watchingSince, daysAt)
	return changes, err
}

// clockSkew is the database's clock minus ours, as well as one question can tell: the way there and
// back counts for nothing.
func (w *Warehouse) clockSkew(ctx context.Context, tx pgx.Tx, wall func() time.Time) (time.Duration, error) {
	before := wall()
	var there time.Time
	if err := tx.QueryRow(ctx, `select clock_timestamp()`).Scan(&there); err != nil {
		return 0, err
	}
	after := wall()
	switch {
	case there.Before(before):
		return there.Sub(before), nil
	case there.After(after):
		return there.Sub(after), nil
	}
	return 0, nil
}

// condition is something that wants a person now.
type condition struct {
	etl.Alert
	progress int64
	heals    bool
	whole    int64 // of how many progress counts; 0: it counts otherwise
}

// standing is an alert as it is stored, or is to be stored.
type standing struct {
	condition
	openedAt, seenAt time.Time
	calmSince        *time.Time
	told             *telling
	closedAt         *time.Time

	present bool // the condition holds now
	dirty   bool // differs from what is stored
}

// telling is what people were last told of an alert.
type telling struct {
	kind     string
	severity etl.Severity
	progress int64
	at       time.Time
}

func degree(s etl.Severity) int { return slices.Index([]etl.Severity{etl.Warn, etl.Page}, s) + 1 }

// judge holds one look at all conditions.
type judge struct {
	ctx context.Context
	tx  pgx.Tx
	now time.Time
	// Whether missing days are looked for this time; otherwise what was found last stands.
	days bool

	conditions []condition
	standing   map[string]*standing // open ones, and those whose condition holds
}

func (j *judge) readConditions(business, watchingSince time.Time, watched []Watched) error {
	// Views that speak of now shall speak of this one.
	if _, err := j.tx.Exec(j.ctx, `select set_config('meterhouse.now', $1, true)`, business.UTC().Format(time.RFC3339Nano)); err != nil {
		return err
	}
	var configured *string
	if watched != nil {
		text, err := json.Marshal(watched)
		if err != nil {
			return err
		}
		configured = new(string)
		*configured = string(text)
	}
	// An account without a single run is late some time after it was first configured.
	if _, err := j.tx.Exec(j.ctx, `
		insert into ops.alert_watched (source, account, since)
		select source, account, $2 from jsonb_to_recordset($1::jsonb) as x (source text, account text) where source <> ''
		on conflict do nothing`, configured, business); err != nil {
		return err
	}
	rows, err := j.tx.Query(j.ctx, alertConditions, business, configured, watchingSince, j.days)
	if err != nil {
		return err
	}
	var c condition
	var account *string
	_, err = pgx.ForEachRow(rows, []any{&c.Key, &c.Kind, &c.Severity, &account, &c.Subject, &c.Detail, &c.Since, &c.progress, &c.heals, &c.whole}, func() error {
		c.Account = ""
		if account != nil {
			c.Account = *account
		}
		c.Since = c.Since.UTC()
		j.conditions = append(j.conditions, c)
		return nil
	})
	return err
}

func (j *judge) readStanding() error {
	keys := make([]string, len(j.conditions))
	for i, c := range j.conditions {
		keys[i] = c.Key
	}
	rows, err := j.tx.Query(j.ctx, `
		select alert_key, kind, severity, coalesce(account, ''), subject, detail, since, progress, heals, whole, opened_at, seen_at, calm_since,
			told_kind, told_severity, told_progress, told_at, closed_at
		from ops.alert
		where closed_at is null
		union all
		select alert_key, kind, severity, coalesce(account, ''), subject, detail, since, progress, heals, whole, opened_at, seen_at, calm_since,
			told_kind, told_severity, told_progress, told_at, closed_at
		from ops.alert
		where alert_key = any ($1) and closed_at is not null`, keys)
	if err != nil {
		return err
	}
	j.standing = map[string]*standing{}
	var s standing
	var toldKind, toldSeverity *string
	var toldProgress *int64
	var toldAt *time.Time
	_, err = pgx.ForEachRow(rows, []any{
		&s.Key, &s.Kind, &s.Severity, &s.Account, &s.Subject, &s.Detail, &s.Since, &s.progress, &s.heals, &s.whole, &s.openedAt, &s.seenAt, &s.calmSince,
		&toldKind, &toldSeverity, &toldProgress, &toldAt, &s.closedAt,
	}, func() error {
		one := s
		one.Since = one.Since.UTC()
		if toldAt != nil {
			one.told = &telling{*toldKind, etl.Severity(*toldSeverity), *toldProgress, *toldAt}
		}
		j.standing[one.Key] = &one
		return nil
	})
	return err
}

// judgeClock adds the condition that this machine's clock and the database's differ. Only this
// machine can tell that of its clock; what others told of theirs stands for a while.
func (j *judge) judgeClock(owner string, skew time.Duration) {
	const kind = "clock"
	host, _, _ := strings.Cut(owner, "/")
	mine := kind + ":" + host
	for key, s := range j.standing {
		if s.Kind == kind && key != mine && s.closedAt == nil && j.now.Sub(s.seenAt) < skewWord {
			s.present = true
		}
	}
	if skew.Abs() <= skewWarn {
		return
	}
	c := condition{heals: true, Alert: etl.Alert{
		Key: mine, Kind: kind, Severity: etl.Warn, Since: j.now,
		Subject: fmt.Sprintf("the clock of %s and the database's differ by %s", host, skew.Abs().Round(time.Second)),
		Detail:  "Set both clocks, such as with NTP. Leases, token exchanges and what is due go by them.",
	}}
	if skew.Abs() > skewPage {
		c.Severity = etl.Page
		c.Detail += " No token is exchanged and no licence is read like that."
	}
	if s := j.standing[mine]; s != nil && s.closedAt == nil {
		c.Since = s.Since
	}
	j.conditions = append(j.conditions, c)
}

// decide brings the alerts to what holds now and tells what of it is news, unless that has to wait.
func (j *judge) decide() ([]etl.AlertChange, error) {
	for _, c := range j.conditions {
		s := j.standing[c.Key]
		switch {
		case s == nil:
			s = &standing{openedAt: j.now, seenAt: j.now, dirty: true}
			j.standing[c.Key] = s
		case s.closedAt != nil && !s.heals && !c.heals && s.told != nil && c.progress <= s.told.progress: // an event: it was told, and is over
			continue
		case s.closedAt != nil:
			*s = standing{openedAt: j.now, seenAt: j.now, dirty: true}
		}
		if s.condition != c {
			s.condition, s.dirty = c, true
		}
		if s.present = true; j.now.Sub(s.seenAt) >= seenEvery || c.Kind == "clock" {
			s.seenAt, s.dirty = j.now, true
		}
	}
	for _, s := range j.standing {
		if s.Kind == "days_missing" && !j.days && s.closedAt == nil {
			s.present = true
		}
	}
	var news []*standing
	var changes []etl.AlertChange
	for _, s := range j.standing {
		if s.closedAt != nil {
			continue
		}
		if change := s.change(j.now); change != "" {
			news = append(news, s)
			changes = append(changes, etl.AlertChange{Change: change, Alert: s.Alert})
		}
	}
	if len(news) == 0 {
		return nil, nil
	}
	if wait, err := j.mustWait(worst(changes)); wait || err != nil {
		return nil, err
	}
	for _, s := range news {
		s.dirty = true
		s.calmSince = nil
		s.told = &telling{s.Kind, s.Severity, s.progress, j.now}
		if !s.present {
			s.closedAt = &j.now
		}
	}
	slices.SortFunc(changes, func(a, b etl.AlertChange) int {
		if d := weight(b) - weight(a); d != 0 {
			return d
		}
		return strings.Compare(a.Key, b.Key)
	})
	return changes, nil
}

// weight puts the worst first and good news last.
func weight(c etl.AlertChange) int {
	if c.Change == etl.AlertResolved {
		return 0
	}
	return degree(c.Severity)
}

func worst(changes []etl.AlertChange) etl.Severity {
	most := 0
	for _, c := range changes {
		most = max(most, weight(c))
	}
	return []etl.Severity{etl.Resolved, etl.Warn, etl.Page}[most]
}

// change is what people are to be told of the alert now; "" for nothing. Bad news at once, better
// news when it has lasted. What nobody was told of, and what cannot heal, ends in silence.
func (s *standing) change(now time.Time) etl.Change {
	is, was := 0, 0
	if s.present {
		is = degree(s.Severity)
	}
	if s.told != nil {
		was = degree(s.told.severity)
	}
	switch {
	case is == 0 && (was == 0 || !s.heals):
		s.closedAt, s.dirty = &now, true
		return ""
	case was == 0:
		return etl.AlertOpened
	case is >= was:
		if s.calmSince != nil {
			s.calmSince, s.dirty = nil, true
		}
		switch {
		case is > was || s.Kind != s.told.kind:
			return etl.AlertWorsened
		case s.progress > s.told.progress && (now.Sub(s.told.at) >= alertGrowth || s.spread()):
			return etl.AlertGrew
		}
		return ""
	}
	if s.calmSince == nil {
		s.calmSince, s.dirty = &now, true
	}
	switch {
	case now.Sub(*s.calmSince) < alertHold:
		return ""
	case is == 0:
		return etl.AlertResolved
	}
	return etl.AlertEased
}

// spread tells whether it has reached twice as many as people were told of, or all.
func (s *standing) spread() bool {
	return s.whole > 0 && (s.progress >= 2*s.told.progress || s.progress >= s.whole)
}

// mustWait tells whether people were told so much of late that this has to wait. Meanwhile the
// alerts stay untold, and what is told in the end is how they stand then.
func (j *judge) mustWait(severity etl.Severity) (bool, error) {
	var recent int
	var newest *time.Time
	err := j.tx.QueryRow(j.ctx, `select count(*), max(noticed_at) from ops.alert_notice where noticed_at > $1 and noticed_at <= $2`,
		j.now.Add(-time.Hour), j.now).Scan(&recent, &newest)
	if err != nil || recent < noticesAtOnce {
		return false, err
	}
	spacing := warnSpacing
	if severity == etl.Page {
		spacing = pageSpacing
	}
	return j.now.Sub(*newest) < spacing, nil
}

// notify writes one notice of the changes.
func (j *judge) notify(changes []etl.AlertChange, enqueue func(context.Context, pgx.Tx, int64) error) error {
	text, err := json.Marshal(changes)
	if err != nil {
		return err
	}
	// A job delivers it; whoever looks for what is left over waits until that had its chance.
	var chance time.Duration
	if enqueue != nil {
		chance = 5 * time.Minute
	}
	var id int64
	if err := j.tx.QueryRow(j.ctx, `
		insert into ops.alert_notice (noticed_at, severity, changes, next_try_at)
		values ($1, $2, $3, clock_timestamp() + $4::interval) returning notice_id`, j.now, string(worst(changes)), string(text), chance).Scan(&id); err != nil {
		return err
	}
	if enqueue == nil {
		return nil
	}
	return enqueue(j.ctx, j.tx, id)
}

func (j *judge) save() error {
	batch := &pgx.Batch{}
	for _, s := range j.standing {
		if !s.dirty {
			continue
		}
		var toldKind, toldSeverity *string
		var toldProgress *int64
		var toldAt *time.Time
		if t := s.told; t != nil {
			severity := string(t.severity)
			toldKind, toldSeverity, toldProgress, toldAt = &t.kind, &severity, &t.progress, &t.at
		}
		batch.Queue(`
			insert into ops.alert (alert_key, kind, severity, account, subject, detail, since, progress, heals, whole, opened_at, seen_at, calm_since,
				told_kind, told_severity, told_progress, told_at, closed_at)
			values ($1, $2, $3, nullif($4, ''), $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
			on conflict (alert_key) do update
			set kind = excluded.kind, severity = excluded.severity, account = excluded.account, subject = excluded.subject, detail = excluded.detail,
				since = excluded.since, progress = excluded.progress, heals = excluded.heals, whole = excluded.whole, opened_at = excluded.opened_at, seen_at = excluded.seen_at,
				calm_since = excluded.calm_since, told_kind = excluded.told_kind, told_severity = excluded.told_severity,
				told_progress = excluded.told_progress, told_at = excluded.told_at, closed_at = excluded.closed_at`,
			s.Key, s.Kind, string(s.Severity), s.Account, s.Subject, s.Detail, s.Since, s.progress, s.heals, s.whole, s.openedAt, s.seenAt, s.calmSince,
			toldKind, toldSeverity, toldProgress, toldAt, s.closedAt)
	}
	return j.tx.SendBatch(j.ctx, batch).Close()
}

// Alerts are those that are open, the worst first, then the oldest.
func (w *Warehouse) Alerts(ctx context.Context) ([]etl.Alert, error) {
	rows, err := w.pool.Query(ctx, `
		select alert_key, kind, severity, coalesce(account, ''), subject, detail, since
		from ops.alert
		where closed_at is null
		order by severity, since, alert_key`)
	if err != nil {
		return nil, fmt.Errorf("read alerts: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a etl.Alert, err error) {
		err = row.Scan(&a.Key, &a.Kind, &a.Severity, &a.Account, &a.Subject, &a.Detail, &a.Since)
		a.Since = a.Since.UTC()
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("read alerts: %w", err)
	}
	return all, nil
}

// Alive is nil while people would hear of trouble: conditions were judged in the last minutes, and no
// notice has waited for half an hour to be delivered or was the last to be given up. Without it a dead-man signal must stay away.
func (w *Warehouse) Alive(ctx context.Context) error {
	var ago, waiting *time.Duration
	var givenUp bool
	err := w.pool.QueryRow(ctx, `
		select
			clock_timestamp() - (select finished_at from ops.alert_check),
			clock_timestamp() - (select min(created_at) from ops.alert_notice where settled_at is null),
			coalesce((select outcome = 'given_up' from ops.alert_notice where settled_at is not null order by notice_id desc limit 1), false)`).Scan(&ago, &waiting, &givenUp)
	switch {
	case err != nil:
		return fmt.Errorf("look whether alerts work: %w", err)
	case ago == nil:
		return errors.New("conditions were never judged")
	case *ago > judgedWithin:
		return fmt.Errorf("conditions were last judged %s ago, want every minute", ago.Round(time.Second))
	case waiting != nil && *waiting > 30*time.Minute:
		return fmt.Errorf("a notice has waited %s to be delivered: see ops.alert_delivery", waiting.Round(time.Second))
	case givenUp:
		return errors.New("the last notice was given up, nobody got it: see ops.alert_delivery")
	}
	return nil
}

// Notices is where notices wait to be delivered.
type Notices struct{ w *Warehouse }

// Notices are the notices to people.
func (w *Warehouse) Notices() *Notices { return &Notices{w} }

const (
	// A claim is longer than an attempt on all channels can take.
	claimFor = 5 * time.Minute
	// After that nobody wants to hear it any more; what is still wrong is in mart.alert.
	giveUpAfter = 72 * time.Hour
)

// Claim takes the notice for this process, for five minutes. ok is false when nothing is left to do
// about it; the error is etl.ErrNoticeTaken while another process has it.
func (n *Notices) Claim(ctx context.Context, id int64) (notice etl.Notice, ok bool, err error) {
	var changes string
	err = n.w.pool.QueryRow(ctx, `
		update ops.alert_notice as n
		set claimed_until = clock_timestamp() + $2, attempts = attempts + 1
		where notice_id = $1 and settled_at is null and (claimed_until is null or claimed_until < clock_timestamp())
		returning notice_id, token::text, noticed_at, severity, changes::text, attempts - 1,
			array(select channel from ops.alert_delivery as d where d.notice_id = n.notice_id and delivered_at is not null order by channel)`, id, claimFor).
		Scan(&notice.ID, &notice.Token, &notice.At, &notice.Severity, &changes, &notice.Attempts, &notice.Delivered)
	if errors.Is(err, pgx.ErrNoRows) {
		var settled bool
		err = n.w.pool.QueryRow(ctx, `select settled_at is not null from ops.alert_notice where notice_id = $1`, id).Scan(&settled)
		if err == nil && !settled {
			err = etl.ErrNoticeTaken
		}
		if errors.Is(err, pgx.ErrNoRows) {
			err = errors.New("there is no such notice")
		}
		if err != nil {
			return notice, false, fmt.Errorf("notice %d: %w", id, err)
		}
		return notice, false, nil
	}
	if err == nil {
		notice.At = notice.At.UTC()
		err = json.Unmarshal([]byte(changes), &notice.Changes)
	}
	if err != nil {
		return notice, false, fmt.Errorf("notice %d: %w", id, err)
	}
	return notice, true, nil
}

// Attempted records how an attempt on one channel ended: with nil, the receiver took the notice.
func (n *Notices) Attempted(ctx context.Context, id int64, channel string, failure error) error {
	var reason *string
	if failure != nil {
		text := cleanError(failure)
		reason = &text
	}
	_, err := n.w.pool.Exec(ctx, `
		insert into ops.alert_delivery as d (notice_id, channel, attempts, delivered_at, last_error)
		values ($1, $2, 1, case when $3::text is null then clock_timestamp() end, $3)
		on conflict (notice_id, channel) do update
		set attempts = d.attempts + 1,
			delivered_at = coalesce(d.delivered_at, excluded.delivered_at),
			last_error = case when d.delivered_at is null then excluded.last_error end`, id, channel, reason)
	if err != nil {
		return fmt.Errorf("notice %d: record attempt by %s: %w", id, channel, err)
	}
	return nil
}

// Settle says that nothing is left to do: it was delivered everywhere, or logged for want of a
// channel. Safe to repeat.
func (n *Notices) Settle(ctx context.Context, id int64, delivered bool) error {
	outcome := "logged"
	if delivered {
		outcome = "delivered"
	}
	_, err := n.w.pool.Exec(ctx, `update ops.alert_notice set settled_at = clock_timestamp(), outcome = $2, claimed_until = null
		where notice_id = $1 and settled_at is null`, id, outcome)
	if err != nil {
		return fmt.Errorf("notice %d: settle: %w", id, err)
	}
	return nil
}

// Postpone gives the notice back after a failed attempt. It is due again after a minute, then two,
// then four, at most an hour; after three days it is given up, which the returned flag tells. What it
// told, unless one channel took it, counts as told to nobody: what is still wrong gets a new notice.
func (n *Notices) Postpone(ctx context.Context, id int64) (givenUp bool, err error) {
	err = pgx.BeginFunc(ctx, n.w.pool, func(tx pgx.Tx) error {
		// Alerts are written by one at a time, who holds this lock.
		if _, err := tx.Exec(ctx, `select from ops.alert_check for update`); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `
			update ops.alert_notice
			set claimed_until = null,
				next_try_at = clock_timestamp() + least(interval '1 hour', interval '1 minute' * (2 ^ least(attempts - 1, 6))),
				settled_at = case when created_at < clock_timestamp() - $2::interval then clock_timestamp() end,
				outcome = case when created_at < clock_timestamp() - $2::interval then 'given_up' end
			where notice_id = $1 and settled_at is null
			returning settled_at is not null`, id, giveUpAfter).Scan(&givenUp)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && !givenUp {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			update ops.alert as a
			set told_kind = null, told_severity = null, told_progress = null, told_at = null
			from ops.alert_notice as n
			where n.notice_id = $1
				and a.told_at = n.noticed_at
				and a.alert_key in (select change ->> 'key' from jsonb_array_elements(n.changes) as change)
				and not exists (select from ops.alert_delivery as d where d.notice_id = n.notice_id and d.delivered_at is not null)`, id)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("notice %d: postpone: %w", id, err)
	}
	return givenUp, nil
}

// Waiting are the notices that are not settled, up to one, the oldest first.
func (n *Notices) Waiting(ctx context.Context, upTo int64) ([]int64, error) {
	rows, err := n.w.pool.Query(ctx, `select notice_id from ops.alert_notice where settled_at is null and notice_id <= $1 order by notice_id`, upTo)
	if err != nil {
		return nil, fmt.Errorf("notices that wait: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("notices that wait: %w", err)
	}
	return ids, nil
}

// Due are the notices that wait to be delivered and that nobody is at, the oldest first.
func (n *Notices) Due(ctx context.Context) ([]int64, error) {
	rows, err := n.w.pool.Query(ctx, `
		select notice_id
		from ops.alert_notice
		where settled_at is null and next_try_at <= clock_timestamp() and (claimed_until is null or claimed_until < clock_timestamp())
		order by notice_id`)
	if err != nil {
		return nil, fmt.Errorf("notices due: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("notices due: %w", err)
	}
	return ids, nil
}
