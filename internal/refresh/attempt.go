package refresh

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// attempt is one refresh under way: its row in the history and its connection.
type attempt struct {
	*Refresher
	request Request
	name    matview.Name
	view    string // canonical view_name
	id      int64
	conn    *pgxpool.Conn
}

// The row is a commit of its own, so that others see the attempt while it runs.
// Losing it in a crash loses nothing, hence no wait for the disk.
const (
	commitLater = `FROM (SELECT set_config('synchronous_commit', 'off', true)) AS no_wait`

	backendStart = `(SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid()))`

	beginSQL = `
INSERT INTO %s AS h (view_name, trigger, outcome, attempted_by, backend_pid, backend_start, heartbeat_at)
SELECT CASE WHEN $1 = 'public' THEN quote_ident($2) ELSE quote_ident($1) || '.' || quote_ident($2) END,
       $3, 'running', $4, pg_backend_pid(), ` + backendStart + `, clock_timestamp()
` + commitLater + `
RETURNING h.id, h.view_name`

	beginClaimedSQL = `
UPDATE %s AS h
SET backend_pid = pg_backend_pid(), backend_start = ` + backendStart + `, heartbeat_at = clock_timestamp(), started_at = clock_timestamp()
` + commitLater + `
WHERE h.id = $1
RETURNING h.id, h.view_name`
)

// begin takes a connection and makes the attempt visible.
func (r *Refresher) begin(ctx context.Context, req Request) (*attempt, error) {
	name, err := matview.ParseName(req.View)
	if err != nil {
		return nil, err
	}
	if r.attemptedBy == "" || req.Trigger == "" {
		return nil, fmt.Errorf("the attempt has no trigger or nobody who makes it")
	}
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	a := &attempt{Refresher: r, request: req, name: name, conn: conn}
	sql, args := beginSQL, []any{name.Schema, name.Relation, req.Trigger, r.attemptedBy}
	if req.Attempt != 0 {
		sql, args = beginClaimedSQL, []any{req.Attempt}
	}
	if err := conn.QueryRow(ctx, fmt.Sprintf(sql, r.history()), args...).Scan(&a.id, &a.view); err != nil {
		conn.Release()
		return nil, fmt.Errorf("record the attempt: %w", err)
	}
	r.beat.add(a.id)
	return a, nil
}

func (a *attempt) end() {
	a.beat.remove(a.id)
	a.conn.Release()
}

func (r *Refresher) history() string {
	return postgres.QuoteIdent(r.schema, "materialized_view_refresh_history")
}

// HeartbeatInterval is how often a running attempt says that its process lives;
// DeadAfter is how long without one makes it dead. Both by database time.
const (
	HeartbeatInterval = 2 * time.Second
	DeadAfter         = 7 * time.Second
)

// heartbeat keeps the attempts of this process alive in the history, on a
// connection other than theirs.
type heartbeat struct {
	pool   *pgxpool.Pool
	schema string

	mu      sync.Mutex
	running map[int64]struct{}
	stop    context.CancelFunc // nil while nothing runs
}

func newHeartbeat(pool *pgxpool.Pool, schema string) *heartbeat {
	return &heartbeat{pool: pool, schema: schema, running: map[int64]struct{}{}}
}

func (h *heartbeat) add(id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[id] = struct{}{}
	if h.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		h.stop = cancel
		go h.loop(ctx)
	}
}

func (h *heartbeat) remove(id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, id)
	if len(h.running) == 0 && h.stop != nil {
		h.stop()
		h.stop = nil
	}
}

func (h *heartbeat) loop(ctx context.Context) {
	ticker := time.NewTicker(HeartbeatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			h.beat(ctx)
		}
	}
}

// beat has no use for an error: whoever watches the heartbeats acts on their
// absence.
func (h *heartbeat) beat(ctx context.Context) {
	h.mu.Lock()
	ids := make([]int64, 0, len(h.running))
	for id := range h.running {
		ids = append(ids, id)
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, HeartbeatInterval)
	defer cancel()
	_, _ = h.pool.Exec(ctx, `
UPDATE `+postgres.QuoteIdent(h.schema, "materialized_view_refresh_history")+`
SET heartbeat_at = clock_timestamp() WHERE id = ANY ($1) AND outcome = 'running'`, ids)
}
