package api

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// beginSQL pins READ COMMITTED: each statement takes its snapshot after it has
// got its locks, so that a reader who waited for a blocking refresh sees the
// data and the record of that very refresh. Under REPEATABLE READ the snapshot
// would be older than the wait, and the new rows (a rebuilt view is visible to
// all snapshots) would come with the old record.
const beginSQL = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"

// settingsSQL pins what the text of values depends on, whatever the role, the
// database or a pooler's last client have set, and bounds the waiting. An
// exporter that is frozen in a transaction must not keep its locks.
const settingsSQL = `SELECT set_config('search_path', '', true), set_config('TimeZone', 'UTC', true),
set_config('DateStyle', 'ISO, YMD', true), set_config('IntervalStyle', 'postgres', true), set_config('bytea_output', 'hex', true),
set_config('extra_float_digits', '1', true), set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true),
set_config('idle_in_transaction_session_timeout', $2, true)`

// begin queues the start of a read.
func begin(batch *pgx.Batch, timeout time.Duration) {
	batch.Queue(beginSQL)
	// A reader who waited for a lock still has time to read.
	batch.Queue(settingsSQL, milliseconds(timeout*9/10), milliseconds(timeout))
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// grace is how much longer we wait than the server is told to: its own
// cancelling keeps the connection.
const grace = time.Second

// withConn borrows a connection and gives it back outside any transaction, so
// that a client's mistake does not cost the pool a connection.
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
