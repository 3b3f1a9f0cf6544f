package matview

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// flushWAL makes the server write all of its WAL to disk, and to its synchronous
// standbys. COMMIT waits for that while it still holds its locks
// (RecordTransactionCommit in xact.c, before ResourceOwnerRelease), and a COMMIT
// that drops a relation does so whatever synchronous_commit is. The WAL that a build
// leaves unwritten is up to wal_buffers, and may need a new segment of 16 MiB that
// is first filled with zeros. Without flushWAL, readers of a swapped view stalled
// for 59–79 ms rather than about 10 ms.
//
// Before PostgreSQL 17 no function does only that, so another session commits a
// message that has no meaning. Best effort: if this fails, the exchange only takes
// longer.
func flushWAL(ctx context.Context, pool *pgxpool.Pool) {
	const sql = `
SELECT set_config('synchronous_commit', CASE s WHEN 'off' THEN 'local' ELSE s END, true), pg_logical_emit_message(true, 'matview', '')
FROM current_setting('synchronous_commit') AS s`
	if s := pool.Stat(); s.AcquiredConns() >= s.MaxConns() {
		return // the swap itself may hold the only connection
	}
	// The pool or a pooler may have no connection left, or a standby be away.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = pool.Exec(ctx, sql)
}
