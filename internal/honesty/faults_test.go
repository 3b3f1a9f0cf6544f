package honesty

import (
	"context"
	"errors"
	"time"
)

// faultKinds inject faults into backends, exporters and the server.
var faultKinds = []kind{
	{name: "backend terminated", weight: 14, run: backendTerminated},
	{name: "replica killed", weight: 4, run: replicaKilled},
	{name: "replica frozen", weight: 4, run: replicaFrozen},
	{name: "replica restarted", weight: 2, run: replicaRestarted},
	{name: "server crashed", weight: 3, run: func(ctx context.Context, h *harness, _ *event) error { return h.restart(ctx, true) }},
	{name: "server restarted", weight: 1, run: func(ctx context.Context, h *harness, _ *event) error { return h.restart(ctx, false) }},
}

// backendTerminated terminates or cancels a backend in a transaction: one of ours or an
// external one.
func backendTerminated(ctx context.Context, h *harness, e *event) error {
	conn, err := connect(ctx, h.superURL(), "terminator")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	end := oneOf(e, "pg_terminate_backend", "pg_terminate_backend", "pg_cancel_backend")
	for ctx.Err() == nil {
		tag, err := conn.Exec(ctx, `SELECT `+end+`(pid) FROM (
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name IN ('refresher', 'matview-exporter', 'external') AND xact_start IS NOT NULL
    ORDER BY hashtextextended(pid::text, $1) LIMIT 1) AS one`, e.number)
		if err != nil || tag.RowsAffected() > 0 {
			return err
		}
		pause(ctx, 2*time.Millisecond)
	}
	return ctx.Err()
}

var errAcquired = errors.New("another event uses this replica")

func replicaKilled(ctx context.Context, h *harness, e *event) error {
	i := e.IntN(2)
	p := h.exporters.acquire(i)
	if p == nil {
		return errAcquired
	}
	p.kill()
	pause(ctx, e.upTo(2*time.Second))
	return h.exporters.replace(i)
}

func replicaRestarted(_ context.Context, h *harness, e *event) error {
	i := e.IntN(2)
	p := h.exporters.acquire(i)
	if p == nil {
		return errAcquired
	}
	ended := p.end()
	return errors.Join(ended, h.exporters.replace(i))
}

func replicaFrozen(ctx context.Context, h *harness, e *event) error {
	i := e.IntN(2)
	p := h.exporters.acquire(i)
	if p == nil {
		return errAcquired
	}
	defer h.exporters.release(i, p)
	frozen := e.upTo(time.Second)
	if e.chance(40) {
		frozen += h.attemptTimeout + time.Second // its attempts count as dead
	}
	return p.freeze(ctx, frozen)
}
