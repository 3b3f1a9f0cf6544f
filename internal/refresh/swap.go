package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// How long a swap goes on trying to exchange the two is lock_timeout, or
// defaultPatience where there is none; but no longer than maxPatience, as the
// snapshots and locks of its transaction hold up vacuum and ALTER TABLE.
const (
	defaultPatience = 10 * time.Second
	maxPatience     = time.Minute
)

// swap fills a twin of the view and exchanges the two. What it reads of the old
// view waits for a blocking refresh by somebody else, for lock_timeout at most,
// and leaves no lock behind.
//
// A REFRESH by somebody else that waits for the exchange to commit finds the twin
// under the view's name then, and fills that: PostgreSQL looks the name up again
// after the wait (RangeVarGetRelidExtended in namespace.c). Its snapshot may be
// older than ours. That the view changed after our record shows in its
// fingerprint, as ever.
func (a *attempt) swap(ctx context.Context, tx pgx.Tx, f facts) (done refreshed, err error) {
	view, err := matview.Read(ctx, tx, f.name())
	if err != nil {
		return done, err
	}
	if view == nil || view.OID != f.OID {
		return done, &statedError{errors.New("swap: somebody else is replacing it; try again"), pgerrcode.SerializationFailure}
	}
	var twin uint32
	var path string
	var before, after map[uint32]upstream
	var tablesBefore tables
	s := matview.Swap{
		View: view, Timeout: min(a.request.LockTimeout, maxPatience), LockWait: &done.lockWait, Pool: a.beside,
		Started: func(ctx context.Context) error {
			if f.ReadsViews {
				if before, err = upstreams(ctx, tx, a.schema, f.OID); err != nil {
					return err
				}
			}
			if tablesBefore, err = scanTables(tx.Query(ctx, tablesSQL, f.OID)); err != nil {
				return err
			}
			return tx.QueryRow(ctx, "SELECT clock_timestamp(), current_setting('search_path')").Scan(&done.startedAt, &path)
		},
		// All that can be done before the exchange: readers wait for what is done
		// after.
		Filled: func(ctx context.Context, t matview.Name, oid uint32) error {
			twin = oid
			tablesAfter, err := scanTables(tx.Query(ctx, tablesSQL, twin))
			if err != nil {
				return err
			}
			if err := tablesBefore.unchanged(tablesAfter); err != nil {
				return err
			}
			if f.ReadsViews {
				if after, err = upstreams(ctx, tx, a.schema, twin); err != nil {
					return err
				}
			}
			done.totals = a.totalsOfTwin(ctx, tx.Conn(), f, t)
			return nil
		},
	}
	s.Exchanging = func(ctx context.Context) error { return a.lockRecord(ctx, tx) }
	if s.Timeout == 0 {
		s.Timeout = defaultPatience
	}
	defer a.watch().stop() // of what it reads first, for who is in the way
	if err := s.Run(ctx, tx); err != nil {
		return done, refreshError(err, Swap, f)
	}
	if err := done.readBack(tx.QueryRow(ctx, readBackSQL, twin)); err != nil {
		return done, err
	}
	done.asOf = &done.startedAt
	if f.ReadsViews {
		done.asOf = oldest(done.startedAt, before, after)
	}
	if done.totals == nil {
		if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", path); err != nil {
			return done, fmt.Errorf("swap: %w", err)
		}
	}
	return done, nil
}

// lockRecord locks the rows that record will write, in its order.
func (a *attempt) lockRecord(ctx context.Context, tx pgx.Tx) error {
	batch := &pgx.Batch{}
	batch.Queue("SELECT FROM "+a.history()+" WHERE id = $1 FOR UPDATE", a.id)
	for _, table := range []string{"materialized_view_refresh_log", "materialized_view_refresh_state"} {
		batch.Queue("SELECT FROM "+postgres.QuoteIdent(a.schema, table)+" WHERE view_name = $1 FOR UPDATE", a.view)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return recordError(err)
	}
	return nil
}

// isImpossible says that a swap failed for what another method may do without:
// rights, dependents that can be moved, or a moment without readers.
func isImpossible(err error) bool {
	var obstacles *matview.ObstaclesError
	var changed *matview.ChangedError
	if errors.As(err, &obstacles) || errors.As(err, &changed) {
		return true
	}
	state := postgres.SQLState(err)
	return state == pgerrcode.LockNotAvailable || state == pgerrcode.InsufficientPrivilege
}
