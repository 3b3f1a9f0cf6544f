package api

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/semaphore"
)

// beginSQL states READ COMMITTED: each statement takes its snapshot after it has
// acquired its locks, so that a reader who waited for a blocking refresh sees the
// data and the record of that very refresh. Under REPEATABLE READ the snapshot
// would be older than the wait, and the new rows (a rebuilt view is visible to
// all snapshots) would come with the old record.
const beginSQL = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"

// settingsSQL sets what the text of values depends on, whatever the role, the
// database or a pooler's previous client has set, and bounds waiting: $1 is the
// lock_timeout, $2 the statement_timeout, $3 whether this is for the transaction
// alone.
const settingsSQL = `SELECT set_config('search_path', '', $3), set_config('TimeZone', 'UTC', $3),
set_config('DateStyle', 'ISO, YMD', $3), set_config('IntervalStyle', 'postgres', $3), set_config('bytea_output', 'hex', $3),
set_config('extra_float_digits', '1', $3), set_config('jit', 'off', $3),
set_config('lock_timeout', $1, $3), set_config('statement_timeout', $2, $3)`

// begin queues the start of a read. An exporter that is frozen in a transaction
// must not keep its locks.
func begin(batch *pgx.Batch, timeout time.Duration) {
	batch.Queue(beginSQL)
	// A reader who waited for a lock still has time to read.
	batch.Queue(settingsSQL+", set_config('idle_in_transaction_session_timeout', $2, $3)", milliseconds(timeout*9/10), milliseconds(timeout), true)
}

const configuredKey = "matview.session_configured"

// ConfigureSessions makes the sessions of a pool that only a [Handler] and other
// readers use ready to read a row in one statement. Without it, or behind a pooler,
// each read is a transaction that makes its settings itself.
func ConfigureSessions(config *pgxpool.Config, timeout time.Duration) {
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
		// Nothing is set if another process answers than the one we connected to:
		// a pooler will give its session to other clients.
		tag, err := conn.Exec(ctx, settingsSQL+`, set_config('default_transaction_isolation', 'read committed', $3),
set_config('default_transaction_read_only', 'on', $3) WHERE pg_catalog.pg_backend_pid() = $4`,
			milliseconds(timeout*9/10), milliseconds(timeout), false, int32(conn.PgConn().PID())) //nolint:gosec // a process id
		if err != nil {
			return fmt.Errorf("configure the session: %w", err)
		}
		conn.PgConn().CustomData()[configuredKey] = tag.RowsAffected() == 1
		return nil
	}
}

func isConfigured(conn *pgx.Conn) bool {
	configured, _ := conn.PgConn().CustomData()[configuredKey].(bool)
	return configured
}

// readRow runs one statement that gives at most one row. More are an
// [ambiguousRow].
func (h *Handler) readRow(ctx context.Context, sql string, args []any, into ...any) (found bool, err error) {
	err = h.readRows(ctx, sql, args, func(rows pgx.Rows) error {
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

// readRows runs one statement: as it is where the session is configured, else in a
// transaction.
func (h *Handler) readRows(ctx context.Context, sql string, args []any, scan func(pgx.Rows) error) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout+grace)
	defer cancel()
	return withConn(ctx, h.Pool, func(conn *pgx.Conn) error {
		if isConfigured(conn) {
			rows, err := conn.Query(ctx, sql, args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			return scan(rows)
		}
		batch := &pgx.Batch{}
		begin(batch, h.Timeout)
		batch.Queue(sql, args...).Query(scan)
		batch.Queue("COMMIT")
		return conn.SendBatch(ctx, batch).Close()
	})
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// grace is how much longer we wait than the server is told to: if the server
// cancels the statement, the connection can be used again.
const grace = time.Second

// acquire waits for a place in limit until ctx is done. The caller releases it
// unless there is an error.
func acquire(ctx context.Context, limit *semaphore.Weighted) error {
	if err := limit.Acquire(ctx, 1); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // Acquire may succeed all the same
		limit.Release(1)
		return err
	}
	return nil
}

// withConn borrows a connection and returns it outside any transaction, so that a
// client's mistake does not cost the pool a connection.
func withConn(ctx context.Context, pool *pgxpool.Pool, use func(*pgx.Conn) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer conn.Release()
	defer func() {
		if inner := conn.Conn(); !inner.IsClosed() && inner.PgConn().TxStatus() != 'I' {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
			defer cancel()
			_, _ = inner.Exec(ctx, "ROLLBACK") // else Release closes it
		}
	}()
	return use(conn.Conn())
}
