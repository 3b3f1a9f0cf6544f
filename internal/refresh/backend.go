package refresh

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// ownBackend is what a new attempt says its backend is. Behind a pooler in
// transaction mode that one is nobody's yet: the transaction of the refresh gets
// another, and whoever found this attempt dead would end the session of a stranger.
func (r *Refresher) ownBackend() (pid, start string) {
	if postgres.IsPooled(r.pool) {
		return "NULL::int", "NULL::timestamptz"
	}
	return "pg_backend_pid()", backendStart
}

// showBackend records, behind a pooler, whose backend the transaction has: on
// another connection, since the others are to see it while that runs. The refresh
// does not wait for it: the pooler may have no session to spare until a refresh
// has ended.
func (a *attempt) showBackend(ctx context.Context, tx *pgx.Conn) error {
	if !postgres.IsPooled(a.pool) {
		return nil
	}
	var pid int32
	var start time.Time
	if err := tx.QueryRow(ctx, "SELECT pg_backend_pid(), "+backendStart).Scan(&pid, &start); err != nil {
		return fmt.Errorf("read its backend: %w", err)
	}
	go func() { // unrecorded, a dead attempt's locks last for idleTimeout
		// Not cancelled when the attempt ends first: through a pooler, that costs
		// somebody a connection.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), DeadAfter)
		defer cancel()
		_, _ = a.beside.Exec(ctx, "UPDATE "+a.history()+" SET backend_pid = $2, backend_start = $3 WHERE id = $1 AND outcome = 'running'", a.id, pid, start)
	}()
	return nil
}

// attemptLock is held by the transaction of an attempt, beside that on its view,
// and says to others whose backend it is: a backend that has it is at that very
// attempt, and no longer than that. What the history says may be of a transaction
// before, whose backend a pooler, or our own pool, has given to somebody else since.
const (
	attemptClass = matview.LockClass + 1
	attemptKey   = `($2::bigint & 2147483647)::int`
)

// queueMark takes the lock; nobody else ever has it, so that it never waits.
func (a *attempt) queueMark(batch *pgx.Batch) {
	batch.Queue("SELECT pg_try_advisory_xact_lock($1, "+attemptKey+")", attemptClass, a.id)
}

// EndTransaction ends the session whose transaction is that of an attempt, if there
// is one: that of an exporter that is frozen holds its locks. It takes the rights
// of pg_terminate_backend. Behind a pooler, too, it ends nobody else's session.
func (r *Refresher) EndTransaction(ctx context.Context, attempt int64) error {
	_, err := r.pool.Exec(ctx, `
SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l
WHERE l.locktype = 'advisory' AND l.classid = $1::int::oid AND l.objid = `+attemptKey+`::oid AND l.objsubid = 2 AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`, attemptClass, attempt)
	return err
}
