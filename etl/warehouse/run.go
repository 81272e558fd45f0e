package warehouse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"meterhouse/etl"
	"meterhouse/etl/internal/killpoint"
)

// run is one attempt at one window, opened by StartRun and closed by Load or Fail.
type run struct {
	w      *Warehouse
	lease  *lease
	job    etl.Job
	window etl.Window
	id     int64

	rebuilding   *rebuild       // while a rebuild applies answers
	loadedBefore map[int64]bool // landed answers of this run that were loaded by an earlier one
	// refusedBefore are those of which something was refused then.
	refusedBefore map[int64]bool
	reading       []byte // of the answer just loaded, where it may be repeated
}

// StartRun records the run and, for windows, makes the partitions it may need, with the job's first window
// those of all. Both are committed on return: partitions are made outside the load, so that a load takes no
// lock that readers feel.
func (w *Warehouse) StartRun(ctx context.Context, l etl.Lease, job etl.Job, window etl.Window, startedAt time.Time) (etl.Run, error) {
	r := &run{w: w, lease: l.(*lease), job: job, window: window}
	from, until := windowDates(window)
	var fixed *time.Time
	if w.cfg.Fixed {
		fixed = &startedAt
	}
	batch := &pgx.Batch{} // one transaction
	// A run fixed in the past, such as a late replay, does not take the present back.
	batch.Queue(`
		update ops.clock set fixed_at = $1
		where fixed_at is distinct from $1
			and ($1::timestamptz is null or not exists (select from ops.run where business_at > $1))`, fixed)
	batch.Queue(`
		insert into ops.run (source, dataset, scope, account, window_from, window_until, owner, fence, business_at, replay_of)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10::bigint, 0)) returning run_id`,
		job.Source, job.Dataset, job.Scope, job.Account, from, until, w.cfg.Owner, r.lease.fence, startedAt, job.ReplayOf).
		QueryRow(func(row pgx.Row) error { return row.Scan(&r.id) })
	windows := []etl.Window{window}
	if slices.Index(job.Windows, window) == 0 { // the others begin while one loads, which may hold what this needs
		windows = job.Windows
	}
	havePartitions := true
	if months := monthsOf(windows...); len(months) > 0 {
		names := make([]string, len(months))
		for i, month := range months {
			names[i] = partitionOf(month)
		}
		batch.Queue(`
			select bool_and(exists (select from pg_inherits where inhrelid = to_regclass('dw.' || month.name) and not inhdetachpending))
			from unnest($1::text[]) as month (name)`, names).QueryRow(func(row pgx.Row) error { return row.Scan(&havePartitions) })
	}
	if err := w.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	if !havePartitions {
		if err := w.makePartitions(ctx, window); err != nil {
			return nil, errors.Join(err, r.Fail(ctx, nil, err))
		}
		if err := w.makePartitions(ctx, windows...); err != nil { // it is for the runs of those windows to fail of it
			w.cfg.Log.Warn("months of later windows not made yet", "run", r.id, "error", err)
		}
	}
	return r, nil
}

func windowDates(w etl.Window) (from, until *time.Time) {
	if w.IsZero() {
		return nil, nil
	}
	f, u := w.From.Time(), w.Until.Time()
	return &f, &u
}

// monthsOf are the months that the windows touch, each once.
func monthsOf(windows ...etl.Window) (months []etl.Day) {
	for _, w := range windows {
		for month := w.From.Month(); month < w.Until; month = month.NextMonth() {
			if !slices.Contains(months, month) {
				months = append(months, month)
			}
		}
	}
	return months
}

func partitionOf(month etl.Day) string {
	return "fact_consumption_sample_" + month.Time().Format("2006_01")
}

