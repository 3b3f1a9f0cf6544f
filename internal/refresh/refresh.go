// Package refresh refreshes materialized views and records each refresh with an
// as-of that never overstates freshness.
//
// One refresh is one transaction: the view's data, the log, the state and the
// history change together or not at all.
package refresh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// Triggers of an attempt, as the history names them.
const (
	TriggerSchedule  = "schedule"
	TriggerManual    = "manual"
	TriggerTerraform = "terraform"
)

// Request is one refresh that somebody asked for.
type Request struct {
	View    string // any name that matview.ParseName reads; the canonical one is recorded
	Method  Method // "" is [Auto]
	Trigger string
	// LockTimeout bounds each wait for a lock, of which there are up to
	// [lockTries]; 0 is none, and then there is one.
	LockTimeout time.Duration
	// StatementTimeout bounds the refresh statement; 0 leaves the server's.
	StatementTimeout time.Duration
	// Settings hold for the transaction of the refresh only.
	Settings map[string]string
	// TotalJobs and TotalObjects are SQL expressions over the view; "" is none.
	TotalJobs, TotalObjects string
	// SkipUnchanged, unless nil, skips the refresh within these bounds where
	// nothing that the view reads has changed.
	SkipUnchanged *Skipping
	// Attempt is the history row that a claim has made already; 0 makes one.
	Attempt int64
}

// Result is what a successful refresh recorded.
type Result struct {
	View       string // canonical
	Skipped    bool   // nothing had changed: there is no Method
	Method     Method // the one that was used
	Reason     string // why that one
	AsOf       *time.Time
	FinishedAt time.Time
	// LockWait is the time spent waiting for others' locks, failed tries for them
	// included; Duration is that of the refresh without it.
	LockWait time.Duration
	Duration time.Duration
	// RowsInserted and RowsDeleted are how many rows a concurrent refresh wrote,
	// a changed one counting in both; nil for the other methods, which write all.
	RowsInserted, RowsDeleted *int64
	TotalJobs                 *int64
	// TotalObjects is null too where the expression failed; Warning says why.
	TotalObjects *int64
	Warning      string
}

// DurationMS is the duration as it was recorded, in whole milliseconds.
func (r Result) DurationMS() int64 { return ceilMillis(r.Duration) }

// Refresher refreshes views over one pool. Its pool needs a connection for each
// refresh that runs at once and one more for the heartbeat, unless that has another
// pool; see [Refresher.Beside].
type Refresher struct {
	pool        *pgxpool.Pool
	beside      *pgxpool.Pool
	schema      string
	attemptedBy string
	beat        *heartbeat
}

// New makes a refresher that records in the tables of schema. attemptedBy names
// this process in the history.
func New(pool *pgxpool.Pool, schema, attemptedBy string) *Refresher {
	return &Refresher{pool: pool, beside: pool, schema: schema, attemptedBy: attemptedBy, beat: newHeartbeat(pool, schema)}
}

// Beside gives what is done beside a refresh under way, the heartbeat above all, a
// pool of its own: for where others may hold all connections of the refresher's
// for as long as they like. One connection is enough. It is to be called before
// the first refresh.
func (r *Refresher) Beside(pool *pgxpool.Pool) *Refresher {
	r.beside, r.beat.pool = pool, pool
	return r
}

// recordTimeout bounds the recording of a failure, which must happen also when
// the refresh's own context has ended.
const recordTimeout = 5 * time.Second

