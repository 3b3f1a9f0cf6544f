// Package refresh refreshes materialized views and records each refresh with an
// as-of that never overstates freshness.
//
// One refresh is one transaction: the view's data, the log, the state and the
// history change together or not at all. [Refresher.Refresh] begins an attempt
// (attempt.go), skips it if nothing has changed (skip.go), and else tries until the
// refresh is done: a transaction is opened (transaction.go), the method is chosen
// (method.go), the view is filled (statement.go, swap.go), totals are evaluated
// (totals.go), and all is recorded and committed.
package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/store"
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
	// SkipUnchanged, unless nil, skips the refresh within these bounds if nothing
	// that the view reads has changed.
	SkipUnchanged *Skipping
	// Attempt is the history row that a claim has inserted already; 0 inserts one.
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
	// TotalObjects is null too if the expression failed; Warning says why.
	TotalObjects *int64
	Warning      string
}

// DurationMS is the duration as it was recorded, in whole milliseconds.
func (r Result) DurationMS() int64 { return store.CeilMilliseconds(r.Duration) }

// Refresher refreshes views over one pool. Its pool needs a connection for each
// refresh that runs at once and one more for the heartbeat, unless that has another
// pool; see [Refresher.WithMonitorPool].
type Refresher struct {
	pool        *pgxpool.Pool
	monitor     *pgxpool.Pool
	store       *store.Store
	attemptedBy string
}

// New makes a refresher that records in the tables of schema. attemptedBy names
// this process in the history.
func New(pool *pgxpool.Pool, schema, attemptedBy string) *Refresher {
	return &Refresher{pool: pool, monitor: pool, store: store.New(schema), attemptedBy: attemptedBy}
}

// WithMonitorPool sets the pool for what watches a refresh under way, above all the
// heartbeat, if others may hold all connections of the refresher's own pool for any
// time. One connection is enough. Call it before the first refresh.
func (r *Refresher) WithMonitorPool(pool *pgxpool.Pool) *Refresher {
	r.monitor = pool
	return r
}

// Refresh refreshes one view and records it. It waits for another refresh of
// the same view, by anyone of ours. A failure is recorded in a transaction of
// its own and returned; the view then has the data that it had.
func (r *Refresher) Refresh(ctx context.Context, req Request) (Result, error) {
	if req.Method == "" {
		req.Method = Auto
	}
	attempt, err := r.begin(ctx, req)
	if err != nil {
		return Result{}, r.beginFailed(ctx, req, err)
	}
	defer attempt.end()
	if req.Method != Auto {
		attempt.chosen.method = req.Method
	}
	if req.SkipUnchanged != nil {
		if result, skipped := attempt.skipUnchanged(attempt.alive); skipped {
			return result, nil
		}
	}
	result, err := attempt.run(attempt.alive)
	if err == nil {
		return result, nil
	}
	return attempt.failed(ctx, err)
}

// failed records why the attempt failed, and returns that. If the answer to a
// commit was lost, the history tells whether it was done: then the attempt has
// succeeded after all.
func (a *attempt) failed(ctx context.Context, err error) (Result, error) {
	// The cause of a cancellation says more than the server does.
	if cause := context.Cause(a.alive); cause != a.alive.Err() { //nolint:errorlint // the very one
		err = canceled(cause)
	}
	err = fmt.Errorf("refresh %s: %w", a.view, err)
	a.conn.Release() // it may be what failed
	outcome, recordErr := a.recordFailure(ctx, store.Failure{Attempt: a.id, Method: string(a.chosen.method), Reason: a.chosen.reason}, err)
	if a.unconfirmed != nil {
		switch {
		case outcome == store.Succeeded || outcome == store.Skipped:
			return *a.unconfirmed, nil
		case recordErr != nil:
			err = fmt.Errorf("%w; the answer to COMMIT was lost, so it may have been refreshed", err)
		}
	}
	return Result{}, failure(err, outcome, recordErr)
}

// ErrTakenOver says that the attempt was found abandoned meanwhile, and recorded as
// that: another exporter has the view.
var ErrTakenOver = errors.New("the attempt was recorded as abandoned meanwhile")

// failure is the error of an attempt that failed for cause, given what came of
// recording that.
func failure(cause error, outcome string, recordErr error) error {
	switch {
	case recordErr != nil:
		return errors.Join(cause, fmt.Errorf("the failure could not be recorded: %w", recordErr))
	case outcome != store.Failed:
		return errors.Join(cause, ErrTakenOver)
	}
	return cause
}