// makePartitions creates the monthly partitions of the samples that the windows touch.
func (w *Warehouse) makePartitions(ctx context.Context, windows ...etl.Window) error {
	for _, month := range monthsOf(windows...) {
		name := partitionOf(month)
		var exists bool
		if err := w.pool.QueryRow(ctx, `select exists (select from pg_inherits where inhrelid = to_regclass('dw.' || $1) and not inhdetachpending)`,
			name).Scan(&exists); err != nil {
			return fmt.Errorf("look for partition %s: %w", name, err)
		}
		if exists {
			continue
		}
		// Loads lock dimensions before facts, and so does this: the other way round two of them would
		// wait for each other. Attaching leaves readers of the parent alone. What an interrupted Prune left
		// of the month gets out of the way first: that may have to wait for readers, so nothing else is locked yet. It is
		// emptied and left to the next Prune, because to drop it would lock readers of the dimensions out.
		sql := fmt.Sprintf(`
			do $$
			begin
				if exists (select from pg_inherits where inhrelid = to_regclass('dw.%[1]s') and inhdetachpending) then
					alter table dw.fact_consumption_sample detach partition dw.%[1]s finalize;
				end if;
				perform pg_advisory_xact_lock(hashtextextended('meterhouse partitions', 0));
				if not exists (select from pg_inherits where inhrelid = to_regclass('dw.%[1]s'))
					and obj_description(to_regclass('dw.%[1]s'), 'pg_class') = '%[4]s' then
					truncate table dw.%[1]s;
					execute format('alter table dw.%[1]s rename to %%I', '%[1]s_' || to_regclass('dw.%[1]s')::oid);
				end if;
				lock table dw.dim_customer, dw.dim_service_level in share row exclusive mode;
				if to_regclass('dw.%[1]s') is null then
					create table dw.%[1]s (like dw.fact_consumption_sample including defaults including constraints) with (fillfactor = 90);
					alter table dw.fact_consumption_sample attach partition dw.%[1]s
						for values from ('%[2]s 00:00:00+00') to ('%[3]s 00:00:00+00');
				elsif not exists (select from pg_inherits where inhrelid = 'dw.%[1]s'::regclass) then
					raise exception 'table dw.%[1]s is there and not a partition: rename it, or attach it again';
				end if;
			end
			$$`, name, month, month.NextMonth(), doomed)
		for attempt := 1; ; attempt++ {
			_, err := w.pool.Exec(ctx, sql)
			if err == nil {
				break
			}
			if !repeatable(err) || attempt == loadAttempts {
				return fmt.Errorf("create partition %s: %w", name, err)
			}
		}
	}
	return nil
}

func (r *run) ID() int64 { return r.id }

// LeaveSlotOpen says that the slot stays due whatever this run loads.
func (r *run) LeaveSlotOpen() { r.job.SlotOpen = true }

// landPatience is the sum of the pauses between attempts to land a body, about.
const landPatience = 10 * time.Second

