package matview

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is what reads the catalog: a connection, a pool or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// execute runs one statement that holds text of a user. The extended protocol
// takes a single statement only, while pgx runs what has no arguments by the
// simple one, where a second statement behind a semicolon would run too.
func execute(ctx context.Context, tx pgx.Tx, sql string) error {
	return executeOn(ctx, tx.Conn().PgConn(), sql)
}

func executeOn(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	return conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read().Err
}

// executeAll is [execute] for several statements in one round trip. It returns
// the index of the one that failed.
func executeAll(ctx context.Context, tx pgx.Tx, statements []string) (failed int, err error) {
	if len(statements) == 0 { // also on a connection that is gone: there would be none that failed
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
