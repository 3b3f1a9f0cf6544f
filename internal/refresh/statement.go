package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// filled is what is known of a view right after it was filled. LockWait is that
// since StartedAt.
type filled struct {
	store.Success
	totals *totals // nil: not evaluated yet
}

// refresh fills the view with a REFRESH statement.
func (a *attempt) refresh(ctx context.Context, tx *pgx.Conn, f facts, method Method) (done filled, err error) {
	// The clock is read before the statement: REFRESH takes its snapshot before it
	// waits for its lock.
	done.StartedAt = f.ReadAt
	var before, after store.AsOf
	if f.ReadsViews {
		if before, err = a.store.UpstreamAsOf(ctx, tx, f.OID); err != nil {
			return done, err
		}
		// That may have taken a while, which is no part of the refresh.
		if err := tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&done.StartedAt); err != nil {
			return done, err
		}
	}
	if err := a.execute(ctx, tx, f, method, &done); err != nil {
		return done, err
	}
	if f.ReadsViews {
		if after, err = a.store.UpstreamAsOf(ctx, tx, f.OID); err != nil {
			return done, err
		}
	}
	done.DataAsOf = oldest(done.StartedAt, before, after)
	return done, nil
}

// execute runs the statement between two looks at the relations that it reads. One
// round trip.
func (a *attempt) execute(ctx context.Context, tx *pgx.Conn, f facts, method Method, done *filled) error {
	batch := &pgx.Batch{}
	batch.Queue(relationsSQL, f.OID)
	batch.Queue(method.statement(f.name()))
	batch.Queue(readBackSQL, f.OID)
	batch.Queue(relationsSQL, f.OID)
	watch := a.watchLockWait()
	defer watch.stop()
	results := tx.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	before, err := collectRelations(results.Query())
	if err != nil {
		return err
	}
	if _, err := results.Exec(); err != nil {
		return refreshError(err, method, f)
	}
	done.LockWait = watch.stop()
	inserted, deleted, err := done.readBack(results.QueryRow())
	if err != nil {
		return err
	}
	if method == Concurrently {
		inserted, deleted = inserted-f.RowsInserted, deleted-f.RowsDeleted
		done.RowsInserted, done.RowsDeleted = &inserted, &deleted
	}
	after, err := collectRelations(results.Query())
	if err != nil {
		return err
	}
	if err := before.rewritten(after); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return results.Close()
}

// checkEqualRows makes the as-of unknown if a concurrent refresh may have lost rows, or
// fails if another method may be used in its place.
func (a *attempt) checkEqualRows(ctx context.Context, tx pgx.Tx, f facts, done *filled) error {
	err := matview.CheckEqualRows(ctx, tx, f.OID, f.name(), f.Owner)
	var equal *matview.EqualRowsError
	if !errors.As(err, &equal) || a.request.Method == Auto {
		return err
	}
	done.DataAsOf, done.NoLogDuration = nil, true
	done.Warning = fmt.Sprintf("its data is of an unknown time, since the refresh may have lost rows: %s; use the method auto, swap or blocking, or make it provable: by GROUP BY, DISTINCT ON or a primary key for the columns of a unique index, or by values in place of nulls", err)
	return nil
}

// isOfConcurrently says that another method may do: rows may have been lost, or a
// statement of the refresh failed that no other method has, for an event trigger or a
// setting for example. A query rarely fails so itself.
func isOfConcurrently(err error) bool {
	var equal *matview.EqualRowsError
	state := postgres.SQLState(err)
	return errors.As(err, &equal) || pgerrcode.IsSyntaxErrororAccessRuleViolation(state) && state != pgerrcode.InsufficientPrivilege
}

// joinWarnings joins those that are not "".
func joinWarnings(warnings ...string) string {
	return strings.Join(slices.DeleteFunc(warnings, func(w string) bool { return w == "" }), "; ")
}

// readBackSQL reads the finish time, the fingerprint, and what the session has
// counted of the view: grown by what a concurrent refresh did to it. The
// transaction holds the view's lock by then, so that taking its size does not
// wait.
const readBackSQL = `
SELECT clock_timestamp(), c.oid, c.relfilenode, c.xmin, pg_total_relation_size(c.oid),
       coalesce(pg_stat_get_xact_tuples_inserted(c.oid), 0), coalesce(pg_stat_get_xact_tuples_deleted(c.oid), 0)
FROM pg_class AS c WHERE c.oid = $1`

func (d *filled) readBack(row pgx.Row) (inserted, deleted int64, err error) {
	if err := row.Scan(&d.FinishedAt, &d.ViewOID, &d.ViewFilenode, &d.ViewXmin, &d.SizeBytes, &inserted, &deleted); err != nil {
		return 0, 0, fmt.Errorf("read its state back: %w", err)
	}
	return inserted, deleted, nil
}

// refreshError says what to do about the failures that have a known remedy.
func refreshError(err error, method Method, f facts) error {
	switch postgres.SQLState(err) {
	case pgerrcode.InsufficientPrivilege:
		if grant := postgres.MissingGrant(err, f.Owner); grant != "" {
			return fmt.Errorf("%s, with the rights of its owner %s: %w; %s", method, f.Owner, err, grant)
		}
		return fmt.Errorf("%s, with the rights of its owner %s: %w", method, f.Owner, err)
	case pgerrcode.QueryCanceled:
		if strings.Contains(postgres.Message(err), "statement timeout") {
			return fmt.Errorf("%s: %w; the limit is statement_timeout of the schedule, or else of the login, the database or the server", method, err)
		}
	}
	return fmt.Errorf("%s: %w", method, err)
}
