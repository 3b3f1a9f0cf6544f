package refresh

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

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
		_, _ = a.pool.Exec(ctx, "UPDATE "+a.history()+" SET backend_pid = $2, backend_start = $3 WHERE id = $1 AND outcome = 'running'", a.id, pid, start)
	}()
	return nil
}
