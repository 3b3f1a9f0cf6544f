package refresh

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// attempt is one refresh under way: its row in the history and its connection.
type attempt struct {
	*Refresher
	request Request
	name    matview.Name
	view    string // canonical view_name
	id      int64
	conn    *pgxpool.Conn
	alive   context.Context //nolint:containedctx // it is the attempt's own, see [Refresher.KeepAlive]
	release func()

	notSkipped  string       // why a request that may skip does not
	inputs      *queryInputs // what the query reads, from before the refresh's snapshot; nil: unknown
	chosen      choice       // the latest, for the record of a failure
	swapRefused bool         // a swap was chosen and turned out to be impossible
	// notConcurrently is why a concurrent refresh that was chosen is replaced by another
	// method; "" if none is.
	notConcurrently string
	waited          time.Duration // for locks, in tries that failed
	unconfirmed     *Result       // of a commit that was sent; see [attempt.failed]

	blockers atomic.Pointer[string] // the last holders of a lock that it waited for
}

// begin takes a connection and makes the attempt visible.
func (r *Refresher) begin(ctx context.Context, req Request) (*attempt, error) {
	name, err := matview.ParseName(req.View)
	if err != nil {
		return nil, err
	}
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	row, err := r.insert(ctx, conn, req, name)
	if err != nil {
		conn.Release()
		return nil, err
	}
	a := &attempt{Refresher: r, request: req, name: name, conn: conn, id: row.ID, view: row.ViewName}
	a.alive, a.release = r.KeepAlive(ctx, a.id)
	return a, nil
}

// insert makes the row of an attempt in the history, or takes the one of its claim.
func (r *Refresher) insert(ctx context.Context, db store.DB, req Request, name matview.Name) (store.Attempt, error) {
	if r.attemptedBy == "" || req.Trigger == "" {
		return store.Attempt{}, fmt.Errorf("the attempt has no trigger or attempted_by")
	}
	row, err := r.store.BeginAttempt(ctx, db, store.NewAttempt{
		Claimed: req.Attempt, Schema: name.Schema, Relation: name.Relation,
		Trigger: req.Trigger, AttemptedBy: r.attemptedBy, Pooled: postgres.IsPooled(r.pool),
	})
	if errors.Is(err, pgx.ErrNoRows) { // abandoned between the claim and now
		return row, ErrTakenOver
	}
	if err != nil {
		return row, recordError(err)
	}
	return row, nil
}

func (a *attempt) end() {
	a.release()
	a.conn.Release()
}

// beginFailed records why an attempt that was claimed could not begin, for want of
// a connection for example: it would be taken for that of a process that died.
func (r *Refresher) beginFailed(ctx context.Context, req Request, err error) error {
	err = fmt.Errorf("refresh %s: %w", req.View, err)
	if req.Attempt == 0 || errors.Is(err, ErrTakenOver) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("refresh %s: %w", req.View, canceled(cause))
	}
	outcome, recordErr := r.recordFailure(ctx, store.Failure{Attempt: req.Attempt}, err)
	return failure(err, outcome, recordErr)
}

// run tries until the refresh is done: again if a lock was not free within
// lock_timeout or a table was rewritten meanwhile, and by another method if a swap
// that nobody insisted on is impossible. Each try is a transaction of its own, so
// that between two of them nobody waits for us, and the as-of is that of the one
// that succeeded.
func (a *attempt) run(ctx context.Context) (Result, error) {
	wanted := choice{method: a.request.Method}
	for try := 1; ; {
		start := time.Now()
		result, chosen, err := a.try(ctx, wanted)
		if err == nil {
			return result, nil
		}
		switch {
		case ctx.Err() != nil:
			return Result{}, err
		case chosen.instead != "" && isImpossible(err):
			a.swapRefused = true
			a.waited += result.LockWait
			wanted = choice{
				method: chosen.instead,
				reason: fmt.Sprintf("instead of swap (%s), since %s", chosen.reason, postgres.Message(a.lockError(err, try))),
			}
		case a.request.Method == Auto && chosen.method == Concurrently && isOfConcurrently(err):
			a.notConcurrently = "concurrently was not possible: " + postgres.Message(err)
			a.waited += result.LockWait
			if wanted = (choice{method: Auto}); a.swapRefused {
				wanted = choice{method: Blocking, reason: a.notConcurrently}
			}
		case try < lockTries && a.request.LockTimeout > 0 && isLocked(err):
			if err := pause(ctx, min(a.request.LockTimeout, maxPause)); err != nil {
				return Result{}, err
			}
			a.waited += time.Since(start)
			try++
		case try < lockTries && isRewritten(err):
			a.waited += time.Since(start)
			try++
		default:
			return Result{}, a.lockError(err, try)
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
	start := time.Now()
	tx, facts, err := a.prepare(ctx, conn)
	if err != nil {
		return Result{}, choice{}, err
	}
	lockWait := time.Since(start)
	if a.inputs != nil && a.inputs.view != facts.OID { // replaced while it waited for the lock
		a.inputs = nil
	}
	if facts.NotConcurrently = a.notConcurrently; facts.NotConcurrently == "" && facts.Recent.ConcurrentlyRefused {
		facts.NotConcurrently = fmt.Sprintf("one of the last %d refreshes could not be made concurrently", recentRefreshes)
	}
	if chosen, err = choose(wanted, facts); err != nil {
		return Result{}, choice{}, err
	}
	a.chosen = choice{method: chosen.method, reason: a.withNotSkipped(chosen.reason)}
	var done filled
	if chosen.method == Swap {
		done, err = a.swap(ctx, tx, facts)
	} else {
		done, err = a.refresh(ctx, conn, facts, chosen.method)
	}
	if err == nil && chosen.method == Concurrently {
		err = a.checkEqualRows(ctx, tx, facts, &done)
	}
	lockWait += done.LockWait
	if err != nil {
		return Result{LockWait: lockWait}, chosen, err
	}
	if done.totals == nil {
		done.totals = a.totals(ctx, conn, facts)
	}
	done.Duration = done.FinishedAt.Sub(done.StartedAt) - done.LockWait
	done.LockWait = lockWait + a.waited
	result, err = a.commit(ctx, conn, done)
	return result, chosen, err
}

// commit records the refresh and commits it, in one round trip.
func (a *attempt) commit(ctx context.Context, conn *pgx.Conn, done filled) (Result, error) {
	r := done.Success
	r.Attempt, r.View, r.ChangeCounters = a.id, a.view, a.inputs
	r.SwapRefused, r.ConcurrentlyRefused = a.swapRefused, a.notConcurrently != ""
	r.Method, r.Reason = string(a.chosen.method), a.chosen.reason
	r.TotalJobs, r.TotalObjects, r.Warning = done.totals.jobs, done.totals.objects, joinWarnings(r.Warning, done.totals.warning)
	result := Result{
		View: a.view, Method: a.chosen.method, Reason: r.Reason, AsOf: r.DataAsOf, FinishedAt: r.FinishedAt,
		LockWait: r.LockWait, Duration: r.Duration, RowsInserted: r.RowsInserted, RowsDeleted: r.RowsDeleted,
		TotalJobs: r.TotalJobs, TotalObjects: r.TotalObjects, Warning: r.Warning,
	}
	batch := &pgx.Batch{}
	a.store.QueueSuccess(batch, r)
	batch.Queue("COMMIT")
	a.unconfirmed = &result
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		if !isUnavailable(err) { // the server's answer, that it was rolled back
			a.unconfirmed = nil
		}
		return Result{}, recordError(err)
	}
	return result, nil
}
