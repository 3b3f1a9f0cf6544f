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
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
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
	// LockTimeout bounds each wait for a lock; 0 is none.
	LockTimeout time.Duration
	// StatementTimeout bounds the refresh statement; 0 leaves the server's.
	StatementTimeout time.Duration
	// Settings hold for the transaction of the refresh only.
	Settings map[string]string
	// TotalJobs and TotalObjects are SQL expressions over the view; "" is none.
	TotalJobs, TotalObjects string
	// Attempt is the history row that a claim has made already; 0 makes one.
	Attempt int64
}

// Result is what a successful refresh recorded.
type Result struct {
	View       string // canonical
	Method     Method // the one that was used
	Reason     string // why that one
	AsOf       *time.Time
	FinishedAt time.Time
	LockWait   time.Duration
	Duration   time.Duration
	TotalJobs  *int64
	// TotalObjects is null too where the expression failed; Warning says why.
	TotalObjects *int64
	Warning      string
}

// Refresher refreshes views over one pool. Its pool needs a connection for each
// refresh that runs at once and one more for the heartbeat.
type Refresher struct {
	pool        *pgxpool.Pool
	schema      string
	attemptedBy string
	beat        *heartbeat
}

// New makes a refresher that records in the tables of schema. attemptedBy names
// this process in the history.
func New(pool *pgxpool.Pool, schema, attemptedBy string) *Refresher {
	return &Refresher{pool: pool, schema: schema, attemptedBy: attemptedBy, beat: newHeartbeat(pool, schema)}
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
		return Result{}, fmt.Errorf("refresh %s: %w", req.View, err)
	}
	defer attempt.end()
	result, err := attempt.run(attempt.alive)
	if err == nil {
		return result, nil
	}
	if cause := context.Cause(attempt.alive); errors.Is(cause, errBackendGone) {
		err = cause
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

// run is the transaction. Nothing in it reads or locks the view before the
// refresh statement: a session that holds any lock of the view jumps the queue
// of those that wait for it, and an older snapshot in the queue would overwrite
// ours afterwards.
func (a *attempt) run(ctx context.Context) (result Result, err error) {
	conn := a.conn.Conn()
	defer func() {
		if err != nil && !conn.IsClosed() {
			rollback, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
			defer cancel()
			_, _ = conn.Exec(rollback, "ROLLBACK")
		}
	}()
	lockStart := time.Now()
	facts, err := a.prepare(ctx, conn)
	if err != nil {
		return Result{}, err
	}
	if err := a.showBackend(ctx, conn); err != nil {
		return Result{}, err
	}
	result = Result{View: a.view, LockWait: time.Since(lockStart)}
	if result.Method, result.Reason, err = choose(a.request.Method, facts); err != nil {
		return Result{}, err
	}
	done, err := a.refresh(ctx, conn, facts, result.Method)
	if err != nil {
		return Result{}, err
	}
	result.AsOf, result.FinishedAt, result.Duration = done.asOf, done.finishedAt, done.finishedAt.Sub(done.startedAt)
	result.TotalJobs, result.TotalObjects, result.Warning = a.totals(ctx, conn, facts)
	batch := &pgx.Batch{}
	record(batch, a.schema, a.view, done, outcome{
		attempt: a.id, method: result.Method, reason: result.Reason, warning: result.Warning,
		lockWait: result.LockWait, totalJobs: result.TotalJobs, totalObjects: result.TotalObjects,
	})
	batch.Queue("COMMIT")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return Result{}, recordError(err)
	}
	return result, nil
}

// prepare opens the transaction, takes the view's advisory lock, which is a
// statement of its own as the snapshot of any later one must follow it, and
// reads the catalog. One round trip.
func (a *attempt) prepare(ctx context.Context, conn *pgx.Conn) (facts, error) {
	batch := &pgx.Batch{}
	// Explicitly: a default of REPEATABLE READ would put the snapshot before the lock.
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	a.configure(batch)
	matview.QueueLock(batch, a.view)
	a.queueFacts(batch)
	results := conn.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	for _, step := range []string{"begin", "apply its settings", "wait for another refresh of it"} {
		if _, err := results.Exec(); err != nil {
			return facts{}, fmt.Errorf("%s: %w", step, err)
		}
	}
	f, err := scanFacts(results.QueryRow())
	if err != nil {
		return facts{}, err
	}
	if err := results.Close(); err != nil {
		return facts{}, err
	}
	if !f.MayRefresh {
		return facts{}, a.missingRight(ctx, conn, f)
	}
	return f, nil
}