// Land stores the body in a transaction of its own. An answer that is landed already stays as it is.
// While the database cannot be reached it is tried again: nobody has the body but us. The number that
// the first attempt drew makes that safe when its COMMIT came through and the reply did not.
func (r *run) Land(ctx context.Context, ans *etl.Answer) error {
	if ans.PayloadID != 0 {
		return nil
	}
	var id int64
	land := func() error {
		isRepeat := id != 0
		frame, err := ans.Body.Zstd()
		if err != nil {
			return err
		}
		defer frame.Close()
		err = pgx.BeginFunc(ctx, r.w.pool, func(tx pgx.Tx) (err error) {
			if !isRepeat {
				if id, err = nextPayloadID(ctx, tx); err != nil {
					return err
				}
			}
			if err := r.copyPayload(ctx, tx.Conn().PgConn(), id, ans, frame); err != nil {
				return err
			}
			killpoint.Here(killpoint.LandCommitting)
			return nil
		})
		var pgErr *pgconn.PgError
		if isRepeat && errors.As(err, &pgErr) && pgErr.ConstraintName == "payload_pkey" {
			return nil // the attempt before was committed
		}
		return err
	}
	err := land()
	for pause := 100 * time.Millisecond; unreachable(err) && pause < landPatience && ctx.Err() == nil; pause *= 2 {
		r.w.cfg.Log.Warn("landing repeated", "run", r.id, "request", ans.Request.String(), "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		err = land()
	}
	if err != nil {
		return fmt.Errorf("land %s: %w", ans.Request, err)
	}
	ans.PayloadID = id
	killpoint.Here(killpoint.LandCommitted)
	return nil
}

func nextPayloadID(ctx context.Context, tx pgx.Tx) (id int64, err error) {
	err = tx.QueryRow(ctx, `select nextval(pg_get_serial_sequence('raw.payload', 'payload_id'))`).Scan(&id)
	return id, err
}

// copyPayload stores an answer as payload id. The frame of its body goes from where it waits to the server
// piece by piece.
func (r *run) copyPayload(ctx context.Context, conn *pgconn.PgConn, id int64, ans *etl.Answer, frame etl.Frame) error {
	sum, window := ans.Body.SHA256(), ans.Request.Window
	b := newCopyBuffer("raw.payload", "payload_id", "run_id", "source", "dataset", "scope", "account", "product", "window_from", "window_until",
		"method", "url", "requested_at", "fetched_at", "status", "content_type", "body_bytes", "body_sha256", "body_zstd")
	b.startRow()
	b.int64(id)
	b.int64(r.id)
	for _, text := range []string{r.job.Source, ans.Request.Dataset, ans.Request.Scope, r.job.Account, ans.Request.Product} {
		b.bytes([]byte(text))
	}
	if window.IsZero() {
		b.null()
		b.null()
	} else {
		b.day(window.From)
		b.day(window.Until)
	}
	b.bytes([]byte(ans.Method))
	b.bytes([]byte(ans.URL))
	b.time(ans.RequestedAt)
	b.time(ans.FetchedAt)
	b.int32(int32(ans.Status))
	b.bytes([]byte(ans.ContentType))
	b.int64(ans.Body.Size())
	b.bytes(sum[:])
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(frame.Size()))
	row := io.MultiReader(bytes.NewReader(copyHeader), bytes.NewReader(b.buf), frame, bytes.NewReader([]byte{0xff, 0xff}))
	_, err := conn.CopyFrom(ctx, row, b.sql())
	return err
}

// failPatience bounds the record of a failure. It is short because it may be the database that failed, and
// a process that was told to stop waits for it; whoever has the lease next closes what was left open.
const failPatience = 10 * time.Second

// Fail closes the run as failed. Evidence, when there is any, is landed with it.
func (r *run) Fail(ctx context.Context, evidence *etl.Answer, reason error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), failPatience)
	defer cancel()
	if evidence != nil && evidence.PayloadID == 0 {
		if err := r.Land(ctx, evidence); err != nil {
			reason = errors.Join(reason, err)
		}
	}
	err := pgx.BeginFunc(ctx, r.w.pool, func(tx pgx.Tx) error {
		var payload *int64
		var fetched *time.Time
		if evidence != nil {
			fetched = &evidence.FetchedAt
			if evidence.PayloadID != 0 {
				payload = &evidence.PayloadID
			}
		}
		// A run that was closed meanwhile, by whoever took the lease over, stays as it is.
		tag, err := tx.Exec(ctx, `update ops.run
			set status = 'failed', finished_at = clock_timestamp(), error = $2, error_class = $5, payload_id = $3, fetched_at = $4
			where run_id = $1 and status = 'running'`, r.id, cleanError(reason), payload, fetched, errorClass(reason))
		if err != nil {
			return err
		}
		batch := &pgx.Batch{}
		if tag.RowsAffected() == 1 {
			r.count(ctx, batch, "failed", etl.Outcome{})
		}
		r.moveWatermark(batch, nil, nil)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("record the failure of run %d: %w", r.id, err)
	}
	return nil
}

// errorClass says who acts on an error, the one first who must; nil where that is nobody in particular.
func errorClass(err error) *string {
	for _, class := range []struct {
		err  error
		name string
	}{
		{etl.ErrUnauthorized, "unauthorized"}, {etl.ErrContract, "contract"}, {etl.ErrThrottled, "throttled"}, {etl.ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, class.err) {
			return &class.name
		}
	}
	return nil
}

// cleanError is the text of an error for a text column: no NUL, bounded.
func cleanError(err error) string { return cleanText(err.Error(), 4000) }

