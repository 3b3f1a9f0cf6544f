package matview

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// DB is a [postgres.Querier] that can begin a transaction.
type DB interface {
	postgres.Querier
	Begin(ctx context.Context) (pgx.Tx, error)
}

// collect returns all rows of a query.
func collect[T any](ctx context.Context, q postgres.Querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, _ := q.Query(ctx, sql, args...) // CollectRows returns its error
	return pgx.CollectRows(rows, scan)
}

// execute runs one statement that contains SQL of a user. It uses the extended
// protocol, which accepts a single statement only: pgx sends a statement without
// arguments by the simple protocol, which would also run a second statement after
// a semicolon.
func execute(ctx context.Context, tx pgx.Tx, sql string) error {
	return tx.Conn().PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Read().Err
}

// executeAll is [execute] for several statements in one round trip. It returns
// the index of the statement that failed.
func executeAll(ctx context.Context, tx pgx.Tx, statements []string) (failed int, err error) {
	if len(statements) == 0 { // on a broken connection, there would be no statement that failed
		return 0, nil
	}
	batch := &pgconn.Batch{}
	for _, sql := range statements {
		batch.ExecParams(sql, nil, nil, nil, nil)
	}
	results := tx.Conn().PgConn().ExecBatch(ctx, batch)
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err == nil {
			failed++
		}
	}
	if err := results.Close(); err != nil {
		return min(failed, len(statements)-1), err
	}
	return 0, nil
}

// rollback ends a transaction even if ctx is done.
func rollback(ctx context.Context, tx pgx.Tx) {
	_ = tx.Rollback(context.WithoutCancel(ctx)) // a broken connection has rolled back
}

// deparse calls read in a savepoint or transaction that is rolled back, with the
// settings of pinSQL. Deparsing a view or an index locks it: no lock is waited for
// longer than a second, and none is kept.
func deparse(ctx context.Context, db DB, read func(tx pgx.Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'; "+pinSQL); err != nil {
		return err
	}
	return read(tx)
}

// pinSQL sets what the text of a deparsed query depends on. What the query means
// was settled when it was parsed.
const pinSQL = `SET LOCAL search_path = ''; SET LOCAL timezone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres'; SET LOCAL quote_all_identifiers = off; SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'`

const setPathSQL = "SELECT set_config('search_path', $1, true)"

// restoringPath calls do, and then restores the search_path of the session, which do
// gets as it is set.
func restoringPath(ctx context.Context, tx pgx.Tx, do func(path string) error) error {
	var path string
	if err := tx.QueryRow(ctx, "SHOW search_path").Scan(&path); err != nil {
		return err
	}
	if err := do(path); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, setPathSQL, path)
	return err
}

// deparsedPath is the search_path for SQL that was deparsed under pinSQL: what it names
// without a schema is in pg_catalog. No schema of the session may follow: an overload
// there, of a better signature than what is built in, would take its place. So an event
// trigger of somebody else that relies on search_path fails in a swap.
const deparsedPath = "pg_catalog, pg_temp"

func setDeparsedPath(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "SET LOCAL search_path = "+deparsedPath)
	return err
}
