package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"meterhouse/etl"
	"meterhouse/etl/alert"
	"meterhouse/etl/console"
	"meterhouse/etl/keystone"
	"meterhouse/etl/schedule"
	"meterhouse/etl/warehouse"
	"meterhouse/etl/wolkvox"
	"meterhouse/migrations"
)

func (a *app) serveCommand() *cobra.Command {
	var probe string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Load everything when it is due, for months: scheduler, worker and HTTP",
		Long: `Loads every dataset and scope when its schedule comes, and what was missed, until it is stopped.
Any number of serve and worker processes share the work through the database; each slot is loaded
once. Shows the console at console.listen, with /healthz, /readyz and /metrics, sends alerts, renews
the tokens of idle accounts and applies the retention.

SIGTERM ends it: what is being loaded is finished, or after 20 s given back. A second one ends it
at once, which is safe too.

With --probe it asks the one that runs on this machine instead, and ends with 0 when all is well,
else with 1 and the reason: for health checks of containers.`,
		Example: "  meterhouse serve\n  meterhouse --log-format json --config prod.yaml serve\n  meterhouse serve --probe",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("probe") {
				return a.probe(cmd.Context(), probe)
			}
			return a.serve(cmd.Context(), true)
		},
	}
	cmd.Flags().StringVar(&probe, "probe", "", "ask the running serve for a `state`: ready (can work) or live (answers)")
	cmd.Flags().Lookup("probe").NoOptDefVal = probeReady
	return cmd
}

func (a *app) workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "worker",
		Short: "Only load what serve processes have found to be due",
		Long: `Takes loads from the queue that serve processes of the same database fill, until it is stopped. It
plans nothing and listens nowhere: start as many as there is work for. Stops as serve does.`,
		Example: "  meterhouse worker",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), false) },
	}
}

// service is a process that goes on until it is stopped.
type service struct {
	*session
	queue  *schedule.Queue
	sender *alert.Sender
	tick   time.Duration

	isAway   atomic.Bool // the database does not answer
	mu       sync.Mutex
	failing  string // what the last tick could not do; told once
	replan   chan struct{}
	reported map[string]bool      // oddities of the configuration that were told
	queued   map[string]time.Time // slots and chores that are in the queue, and since when
}

// Clocks of the service, which tests shorten.
var (
	tickEvery = time.Minute
	queueTest = func(*schedule.Config) {}
)

// Queues, one per vendor, so that none waits for the other.
const (
	queueKeystone = "keystone"
	queueWolkvox  = "wolkvox"
)

const (
	// loadsEndAfter is how long a job begins further windows; what is left goes back to the queue.
	loadsEndAfter = 8 * time.Minute
	// readingTimeout lets every product take as long as the vendor allows it.
	readingTimeout = 30 * time.Minute
)

