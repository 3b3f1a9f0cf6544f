package refresh

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// How long a swap goes on trying to exchange the two is lock_timeout, or
// defaultPatience without one; but no longer than maxPatience, as the snapshots and
// locks of its transaction hold up vacuum and ALTER TABLE.
const (
	defaultPatience = 10 * time.Second
	maxPatience     = time.Minute
)

// swap fills a replacement of the view and exchanges the two. What it reads of the
// old view waits for a blocking refresh by somebody else, for lock_timeout at most,
// and leaves no lock behind.
//
// A REFRESH by somebody else that waits for the exchange to commit finds the
// replacement under the view's name then, and fills that: PostgreSQL looks the name
// up again after the wait (RangeVarGetRelidExtended in namespace.c). Its snapshot may
// be older than ours. The fingerprint shows that the view changed after our record.
func (a *attempt) swap(ctx context.Context, tx pgx.Tx, f facts) (filled, error) {
	view, err := matview.Read(ctx, tx, f.name())
	if err != nil {
		return filled{}, err
	}
	if view == nil || view.OID != f.OID {
		return filled{}, &statedError{errors.New("swap: somebody else is replacing it; try again"), pgerrcode.SerializationFailure}
	}
	r := &replacing{attempt: a, tx: tx, facts: f}
	s := matview.Swap{
		View: view, Timeout: min(a.request.LockTimeout, maxPatience), LockWait: &r.done.LockWait, Pool: a.monitor,
		Started: r.started, Filled: r.filled, Exchanging: r.lockRecord,
	}
	if s.Timeout == 0 {
		s.Timeout = defaultPatience
	}
	defer a.watchLockWait().stop() // of what it reads first, to name who blocks it
	if err := s.Run(ctx, tx); err != nil {
		return r.done, refreshError(err, Swap, f)
	}
	return r.done, r.finish(ctx)
}

// replacing is what a swap reads at each of its steps.
type replacing struct {
	*attempt
	tx    pgx.Tx
	facts facts
	done  filled

	relations       relations
	upstreams       store.AsOf
	replacement     uint32
	upstreamsFilled store.AsOf
}

// started reads the as-of, right before the statement that reads the data.
func (r *replacing) started(ctx context.Context) (err error) {
	if r.facts.ReadsViews {
		if r.upstreams, err = r.store.UpstreamAsOf(ctx, r.tx, r.facts.OID); err != nil {
			return err
		}
	}
	if r.relations, err = collectRelations(r.tx.Query(ctx, relationsSQL, r.facts.OID)); err != nil {
		return err
	}
	return r.tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&r.done.StartedAt)
}

// filled does all that can be done before the exchange: readers wait for what is
// done after it.
func (r *replacing) filled(ctx context.Context, name matview.Name, oid uint32) error {
	r.replacement = oid
	after, err := collectRelations(r.tx.Query(ctx, relationsSQL, oid))
	if err != nil {
		return err
	}
	if err := r.relations.rewritten(after); err != nil {
		return err
	}
	if r.facts.ReadsViews {
		if r.upstreamsFilled, err = r.store.UpstreamAsOf(ctx, r.tx, oid); err != nil {
			return err
		}
	}
	r.done.totals = r.totalsOfReplacement(ctx, r.tx.Conn(), r.facts, name)
	return nil
}

func (r *replacing) lockRecord(ctx context.Context) error {
	batch := &pgx.Batch{}
	r.store.QueueRecordLocks(batch, r.id, r.view)
	if err := r.tx.SendBatch(ctx, batch).Close(); err != nil {
		return recordError(err)
	}
	return nil
}

// finish reads what there is to record once the two are exchanged.
func (r *replacing) finish(ctx context.Context) error {
	if _, _, err := r.done.readBack(r.tx.QueryRow(ctx, readBackSQL, r.replacement)); err != nil {
		return err
	}
	r.done.DataAsOf = oldest(r.done.StartedAt, r.upstreams, r.upstreamsFilled)
	return nil
}

// isImpossible says that a swap failed for what another method may do without: rights,
// dependents that can be moved, a moment without readers, or whatever the server, or an
// event trigger, has against one of its statements. The query itself fails by any method,
// and so does one that ran for too long or returns rows that a unique index refuses.
func isImpossible(err error) bool {
	var obstacles *matview.ObstaclesError
	var changed *matview.ChangedError
	if errors.As(err, &obstacles) || errors.As(err, &changed) {
		return true
	}
	var fill *matview.FillError
	state := postgres.SQLState(err)
	switch {
	case state == pgerrcode.LockNotAvailable, state == pgerrcode.InsufficientPrivilege:
		return true
	case errors.As(err, &fill), isUnavailable(err):
		return false
	}
	return state != pgerrcode.QueryCanceled && !pgerrcode.IsIntegrityConstraintViolation(state)
}