// cleanText is a text without control characters, of at most so many characters.
func cleanText(s string, most int) string {
	text := []rune(s)
	if len(text) > most {
		text = append(text[:most-1], '…')
	}
	for i, c := range text {
		if c < ' ' && c != '\n' {
			text[i] = '\uFFFD'
		}
	}
	return string(text)
}

// Load is the whole write: see the package's story. It is repeated, whole, on serialization
// failures and deadlocks; nothing of a former attempt is left.
func (r *run) Load(ctx context.Context, answers []*etl.Answer, unanswered []error, transform func(*etl.Answer, etl.Sink) (etl.Report, error)) (etl.Outcome, error) {
	r.job.SlotOpen = r.job.SlotOpen || errors.Is(errors.Join(unanswered...), etl.ErrUnasked)
	for attempt := 1; ; attempt++ {
		out, evidence, err := r.tryLoad(ctx, answers, unanswered, transform, attempt == loadAttempts)
		if err == nil {
			return out, nil
		}
		if repeatable(err) && attempt < loadAttempts && ctx.Err() == nil {
			r.w.cfg.Log.Warn("load repeated", "run", r.id, "attempt", attempt, "error", err)
			continue
		}
		empty := etl.Outcome{Rejected: out.Rejected, Warnings: etl.Warnings{}}
		return empty, errors.Join(err, r.Fail(ctx, evidence, err))
	}
}

const loadAttempts = 5

// repeatable tells failures that come from what others did at the same moment. A unique violation
// is one: two scopes may meet the same new customer, product or member of an answer.
func repeatable(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case "40001", "40P01", "23505": // serialization_failure, deadlock_detected, unique_violation
		return true
	}
	return false
}

// unreachable tells that the server did not refuse something but was not there, or went.
func unreachable(err error) bool {
	var pgErr *pgconn.PgError
	if err == nil || !errors.As(err, &pgErr) {
		return err != nil
	}
	switch pgErr.Code {
	case "57P01", "57P02", "57P03": // admin_shutdown, crash_shutdown, cannot_connect_now
		return true
	}
	return strings.HasPrefix(pgErr.Code, "08") // connection exceptions
}

// tryLoad makes one attempt, the last or not. When it fails, evidence is the answer that explains it, if one does.
func (r *run) tryLoad(ctx context.Context, answers []*etl.Answer, unanswered []error, transform func(*etl.Answer, etl.Sink) (etl.Report, error), last bool) (out etl.Outcome, evidence *etl.Answer, err error) {
	out.Warnings = etl.Warnings{}
	out.Rejected = append(out.Rejected, unanswered...)
	// Each statement shall see what was committed before it, whatever the role's default is.
	first := &pgx.Batch{}
	first.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	lockScope(first, r.job.Source, r.job.Scope)
	r.lease.hold(first)
	begun := r.w.pool.SendBatch(ctx, first)
	tx := begun.Tx()
	defer tx.Rollback(context.WithoutCancel(ctx))
	if err := begun.Close(); err != nil {
		return out, nil, fmt.Errorf("load: begin and lock the scope: %w", err)
	}
	killpoint.Here(killpoint.LoadBegun)

	r.reading = nil
	landed := map[*etl.Answer]int64{} // bodies that this transaction stores
	loaded := 0
	if r.job.Aside {
		if err := r.stillLanded(ctx, tx, answers); err != nil {
			return out, nil, fmt.Errorf("load: %w", err)
		}
	}
	hasVersions := r.job.Dataset == datasetHistory || r.job.Dataset == datasetSubscriptions
	for _, ans := range answers {
		if hasVersions && r.loadedBefore[ans.PayloadID] != r.job.Rebuild && r.job.Aside {
			return out, nil, fmt.Errorf("load: payload %d: what has versions is rebuilt from all answers that were loaded, and from no other", ans.PayloadID)
		}
	}
	if r.job.Rebuild && len(unanswered) > 0 { // with an answer missing the end would be another
		return out, nil, fmt.Errorf("rebuild: %w", errors.Join(unanswered...))
	}
	if r.job.Rebuild {
		if out, err = r.rebuild(ctx, tx, answers, transform); err != nil {
			return out, nil, fmt.Errorf("rebuild: %w", err)
		}
		loaded = len(answers)
		answers = nil // the run stands for many: it is no observation of its own
	}
	for _, ans := range answers {
		one, payload, err := r.loadAnswer(ctx, tx, ans, transform, nil)
		if refusal(err) != nil && (!repeatable(err) || last) {
			one, payload, err = r.loadRest(ctx, tx, ans, transform, err, last)
		}
		var reject *etl.RejectError
		switch {
		case err == nil:
			out.Add(one)
			out.SameAs = one.SameAs
			landed[ans] = payload
			loaded++
		case errors.As(err, &reject):
			out.Rejected = append(out.Rejected, fmt.Errorf("transform%s: %w", product(ans), err))
			evidence = ans
		default:
			return out, nil, fmt.Errorf("load%s: %w", product(ans), err)
		}
	}
	if loaded == 0 {
		return out, evidence, errors.Join(out.Rejected...)
	}
	killpoint.Here(killpoint.FactsWritten)
	if err := r.close(ctx, tx, answers, landed, out); err != nil {
		return out, nil, fmt.Errorf("load: close run: %w", err)
	}
	killpoint.Here(killpoint.LoadCommitting)
	if err := r.commit(ctx, tx); err != nil {
		return out, nil, err
	}
	killpoint.Here(killpoint.LoadCommitted)
	for ans, payload := range landed {
		ans.PayloadID = payload
	}
	return out, nil, nil
}