func (a *app) serve(ctx context.Context, isScheduler bool) (err error) {
	if a.fixed {
		return usagef("--now: the clock of serve and worker goes on, it cannot be fixed")
	}
	a.progress.off()
	s, err := a.openSession(ctx, need{database: true, vendors: true})
	if err != nil {
		return err
	}
	defer s.close(&err)
	switch err := s.prepareTokens(ctx); {
	case err != nil && len(s.wolkvox) == 0:
		return err
	case err != nil: // its readings cannot be fetched later: they do not wait for the other vendor
		a.log.Error("keystone cannot be asked until this is mended: the answer to a token exchange could not be kept", "error", err)
	}
	v := &service{session: s, tick: tickEvery, replan: make(chan struct{}, 1)}
	if v.sender, err = s.alertSender(); err != nil {
		return err
	}
	if v.queue, err = v.newQueue(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if isScheduler { // an address that is taken is found out before anything begins
		if err := v.listen(ctx, g); err != nil {
			return err
		}
	}
	a.log.Info("started", "version", buildVersion(), "schema", migrations.Head(), "process", owner(), "scheduler", isScheduler, "pooled", s.wh.IsPooled())
	context.AfterFunc(ctx, func() {
		a.log.Info("stopping: what is being loaded ends after its window, or is given back in 20 s; a second signal ends it at once")
	})
	g.Go(func() error { v.watch(ctx); return nil })
	if isScheduler {
		v.announce()
		g.Go(func() error { v.schedule(ctx); return nil })
	}
	g.Go(func() error { return v.queue.Run(ctx) })
	err = g.Wait()
	a.log.Info("stopped")
	return err
}

// newQueue is the queue of this process, not working yet.
func (v *service) newQueue() (*schedule.Queue, error) {
	config := schedule.Config{
		Pool: v.wh.Pool(), PollOnly: v.wh.IsPooled(), Name: strings.ReplaceAll(owner(), "/", "-"),
		Queues: map[string]schedule.Workers{
			queueKeystone: {Loads: v.parallel()},
			queueWolkvox:  {Loads: max(1, len(v.wolkvox)), Timeout: readingTimeout},
		},
		Load: v.load, Chore: v.chore, Now: v.app.now, Log: v.app.log,
	}
	queueTest(&config)
	return schedule.New(config)
}

// announce says when things happen next, so that a wrong zone is seen before the end of a month.
func (v *service) announce() {
	now := v.app.now()
	for _, account := range v.keystone {
		for _, dataset := range datasets[:4] {
			v.announceOne(dataset, account.cfg.Account, account.schedule(dataset), time.UTC, now)
		}
	}
	for _, account := range v.wolkvox {
		zone, _ := time.LoadLocation(account.cfg.Timezone) // validated
		v.announceOne(wolkvox.Dataset, account.cfg.Account, account.timetable(), zone, now)
	}
}

func (v *service) announceOne(dataset, account string, s schedule.Schedule, zone *time.Location, now time.Time) {
	next := s.Next(now)
	v.app.log.Info("scheduled", "dataset", dataset, "account", account, "next", stamp(next), "there", next.In(zone).Format("2006-01-02 15:04 MST"))
}

// schedule plans what is due every minute, and whenever something that was loaded makes more due.
func (v *service) schedule(ctx context.Context) {
	for {
		v.tell(v.plan(ctx))
		wait := v.tick - time.Duration(time.Now().UnixNano())%v.tick // at full minutes, as schedules are
		select {
		case <-ctx.Done():
			return
		case <-v.replan:
		case <-time.After(wait):
		}
	}
}

// watch says once that the database does not answer, and that it does again.
func (v *service) watch(ctx context.Context) {
	var away time.Time
	for tick := time.NewTicker(max(v.tick/12, 200*time.Millisecond)); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := v.wh.Skew(asking)
		cancel()
		switch {
		case ctx.Err() != nil:
		case err != nil && away.IsZero():
			away = time.Now()
			v.app.log.Warn("the database does not answer: loading stands still until it does", "error", err)
		case err == nil && !away.IsZero():
			v.app.log.Info("the database answers again", "after", time.Since(away).Round(time.Second).String())
			away = time.Time{}
		}
		v.isAway.Store(!away.IsZero())
	}
}

// tell logs what a tick could not do, once until that changes: the next one tries again.
func (v *service) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	v.mu.Lock()
	former := v.failing
	v.failing = text
	v.mu.Unlock()
	switch {
	case text == former || errors.Is(err, context.Canceled) || v.isAway.Load():
	case err != nil:
		v.app.log.Error("planning failed, tried again every minute", "error", err)
	default:
		v.app.log.Info("planning works again")
	}
}

// plan queues every slot that has come since the last success of its dataset and scope, and the chores,
// and judges what wants a person. None of the three stops the others. Any number of processes may do it at
// once.
func (v *service) plan(ctx context.Context) error {
	err := errors.Join(
		v.within(ctx, v.queueDue),
		v.within(ctx, v.alerts), // by a clock that is wrong, too: it is one of them
	)
	return errors.Join(err, v.within(ctx, func(ctx context.Context) error {
		due, choreErr := v.chores(ctx, err == nil) // after the alerts, which a sign of life vouches for
		return errors.Join(choreErr, v.add(ctx, nil, due))
	}))
}

// within bounds one part of a tick.
func (v *service) within(ctx context.Context, part func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return part(ctx)
}

// queueDue queues the slots that have come: first those that need nothing else, then account by account,
// so that one that cannot be planned does not stop the others.
func (v *service) queueDue(ctx context.Context) error {
	if err := v.checkClock(ctx); err != nil {
		return err
	}
	successes, err := v.wh.LastSuccesses(ctx)
	if err != nil {
		return err
	}
	var slots []schedule.Slot
	for _, w := range v.wolkvox {
		slots = v.addDue(slots, successes, queueWolkvox, wolkvox.Dataset, w.cfg.Account, w.cfg.Account, w.timetable(), 1)
	}
	for _, k := range v.keystone {
		slots = v.addDue(slots, successes, queueKeystone, keystone.Customers, k.cfg.Account, k.cfg.Account, k.schedule(keystone.Customers), 1)
	}
	failed := []error{v.add(ctx, slots, nil)}
	claimed := map[string]string{} // customer → account
	for _, k := range v.keystone {
		slots = nil
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		customers, _, err := v.customers(asking, k)
		cancel()
		failed = append(failed, err)
		for _, id := range customers {
			if other, taken := claimed[id]; taken {
				v.once("two accounts see the same customer", "customer", id, "loaded by", other, "not by", k.cfg.Account)
				continue
			}
			claimed[id] = k.cfg.Account
			for i, dataset := range datasets[1:4] {
				slots = v.addDue(slots, successes, queueKeystone, dataset, id, k.cfg.Account, k.schedule(dataset), 2+i)
			}
		}
		failed = append(failed, v.add(ctx, slots, nil))
	}
	return errors.Join(failed...)
}