// Refresh refreshes one view and records it. It waits for another refresh of
// the same view, by anyone of ours. A failure is recorded in a transaction of
// its own and returned; the view then has the data that it had.
func (r *Refresher) Refresh(ctx context.Context, req Request) (Result, error) {
	if req.Method == "" {
		req.Method = Auto
	}
	attempt, err := r.begin(ctx, req)
	if err != nil {
		return Result{}, r.notBegun(ctx, req, fmt.Errorf("refresh %s: %w", req.View, err))
	}
	defer attempt.end()
	if req.Method != Auto {
		attempt.chosen.method = req.Method
	}
	if req.SkipUnchanged != nil {
		if result, skipped := attempt.unchanged(attempt.alive); skipped {
			return result, nil
		}
	}
	result, err := attempt.run(attempt.alive)
	if err == nil {
		return result, nil
	}
	// Whoever ended it with a cause knows better than the server why.
	if cause := context.Cause(attempt.alive); cause != attempt.alive.Err() { //nolint:errorlint // the very one
		err = canceled(cause)
	}
	err = fmt.Errorf("refresh %s: %w", attempt.view, err)
	recordCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	// The connection may be what failed.
	attempt.conn.Release()
	if recordErr := r.recordFailure(recordCtx, attempt, err); recordErr != nil {
		err = errors.Join(err, recordErr)
	}
	return Result{}, err
}

// notBegun records why an attempt that was claimed could not begin, such as for
// want of a connection: it would be taken for that of a process that died.
func (r *Refresher) notBegun(ctx context.Context, req Request, err error) error {
	if req.Attempt == 0 || errors.Is(err, ErrTakenOver) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("refresh %s: %w", req.View, canceled(cause))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if recordErr := r.recordFailure(ctx, &attempt{id: req.Attempt}, err); recordErr != nil {
		err = errors.Join(err, recordErr)
	}
	return err
}

// run tries until the refresh is done: again where a lock was not free within
// lock_timeout or a table was seen by halves, and by another method where a swap that nobody insisted on is
// impossible. Each try is a transaction of its own, so that between two of them
// nobody waits for us, and the as-of is that of the one that succeeded.
func (a *attempt) run(ctx context.Context) (Result, error) {
	var waited time.Duration
	wanted := choice{method: a.request.Method}
	for try := 1; ; {
		start := time.Now()
		result, chosen, err := a.try(ctx, wanted)
		if err == nil {
			result.LockWait += waited
			return result, nil
		}
		a.forgetBackend(ctx)
		switch {
		case ctx.Err() != nil:
			return Result{}, err
		case chosen.instead != "" && isImpossible(err):
			waited += result.LockWait
			wanted = choice{method: chosen.instead, reason: fmt.Sprintf(insteadOfSwap+"%s), since %s", chosen.reason, postgres.Message(a.lockError(ctx, err, try)))}
		case try < lockTries && a.request.LockTimeout > 0 && isLocked(err):
			if err := pause(ctx, min(a.request.LockTimeout, maxPause)); err != nil {
				return Result{}, err
			}
			waited += time.Since(start)
			try++
		case try < lockTries && isRewritten(err):
			waited += time.Since(start)
			try++
		default:
			return Result{}, a.lockError(ctx, err, try)
		}
	}
}

// try is the transaction. Nothing in it reads or locks the view before the
// refresh statement: a session that holds any lock of the view jumps the queue
// of those that wait for it, and an older snapshot in the queue would overwrite
// ours afterwards. The result of a failed one has no more than LockWait.
func (a *attempt) try(ctx context.Context, wanted choice) (result Result, chosen choice, err error) {
	conn := a.conn.Conn()
	defer func() {
		if err != nil && !conn.IsClosed() {
			rollback, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
			defer cancel()
			_, _ = conn.Exec(rollback, "ROLLBACK")
		}
	}()
	lockStart := time.Now()
	tx, facts, err := a.prepare(ctx, conn)
	if err != nil {
		return Result{}, choice{}, err
	}
	if err := a.showBackend(ctx, conn); err != nil {
		return Result{}, choice{}, err
	}
	result = Result{View: a.view, LockWait: time.Since(lockStart)}
	if a.counted != nil && a.counted.view != facts.OID { // replaced while it waited for the lock
		a.counted = nil
	}
	if chosen, err = choose(wanted, facts); err != nil {
		return Result{}, choice{}, err
	}
	result.Method, result.Reason = chosen.method, a.whyRefreshed(chosen.reason)
	a.chosen = choice{method: result.Method, reason: result.Reason}
	var done refreshed
	if chosen.method == Swap {
		done, err = a.swap(ctx, tx, facts)
	} else {
		done, err = a.refresh(ctx, conn, facts, chosen.method)
	}
	result.LockWait += done.lockWait
	if err != nil {
		return Result{LockWait: result.LockWait}, chosen, err
	}
	result.AsOf, result.FinishedAt = done.asOf, done.finishedAt
	result.Duration = done.finishedAt.Sub(done.startedAt) - done.lockWait
	result.RowsInserted, result.RowsDeleted = done.rowsInserted, done.rowsDeleted
	if done.totals == nil {
		done.totals = a.totals(ctx, conn, facts)
	}
	result.TotalJobs, result.TotalObjects, result.Warning = done.totals.jobs, done.totals.objects, done.totals.warning
	batch := &pgx.Batch{}
	record(batch, a.schema, a.view, done, outcome{
		attempt: a.id, method: result.Method, reason: result.Reason, warning: result.Warning,
		lockWait: result.LockWait, duration: result.Duration, totalJobs: result.TotalJobs, totalObjects: result.TotalObjects,
		counted: a.counted,
	})
	batch.Queue("COMMIT")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return Result{}, chosen, recordError(err)
	}
	return result, chosen, nil
}

