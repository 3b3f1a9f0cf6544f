package matview

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// flushWAL has the server write all of its log to the disk, and to its synchronous
// standbys. A COMMIT waits for that while it still holds its locks
// (RecordTransactionCommit in xact.c, before ResourceOwnerRelease), and one that
// drops a relation does so whatever synchronous_commit says. What is left of the
// log of a build is up to wal_buffers, and maybe a new segment of 16 MiB to be
// filled with zeros first, so readers would wait for tens of milliseconds: here
// nobody does.
//
// No function does just that before PostgreSQL 17, so another session commits a
// message that means nothing to anybody. It is let be where that cannot be had: it
// is only the exchange that takes longer then.
func flushWAL(ctx context.Context, pool *pgxpool.Pool) {
	const sql = `
SELECT set_config('synchronous_commit', CASE s WHEN 'off' THEN 'local' ELSE s END, true), pg_logical_emit_message(true, 'matview', '')
FROM current_setting('synchronous_commit') AS s`
	if s := pool.Stat(); s.AcquiredConns() >= s.MaxConns() {
		return // the swap itself may hold the only one
	}
	// Others may hold all connections, here or of a pooler, and a standby be away.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = pool.Exec(ctx, sql)
}