// checkClock refuses a clock that is off: slots, days and calls follow from it.
func (v *service) checkClock(ctx context.Context) error {
	skew, err := v.wh.Skew(ctx)
	switch {
	case err != nil:
		return err
	case skew.Abs() > skewFail:
		return fmt.Errorf("the clock of this machine is off by %s from the database's: want less than %s, nothing is done by it", skew.Abs().Round(time.Minute), skewFail)
	case skew.Abs() > skewWarn:
		v.once("the clock of this machine differs from the database's", "by", skew.Round(time.Second))
	}
	return nil
}

// addDue appends the newest slot that has come since the last success.
func (v *service) addDue(slots []schedule.Slot, successes map[[2]string]time.Time, queue, dataset, scope, account string, s schedule.Schedule, priority int) []schedule.Slot {
	now := v.app.now()
	last, succeeded := successes[[2]string{dataset, scope}]
	at, due := dueSlot(s, last, succeeded, now)
	if !due {
		return slots
	}
	until := s.Next(now)
	if until.IsZero() { // it never comes again
		until = now.AddDate(1, 0, 0)
	}
	return append(slots, schedule.Slot{
		Dataset: dataset, Scope: scope, Account: account, At: at, Until: until, Queue: queue, Priority: priority,
	})
}

// requeueAfter is how long what is queued is not queued again, in case its job is gone.
const requeueAfter = 10 * time.Minute

// add queues what this process has not queued a moment ago.
func (v *service) add(ctx context.Context, slots []schedule.Slot, chores []schedule.Chore) error {
	v.mu.Lock()
	for key, at := range v.queued {
		if time.Since(at) > requeueAfter {
			delete(v.queued, key)
		}
	}
	slots = slices.DeleteFunc(slots, func(s schedule.Slot) bool { return !v.queued[s.String()].IsZero() })
	chores = slices.DeleteFunc(chores, func(c schedule.Chore) bool { return !v.queued[c.String()].IsZero() })
	v.mu.Unlock()
	added, err := v.queue.Add(ctx, slots, chores)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.queued == nil {
		v.queued = map[string]time.Time{}
	}
	for _, s := range slots {
		v.queued[s.String()] = time.Now()
	}
	for _, c := range chores {
		v.queued[c.String()] = time.Now()
	}
	for _, s := range added {
		v.app.log.Debug("due", "dataset", s.Dataset, "scope", s.Scope, "slot", stamp(s.At))
	}
	return nil
}

// once warns of something that stays as it is.
func (v *service) once(msg string, attrs ...any) {
	key := fmt.Sprint(append([]any{msg}, attrs...)...)
	v.mu.Lock()
	known := v.reported[key]
	if v.reported == nil {
		v.reported = map[string]bool{}
	}
	v.reported[key] = true
	v.mu.Unlock()
	if !known {
		v.app.log.Warn(msg, attrs...)
	}
}

// load does one slot: what the queue hands out.
func (v *service) load(ctx context.Context, slot schedule.Slot) error {
	last, succeeded, err := v.wh.LastSuccess(ctx, slot.Dataset, slot.Scope)
	if err != nil {
		return err
	}
	if succeeded && !last.Before(slot.At) && !slot.ByHand {
		return nil // a later slot, or somebody by hand, was faster
	}
	if err := v.checkClock(ctx); err != nil {
		return fmt.Errorf("%s: %w", slot, err)
	}
	source, job, err := v.slotJob(ctx, slot)
	if err != nil {
		return err
	}
	if slot.At.Unix() > 0 && !slot.ByHand {
		job.Slot = slot.At
	}
	begun := time.Now()
	l := &loader{session: v.session, pipeline: v.pipeline(), slots: make(chan struct{}, 1)}
	l.pipeline.Stop = func() bool {
		select {
		case <-v.queue.Stopping():
			return true
		default:
			return time.Since(begun) > loadsEndAfter
		}
	}
	out, err := l.pipeline.Run(ctx, source, job)
	if rest := errors.Join(out.Rejected...); err == nil && errors.Is(rest, etl.ErrUnasked) {
		err = unfinished(slot, rest)
	}
	_, lateErr := l.loadUnloaded(ctx, job)
	if err == nil && slot.Dataset == keystone.Customers {
		v.nudge() // their customers' own datasets may be due for the first time
	}
	return errors.Join(err, lateErr)
}

