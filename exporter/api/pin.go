package api

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pinSQL sets for the whole session what settingsSQL sets for a transaction,
// and what BEGIN says. It does nothing where $1 is not the process that answers:
// behind a pooler, whose sessions other clients will get after us.
const pinSQL = `SELECT set_config('search_path', '', false), set_config('TimeZone', 'UTC', false),
set_config('DateStyle', 'ISO, YMD', false), set_config('IntervalStyle', 'postgres', false), set_config('bytea_output', 'hex', false),
set_config('extra_float_digits', '1', false), set_config('lock_timeout', $2, false), set_config('statement_timeout', $3, false),
set_config('default_transaction_isolation', 'read committed', false), set_config('default_transaction_read_only', 'on', false)
WHERE pg_catalog.pg_backend_pid() = $1`

const pinnedKey = "matview.pinned"

// Pin makes the sessions of a pool that only a [Handler] and other readers use
// ready to read a row in one statement. Without it, or where a pooler stands in
// between, each read is a transaction that says its settings itself.
func Pin(config *pgxpool.Config, timeout time.Duration) {
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	before := config.AfterConnect
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if before != nil {
			if err := before(ctx, conn); err != nil {
				return err
			}
		}
		tag, err := conn.Exec(ctx, pinSQL, int32(conn.PgConn().PID()), milliseconds(timeout*9/10), milliseconds(timeout)) //nolint:gosec // a process id
		if err != nil {
			return fmt.Errorf("prepare the session: %w", err)
		}
		conn.PgConn().CustomData()[pinnedKey] = tag.RowsAffected() == 1
		return nil
	}
}

func isPinned(conn *pgx.Conn) bool {
	pinned, _ := conn.PgConn().CustomData()[pinnedKey].(bool)
	return pinned
}

// readRow runs one statement that gives at most one row. More are an
// [ambiguousRow].
func readRow(ctx context.Context, pool *pgxpool.Pool, timeout time.Duration, sql string, args []any, into ...any) (found bool, err error) {
	err = readRows(ctx, pool, timeout, sql, args, func(rows pgx.Rows) error {
		for rows.Next() {
			if found {
				return ambiguousRow()
			}
			found = true
			if err := rows.Scan(into...); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return found, err
}

// readRows runs one statement: as it is where the session is pinned, else in a
// transaction.
func readRows(ctx context.Context, pool *pgxpool.Pool, timeout time.Duration, sql string, args []any, scan func(pgx.Rows) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout+grace)
	defer cancel()
	return withConn(ctx, pool, func(conn *pgx.Conn) error {
		if isPinned(conn) {
			rows, err := conn.Query(ctx, sql, args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			return scan(rows)
		}
		batch := &pgx.Batch{}
		begin(batch, timeout)
		batch.Queue(sql, args...).Query(scan)
		batch.Queue("COMMIT")
		return conn.SendBatch(ctx, batch).Close()
	})
}
