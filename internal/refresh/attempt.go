package refresh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
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
	// alive ends when the backend is found to be gone, which a connection through
	// a broken network may not tell for minutes.
	alive  context.Context //nolint:containedctx // it is the attempt's own
	cancel context.CancelCauseFunc
	// because and counted are of a request that would rather skip: why it does
	// not, and what the view read just before.
	because string
	counted *counted
	chosen  choice // the latest, for the record of a failure
	// shown is closed once the backend of the latest try is recorded; nil where it
	// was from the beginning.
	shown <-chan struct{}

	blocked  sync.Mutex
	blockers string // who last held a lock that it waited for
}

var errBackendGone = errors.New("the server has ended its session, or the connection to it is lost")

// The row is a commit of its own, so that others see the attempt while it runs.
// Losing it in a crash loses nothing, hence no wait for the disk.
const (
	commitLater = `FROM (SELECT set_config('synchronous_commit', 'off', true)) AS no_wait`

	backendStart = `(SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid()))`

	beginSQL = `
INSERT INTO %s AS h (view_name, trigger, outcome, attempted_by, backend_pid, backend_start, heartbeat_at)
SELECT CASE WHEN $1 = 'public' THEN quote_ident($2) ELSE quote_ident($1) || '.' || quote_ident($2) END,
       $3, 'running', $4, %s, %s, clock_timestamp()
` + commitLater + `
RETURNING h.id, h.view_name`

	beginClaimedSQL = `
UPDATE %s AS h
SET backend_pid = %s, backend_start = %s, heartbeat_at = clock_timestamp(), started_at = clock_timestamp()
` + commitLater + `
WHERE h.id = $1 AND h.outcome = 'running'
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
	pid, start := r.ownBackend()
	if err := conn.QueryRow(ctx, fmt.Sprintf(sql, r.history(), pid, start), args...).Scan(&a.id, &a.view); err != nil {
		conn.Release()
		if errors.Is(err, pgx.ErrNoRows) { // frozen between the claim and now
			return nil, ErrTakenOver
		}
		return nil, recordError(err)
	}
	a.alive, a.cancel = context.WithCancelCause(ctx)
	r.beat.add(a.id, a.cancel)
	return a, nil
}

func (a *attempt) end() {
	a.beat.remove(a.id)
	a.cancel(nil)
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
	running map[int64]context.CancelCauseFunc
	stop    context.CancelFunc // nil while nothing runs
}

func newHeartbeat(pool *pgxpool.Pool, schema string) *heartbeat {
	return &heartbeat{pool: pool, schema: schema, running: map[int64]context.CancelCauseFunc{}}
}

func (h *heartbeat) add(id int64, cancel context.CancelCauseFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[id] = cancel
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

// beatSQL says that the attempts live whose backends do, and returns the others:
// a process that lives while its backend is gone waits for an answer that never
// comes.
const beatSQL = `
WITH mine AS (
    SELECT h.id, h.backend_pid IS NULL
               OR EXISTS (SELECT FROM pg_stat_get_activity(h.backend_pid) AS b WHERE b.backend_start = h.backend_start) AS lives
    FROM %[1]s AS h WHERE h.id = ANY ($1) AND h.outcome = 'running'
), beaten AS (
    UPDATE %[1]s SET heartbeat_at = clock_timestamp() WHERE id IN (SELECT id FROM mine WHERE lives)
)
SELECT id FROM mine WHERE NOT lives`

// beat has no use for an error: whoever watches the heartbeats acts on their
// absence.
func (h *heartbeat) beat(ctx context.Context) {
	h.mu.Lock()
	ids := slices.Collect(maps.Keys(h.running))
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, HeartbeatInterval)
	defer cancel()
	rows, err := h.pool.Query(ctx, fmt.Sprintf(beatSQL, postgres.QuoteIdent(h.schema, "materialized_view_refresh_history")), ids)
	if err != nil {
		return
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range gone {
		if end := h.running[id]; end != nil {
			end(errBackendGone)
		}
	}
}
