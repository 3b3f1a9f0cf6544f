package refresh

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// refreshed is what the database said about a view right after it was filled.
type refreshed struct {
	asOf       *time.Time // nil: unknown
	partial    bool       // it saw a table by halves, and the as-of is unknown for that
	startedAt  time.Time
	finishedAt time.Time
	oid        uint32
	filenode   uint32
	xmin       uint32
	sizeBytes  int64
	lockWait   time.Duration // since startedAt

	counted                   struct{ inserted, deleted int64 }
	rowsInserted, rowsDeleted *int64  // of a concurrent refresh
	totals                    *totals // nil: not evaluated yet
}

func (a *attempt) refresh(ctx context.Context, tx *pgx.Conn, f facts, method Method) (refreshed, error) {
	// The clock was read before the statement: REFRESH takes its snapshot before
	// it waits for its lock.
	done := refreshed{startedAt: f.Clock}
	var before map[uint32]upstream
	if f.ReadsViews {
		var err error
		if before, err = upstreams(ctx, tx, a.schema, f.OID); err != nil {
			return refreshed{}, err
		}
		// That may have taken a while, which is no part of the refresh.
		if err := tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&done.startedAt); err != nil {
			return refreshed{}, err
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(tablesSQL, f.OID)
	batch.Queue(method.statement(f.name()))
	batch.Queue(readBackSQL, f.OID)
	batch.Queue(tablesSQL, f.OID)
	watch := a.watch()
	defer watch.stop()
	results := tx.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	tablesBefore, err := scanTables(results.Query())
	if err != nil {
		return refreshed{}, err
	}
	if _, err := results.Exec(); err != nil {
		return refreshed{}, refreshError(err, method, f)
	}
	done.lockWait = watch.stop()
	if err := done.readBack(results.QueryRow()); err != nil {
		return refreshed{}, err
	}
	if method == Concurrently {
		inserted, deleted := done.counted.inserted-f.Inserted, done.counted.deleted-f.Deleted
		done.rowsInserted, done.rowsDeleted = &inserted, &deleted
	}
	tablesAfter, err := scanTables(results.Query())
	if err != nil {
		return refreshed{}, err
	}
	if err := tablesBefore.unchanged(tablesAfter); err != nil {
		return refreshed{}, fmt.Errorf("%s: %w", method, err)
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

// readBackSQL reads the finish time, the fingerprint, and what the session has
// counted of the view: grown by what a concurrent refresh did to it. The
// transaction holds the view's lock by then, so that taking its size does not
// wait.
const readBackSQL = `
SELECT clock_timestamp(), c.oid, c.relfilenode, c.xmin, pg_total_relation_size(c.oid),
       coalesce(pg_stat_get_xact_tuples_inserted(c.oid), 0), coalesce(pg_stat_get_xact_tuples_deleted(c.oid), 0)
FROM pg_class AS c WHERE c.oid = $1`

func (d *refreshed) readBack(row pgx.Row) error {
	if err := row.Scan(&d.finishedAt, &d.oid, &d.filenode, &d.xmin, &d.sizeBytes, &d.counted.inserted, &d.counted.deleted); err != nil {
		return fmt.Errorf("read its state back: %w", err)
	}
	return nil
}

// refreshError says what to do about the failures that have a known remedy.
func refreshError(err error, method Method, f facts) error {
	if postgres.SQLState(err) == pgerrcode.InsufficientPrivilege {
		return fmt.Errorf("%s, with the rights of its owner %s: %w; grant it what it lacks, as in GRANT SELECT ON … TO %s", method, f.Owner, err, postgres.QuoteIdent(f.Owner))
	}
	return fmt.Errorf("%s: %w", method, err)
}