func product(ans *etl.Answer) string {
	if ans.Request.Product == "" {
		return ""
	}
	return " " + ans.Request.Product
}

// commit ends the load. When the reply is lost nobody knows whether it happened, so the run's own
// row is read on another connection: it says so, because it was written in the same transaction.
// The read waits for a commit that is still under way.
func (r *run) commit(ctx context.Context, tx pgx.Tx) error {
	err := tx.Commit(ctx)
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pgErr) && !unreachable(err): // a pooler says by an error of its own that its server went
		return fmt.Errorf("load: commit: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	var status string
	if readErr := r.w.pool.QueryRow(ctx, `select status from ops.run where run_id = $1 for share`, r.id).Scan(&status); readErr != nil {
		return fmt.Errorf("load: commit: outcome unknown: %w", errors.Join(err, readErr))
	}
	if status == "ok" || status == "partial" {
		return nil
	}
	return fmt.Errorf("load: commit did not happen: %w", err)
}

// loadRest loads what is left of an answer without the parts for which the database refused it with cause. What
// others did at the same moment is returned as such, unless this attempt is the last.
func (r *run) loadRest(ctx context.Context, tx pgx.Tx, ans *etl.Answer, transform func(*etl.Answer, etl.Sink) (etl.Report, error), cause error, last bool) (out etl.Outcome, payload int64, err error) {
	culprits, err := r.sift(ctx, tx, ans, transform, last)
	if err == nil && len(culprits) > 0 {
		out, payload, err = r.loadAnswer(ctx, tx, ans, transform, culprits)
	}
	switch {
	case repeatable(err) && !last:
		return etl.Outcome{}, 0, err
	case err != nil || len(culprits) == 0:
		return etl.Outcome{}, 0, errors.Join(cause, err)
	}
	r.w.cfg.Log.Error("the database refused records, the rest is loaded", "run", r.id, "records", len(culprits), "error", cause)
	return out, payload, nil
}