// refreshed is what the database said about a view right after it was filled.
type refreshed struct {
	asOf       *time.Time // nil: unknown
	startedAt  time.Time
	finishedAt time.Time
	oid        uint32
	filenode   uint32
	xmin       uint32
	sizeBytes  int64
}

func (a *attempt) refresh(ctx context.Context, tx *pgx.Conn, f facts, method Method) (refreshed, error) {
	// The clock was read before the statement: REFRESH takes its snapshot before
	// it waits for its lock.
	done := refreshed{startedAt: f.Clock}
	var before map[uint32]upstream
	var err error
	if f.ReadsViews {
		if before, err = upstreams(ctx, tx, a.schema, f.OID); err != nil {
			return refreshed{}, err
		}
		// That may have taken a while, which is no part of the refresh.
		if err := tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&done.startedAt); err != nil {
			return refreshed{}, err
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(method.statement(f.name()))
	batch.Queue(readBackSQL, f.OID)
	results := tx.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	if _, err := results.Exec(); err != nil {
		return refreshed{}, refreshError(err, method, f)
	}
	if err := done.readBack(results.QueryRow()); err != nil {
		return refreshed{}, err
	}
	if err := results.Close(); err != nil {
		return refreshed{}, err
	}
	done.asOf = &done.startedAt
	if f.ReadsViews {
		after, err := upstreams(ctx, tx, a.schema, f.OID)
		if err != nil {
			return refreshed{}, err
		}
		done.asOf = oldest(done.startedAt, before, after)
	}
	return done, nil
}

// readBackSQL reads the finish time and the fingerprint. The transaction holds
// the view's lock by then, so that taking its size does not wait.
const readBackSQL = `
SELECT clock_timestamp(), c.oid, c.relfilenode, c.xmin, pg_total_relation_size(c.oid)
FROM pg_class AS c WHERE c.oid = $1`

func (d *refreshed) readBack(row pgx.Row) error {
	if err := row.Scan(&d.finishedAt, &d.oid, &d.filenode, &d.xmin, &d.sizeBytes); err != nil {
		return fmt.Errorf("read its state back: %w", err)
	}
	return nil
}

// idleTimeout ends a transaction whose client went silent between two
// statements, where the client is gone but its connection still seems open.
const idleTimeout = "10s"

// configure sets what holds for this transaction only.
func (a *attempt) configure(batch *pgx.Batch) {
	set := map[string]string{
		"idle_in_transaction_session_timeout": idleTimeout,
		"lock_timeout":                        millis(a.request.LockTimeout),
	}
	for name, value := range a.request.Settings {
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
	// within a second, in the middle of its statement.
	batch.Queue(`
SELECT set_config(s.name, s.value, true)
FROM (SELECT unnest($1::text[]) AS name, unnest($2::text[]) AS value
      UNION ALL
      SELECT 'client_connection_check_interval', '1s' WHERE current_setting('server_version_num')::int >= 140000) AS s`,
		names, values)
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%dms", (d+time.Millisecond-1)/time.Millisecond)
}

// refreshError says what to do about the failures that have a known remedy.
func refreshError(err error, method Method, f facts) error {
	if postgres.SQLState(err) == postgres.LockNotAvailable {
		return fmt.Errorf("%s: a lock on the view was not free within lock_timeout: %w", method, err)
	}
	if postgres.SQLState(err) == postgres.InsufficientRight {
		return fmt.Errorf("%s, with the rights of its owner %s: %w", method, f.Owner, err)
	}
	return fmt.Errorf("%s: %w", method, err)
}