// prepare opens the transaction, takes the view's advisory lock, which is a
// statement of its own as the snapshot of any later one must follow it, and
// reads the catalog. One round trip.
func (a *attempt) prepare(ctx context.Context, conn *pgx.Conn) (pgx.Tx, facts, error) {
	batch := &pgx.Batch{}
	if err := a.checkSettings(); err != nil {
		return nil, facts{}, fmt.Errorf("apply its settings: %w", err)
	}
	// Explicitly: a default of REPEATABLE READ would put the snapshot before the lock.
	batch.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	a.configure(batch)
	a.queueMark(batch)
	matview.QueueLock(batch, a.view)
	a.queueFacts(batch)
	defer a.watch().stop()
	results := conn.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	for _, step := range []string{"begin", "apply its settings", "mark its session", "wait for another refresh of it"} {
		if _, err := results.Exec(); err != nil {
			return nil, facts{}, fmt.Errorf("%s: %w", step, err)
		}
	}
	f, err := scanFacts(results.QueryRow())
	if err != nil {
		return nil, facts{}, err
	}
	if err := results.Close(); err != nil {
		return nil, facts{}, err
	}
	if !f.MayRefresh {
		return nil, facts{}, a.missingRight(ctx, conn, f)
	}
	return results.Tx(), f, nil
}

// idleTimeout ends a transaction whose client went silent between two
// statements, where the client is gone but its connection still seems open.
const idleTimeout = "10s"

func (a *attempt) checkSettings() error {
	for name := range a.request.Settings {
		if err := schedule.CheckSettingName(name); err != nil {
			return &statedError{err, pgerrcode.InsufficientPrivilege}
		}
	}
	return nil
}

// configure sets what holds for this transaction only.
func (a *attempt) configure(batch *pgx.Batch) {
	set := map[string]string{
		"idle_in_transaction_session_timeout": idleTimeout,
		"lock_timeout":                        millis(a.request.LockTimeout),
	}
	for name, value := range a.request.Settings {
		if strings.EqualFold(name, "search_path") {
			value = schedule.SafePath(value)
		}
		set[name] = value
	}
	if a.request.StatementTimeout > 0 {
		set["statement_timeout"] = millis(a.request.StatementTimeout)
	}
	names := make([]string, 0, len(set))
	values := make([]string, 0, len(set))
	for name, value := range set {
		names, values = append(names, name), append(values, value)
	}
	// client_connection_check_interval (14+) ends the backend of a killed client
	// within a second, in the middle of its statement. The mark keeps the event
	// trigger for the refreshes of others from recording this one too.
	batch.Queue(`
SELECT set_config(s.name, s.value, true)
FROM (SELECT unnest($1::text[]) AS name, unnest($2::text[]) AS value
      UNION ALL
      SELECT 'client_connection_check_interval', '1s' WHERE current_setting('server_version_num')::int >= 140000
      UNION ALL
      SELECT 'matview.own', txid_current()::text) AS s`,
		names, values)
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%dms", (d+time.Millisecond-1)/time.Millisecond)
}