// loadAnswer turns one answer into facts under a savepoint: a rejected answer leaves nothing. The parts
// without are refused.
func (r *run) loadAnswer(ctx context.Context, tx pgx.Tx, ans *etl.Answer, transform func(*etl.Answer, etl.Sink) (etl.Report, error), without map[spot]string) (out etl.Outcome, payload int64, err error) {
	l := &loader{ctx: ctx, run: r, outer: &loadTx{tx, &copying{}}, ans: ans}
	defer l.unpack()
	defer l.outer.settle() // a panic must not leave a COPY behind that has the connection
	if err := l.begin(); err != nil {
		return out, 0, err
	}
	report := etl.Report{Warnings: etl.Warnings{}}
	same, err := l.repeated()
	switch {
	case err != nil:
		err = fmt.Errorf("look for the same answer: %w", err)
	case same != nil:
		report = *same
	case !ans.NoData:
		var sink etl.Sink = l
		if without != nil {
			sink = &sieve{loader: l, without: without}
		}
		report, err = transform(ans, sink)
	}
	killpoint.Here(killpoint.Parsed)
	if err == nil {
		err = l.finish(report)
	}
	if err != nil {
		if rollbackErr := l.tx.Rollback(ctx); rollbackErr != nil && !errors.Is(rollbackErr, pgx.ErrTxClosed) {
			return out, 0, errors.Join(err, rollbackErr)
		}
		return out, 0, err
	}
	r.reading = l.reading
	return l.out, max(l.landed, ans.PayloadID), l.tx.Commit(ctx) // releases the savepoint
}

// close writes the run record, moves the watermark and renews the lease, which could not be renewed
// while the load held it.
func (r *run) close(ctx context.Context, tx pgx.Tx, answers []*etl.Answer, landed map[*etl.Answer]int64, out etl.Outcome) error {
	status := "ok"
	var reason, class *string
	if out.Partial() {
		status = "partial"
	}
	if err := errors.Join(out.Rejected...); err != nil {
		text := cleanError(err)
		reason, class = &text, errorClass(err)
	}
	var payload *int64
	var sum []byte
	var size int64
	var fetched *time.Time
	for _, ans := range answers {
		size += ans.Body.Size()
		if fetched == nil || ans.FetchedAt.After(*fetched) {
			fetched = &ans.FetchedAt
		}
	}
	if len(answers) == 1 {
		h := answers[0].Body.SHA256()
		sum = h[:]
		if id := landed[answers[0]]; id != 0 {
			payload = &id
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(`
		update ops.run
		set status = $2, finished_at = clock_timestamp(), error = $3, payload_id = $4, body_sha256 = $5, body_bytes = $6, fetched_at = $7,
			received = $8, inserted = $9, restated = $10, unchanged = $11, ignored = $12, quarantined = $13, absent = $14, error_class = $15,
			reading_sha256 = $16, same_as = nullif($17::bigint, 0)
		where run_id = $1 and status = 'running'`,
		r.id, status, reason, payload, sum, size, fetched,
		out.Received, out.Inserted, out.Restated, out.Unchanged, out.Ignored, out.Quarantined, out.Absent, class, r.reading, out.SameAs).
		Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() != 1 {
				return etl.ErrFenced
			}
			return nil
		})
	for name, w := range out.Warnings {
		batch.Queue(`insert into ops.run_warning (run_id, warning, occurrences, first_path) values ($1, $2, $3, $4)`,
			r.id, name, w.Count, w.FirstPath)
	}
	r.count(ctx, batch, status, out)
	r.moveWatermark(batch, fetched, r.slotDone(answers))
	r.lease.renewHeld(batch)
	return tx.SendBatch(ctx, batch).Close()
}

// count writes what the run asked of its vendor, and adds the run, which ends with this transaction, to
// the sums of its scope. The lease and the order of the rows keep writers of the same sums from waiting
// for each other in a circle.
func (r *run) count(ctx context.Context, batch *pgx.Batch, status string, out etl.Outcome) {
	calls := etl.CallsOf(ctx).ByClass()
	counted, kinds, totals := []string{"runs"}, []string{status}, []int{1}
	add := func(what, kind string, n int) {
		if n > 0 {
			counted, kinds, totals = append(counted, what), append(kinds, kind), append(totals, n)
		}
	}
	add("records", "inserted", out.Inserted)
	add("records", "restated", out.Restated)
	add("records", "unchanged", out.Unchanged)
	add("records", "ignored", out.Ignored)
	add("records", "quarantined", out.Quarantined)
	for class, n := range calls {
		add("calls", class, n)
		batch.Queue(`insert into ops.run_call (run_id, class, calls) values ($1, $2, $3)`, r.id, class, n)
	}
	batch.Queue(`
		insert into ops.run_total as sum (source, dataset, scope, account, counted, kind, total)
		select $1, $2, $3, $4, n.counted, n.kind, n.total
		from unnest($5::text[], $6::text[], $7::bigint[]) as n (counted, kind, total)
		order by n.counted, n.kind
		on conflict (dataset, scope, account, counted, kind) do update set total = sum.total + excluded.total`,
		r.job.Source, r.job.Dataset, r.job.Scope, r.job.Account, counted, kinds, totals)
}