// unfinished is the error of a slot that stays due although something of it was loaded: what is left is
// asked for when it may be, or after a pause.
func unfinished(slot schedule.Slot, rest error) error {
	var held *etl.HeldError
	if errors.As(rest, &held) {
		return held
	}
	return fmt.Errorf("%s: not everything was asked for: %s", slot, rest)
}

func (v *service) nudge() {
	select {
	case v.replan <- struct{}{}:
	default: // one is waiting already
	}
}

// slotJob is what the pipeline has to do for a slot, by the accounts that are configured now: whose it was
// when it was planned does not matter.
func (v *service) slotJob(ctx context.Context, slot schedule.Slot) (etl.Source, etl.Job, error) {
	now := v.app.now()
	if slot.Dataset == wolkvox.Dataset {
		for _, w := range v.wolkvox {
			if w.cfg.Account == slot.Scope {
				job, err := v.readingJob(ctx, w, slot, now)
				return w, job, err
			}
		}
		return nil, etl.Job{}, stranger(slot)
	}
	k, err := v.accountOf(ctx, slot)
	if err != nil {
		return nil, etl.Job{}, err
	}
	job := k.job(slot.Dataset, slot.Scope, now)
	if slot.Dataset == keystone.History {
		if job.Windows, err = v.windows(ctx, k, slot.Scope, now); err != nil {
			return nil, job, err
		}
	}
	return k, job, nil
}

// readingJob asks for the products that may be asked for now. One that may not be yet, and was not read
// since the slot began, keeps the slot due.
func (v *service) readingJob(ctx context.Context, w *wolkvoxAccount, slot schedule.Slot, now time.Time) (etl.Job, error) {
	for _, text := range w.strangers() {
		v.once(text, "account", w.cfg.Account)
	}
	if err := v.saveProducts(ctx); err != nil {
		return etl.Job{}, err
	}
	job := w.job(now)
	allowed, err := w.Allowed(ctx, job.Products, slot.ByHand) // who names it wants it, whatever the vendor refused before
	if err != nil {
		return job, err // held: the slot waits
	}
	if len(allowed) < len(job.Products) && !slot.ByHand {
		read, err := v.wh.LandedSince(ctx, slot.Dataset, slot.Scope, slot.At)
		if err != nil {
			return job, err
		}
		for _, product := range job.Products {
			if !slices.Contains(allowed, product) && !slices.Contains(read, product) {
				job.Later = append(job.Later, product)
			}
		}
	}
	job.Products = allowed
	return job, nil
}

// accountOf is the account that a scope of Keystone belongs to now.
func (v *service) accountOf(ctx context.Context, slot schedule.Slot) (*keystoneAccount, error) {
	for _, k := range v.keystone {
		if slot.Dataset == keystone.Customers {
			if k.cfg.Account == slot.Scope {
				return k, nil
			}
			continue
		}
		customers, _, err := v.customers(ctx, k)
		if err != nil {
			return nil, err
		}
		if slices.Contains(customers, slot.Scope) {
			return k, nil
		}
	}
	return nil, stranger(slot)
}

// stranger gives a slot back that nobody here is configured for: another process may be, or will be.
func stranger(slot schedule.Slot) error {
	return &etl.HeldError{What: slot.String(), Reason: "no account of this process's configuration has it: want the same configuration everywhere", Until: time.Now().Add(time.Minute)}
}

// Chores of the service.
const (
	choreKeepAlive = "keep_alive"
	chorePrune     = "prune"
	choreNotice    = "notice"    // tell people; the key is its number
	choreNotices   = "notices"   // tell what waits: what no job tells, or one failed to
	choreHeartbeat = "heartbeat" // through queue and worker, so that it stays away when one of them stands still
)

const (
	noticeTries    = 15 // the pauses between them grow: about a day in all
	heartbeatEvery = 5 * time.Minute
)