// slotDone is up to when the schedule was served: when the first of the answers was asked for, since what
// is read over a slot's beginning was not all read after it; the slot of the job itself in any case.
func (r *run) slotDone(answers []*etl.Answer) *time.Time {
	var oldest *time.Time
	for _, ans := range answers {
		if oldest == nil || ans.RequestedAt.Before(*oldest) {
			oldest = &ans.RequestedAt
		}
	}
	if oldest != nil && r.job.Slot.After(*oldest) {
		oldest = &r.job.Slot
	}
	return oldest
}

// moveWatermark records the run as the scope's last one. With a success it also moves the
// watermark, which never moves back: for windows to the first expected day without an answer, for
// readings of the present to the time of the answer.
func (r *run) moveWatermark(batch *pgx.Batch, success, slotDone *time.Time) {
	if r.job.Aside {
		return
	}
	zone := r.job.Zone
	if zone == "" {
		zone = "UTC"
	}
	if r.job.SlotOpen || success == nil {
		slotDone = nil
	}
	believable := r.w.believable()
	var nextDue *time.Time
	if slotDone != nil && !r.job.NextDue.IsZero() {
		nextDue = &r.job.NextDue
	}
	var expected *time.Time
	if r.job.Expected != 0 {
		t := r.job.Expected.Time()
		expected = &t
	}
	batch.Queue(`
		insert into ops.watermark as mark (source, dataset, scope, account, last_success_at, last_run_id, next_due_at, expected_from, settle, zone)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		on conflict (dataset, scope) do update
		set account = excluded.account,
			last_success_at = case
				when excluded.last_success_at is not null and mark.last_success_at > $11 then excluded.last_success_at
				else greatest(mark.last_success_at, excluded.last_success_at)
			end,
			last_run_id = excluded.last_run_id,
			next_due_at = coalesce(excluded.next_due_at, mark.next_due_at),
			expected_from = coalesce(excluded.expected_from, mark.expected_from),
			settle = excluded.settle,
			zone = excluded.zone`,
		r.job.Source, r.job.Dataset, r.job.Scope, r.job.Account, slotDone, r.id, nextDue, expected, r.job.Settle, zone, believable)
	switch {
	case success == nil:
	case r.window.IsZero():
		batch.Queue(`update ops.watermark set watermark = case when watermark > $4 then $3 else greatest(watermark, $3) end
			where dataset = $1 and scope = $2`, r.job.Dataset, r.job.Scope, success, believable)
	default:
		batch.Queue(moveWindowWatermark, r.job.Dataset, r.job.Scope)
	}
}

// The first expected day without an answer, looked for from where the watermark stands.
const moveWindowWatermark = `
with mark as (
    select greatest(watermark, expected_from::timestamp at time zone 'UTC') as since
    from ops.watermark
    where dataset = $1 and scope = $2
),

answered as (
    select c.day, row_number() over (order by c.day) - 1 as steps
    from ops.coverage as c
    cross join mark
    where c.dataset = $1 and c.scope = $2 and c.product = '' and c.day >= (mark.since at time zone 'UTC')::date
),

gap as (
    select (mark.since at time zone 'UTC')::date + count(answered.day)::integer as day
    from mark
    left join answered on answered.day = (mark.since at time zone 'UTC')::date + answered.steps::integer
    group by mark.since
)

update ops.watermark as w
set watermark = gap.day::timestamp at time zone 'UTC'
from gap
where w.dataset = $1 and w.scope = $2 and w.watermark is distinct from gap.day::timestamp at time zone 'UTC'`