// chores that are due: each comes once, whoever adds it. Without planning that works there is no sign of
// life.
func (v *service) chores(ctx context.Context, isWell bool) (due []schedule.Chore, err error) {
	now := v.app.now().UTC()
	for _, k := range v.keystone {
		due = append(due, schedule.Chore{Name: choreKeepAlive, Key: k.cfg.Account + "@" + now.Truncate(time.Hour).Format(time.RFC3339)})
	}
	waiting, err := v.wh.Notices().Due(ctx)
	if len(waiting) > 0 {
		due = append(due, schedule.Chore{Name: choreNotices, Key: now.Truncate(time.Minute).Format(time.RFC3339)})
	}
	if isWell && v.cfg.Alerts.Heartbeat.text() != "" {
		due = append(due, schedule.Chore{Name: choreHeartbeat, Key: now.Truncate(heartbeatEvery).Format(time.RFC3339), Tries: 3})
	}
	if keep := v.cfg.Retention; keep.Payload+keep.Samples > 0 {
		due = append(due, schedule.Chore{Name: chorePrune, Key: now.Format(time.DateOnly), Tries: 3})
	}
	return due, err
}

// chore does one.
func (v *service) chore(ctx context.Context, c schedule.Chore) error {
	switch c.Name {
	case choreKeepAlive:
		account, _, _ := strings.Cut(c.Key, "@")
		for _, k := range v.keystone {
			if k.cfg.Account == account {
				return v.keepAlive(ctx, k)
			}
		}
		return nil // taken out of the configuration
	case chorePrune:
		return v.prune(ctx)
	case choreNotice:
		id, err := strconv.ParseInt(c.Key, 10, 64)
		if err != nil {
			return fmt.Errorf("chore %s %q: want a number", c.Name, c.Key)
		}
		return v.sender.Send(ctx, id)
	case choreNotices:
		return v.sender.SendDue(ctx)
	case choreHeartbeat:
		return v.heartbeat(ctx, v.sender)
	}
	return fmt.Errorf("unknown chore %q: want the same version of meterhouse everywhere", c.Name)
}

// keepAlive renews the token of an account for which nothing was loaded for two days. What goes wrong
// shows in the credential's state, which alerts.
func (v *service) keepAlive(ctx context.Context, k *keystoneAccount) error {
	renewed, err := k.KeepAlive(ctx)
	if err != nil {
		v.app.log.Warn("idle token not renewed", "account", k.cfg.Account, "error", err)
	}
	if renewed {
		v.app.log.Info("idle token renewed", "account", k.cfg.Account)
	}
	return nil
}

func (v *service) prune(ctx context.Context) error {
	pruned, err := v.wh.Prune(ctx, warehouse.Retention{
		Payload: time.Duration(v.cfg.Retention.Payload), Samples: time.Duration(v.cfg.Retention.Samples),
		DirectURL: v.cfg.Database.DirectURL.text(),
	})
	for _, p := range pruned {
		level := slog.LevelInfo
		if p.Stays != "" {
			level = slog.LevelWarn
		}
		v.app.log.Log(ctx, level, "pruned", "what", p.What, "of", p.Of, "rows", p.Rows, "bytes", p.Bytes, "stays", p.Stays)
	}
	return err
}

// hurry has the loads of an account tried again now that failed for want of a credential. Without it they
// would be within the hour.
func (s *session) hurry(ctx context.Context, account string) {
	queue, err := schedule.New(schedule.Config{Pool: s.wh.Pool(), PollOnly: s.wh.IsPooled(), Log: s.app.log})
	if err == nil {
		err = queue.Hurry(ctx, account)
	}
	if err != nil {
		s.app.log.Warn("loads that wait are not tried at once", "account", account, "error", err)
	}
}

// listen shows the console, with health, readiness and figures, unless no address is configured.
func (v *service) listen(ctx context.Context, g *errgroup.Group) error {
	if v.cfg.Console.Listen == "" {
		return nil
	}
	cfg := v.consoleConfig()
	cfg.Loads = v
	server, err := console.New(cfg)
	if err != nil {
		return fmt.Errorf("%w: choose another console.listen (METERHOUSE_CONSOLE_LISTEN), or leave it empty for none", err)
	}
	v.app.log.Info("listening", "url", "http://"+server.Addr())
	g.Go(func() error { return server.Serve(ctx) })
	return nil
}

// alerts judges what wants a person, and queues the notices of what is new with it.
func (v *service) alerts(ctx context.Context) error {
	check := v.alertCheck()
	check.Enqueue = func(ctx context.Context, tx pgx.Tx, notice int64) error {
		return v.queue.AddTx(ctx, tx, schedule.Chore{Name: choreNotice, Key: strconv.FormatInt(notice, 10), Tries: noticeTries})
	}
	_, err := v.wh.CheckAlerts(ctx, check)
	return err
}
