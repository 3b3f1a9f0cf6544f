package honesty

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// weatherKinds harm backends, processes and the server.
var weatherKinds = []kind{
	{name: "backend terminated", weight: 14, run: backendEnded},
	{name: "replica killed", weight: 4, run: replicaKilled},
	{name: "replica frozen", weight: 4, run: replicaFrozen},
	{name: "replica restarted", weight: 2, run: replicaRestarted},
	{name: "server crashed", weight: 3, run: func(ctx context.Context, w *world, _ *event) error { return w.restart(ctx, true) }},
	{name: "server restarted", weight: 1, run: func(ctx context.Context, w *world, _ *event) error { return w.restart(ctx, false) }},
}

// backendEnded ends, or cancels, one that is refreshing, whoever's it is.
func backendEnded(ctx context.Context, w *world, e *event) error {
	conn, err := connect(ctx, w.superURL(), "terminator")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	end := oneOf(e, "pg_terminate_backend", "pg_terminate_backend", "pg_cancel_backend")
	for ctx.Err() == nil {
		tag, err := conn.Exec(ctx, `SELECT `+end+`(pid) FROM (
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name IN ('refresher', 'matview-exporter', 'by hand') AND xact_start IS NOT NULL
    ORDER BY md5(pid::text || $1) LIMIT 1) AS one`, fmt.Sprint(e.number))
		if err != nil || tag.RowsAffected() > 0 {
			return err
		}
		pause(ctx, 2*time.Millisecond)
	}
	return ctx.Err()
}

var errTaken = errors.New("another event has this replica")

func replicaKilled(ctx context.Context, w *world, e *event) error {
	i := e.IntN(2)
	p := w.exporters.take(i)
	if p == nil {
		return errTaken
	}
	p.kill()
	pause(ctx, e.upTo(2*time.Second))
	return w.exporters.replace(i)
}

func replicaRestarted(_ context.Context, w *world, e *event) error {
	i := e.IntN(2)
	p := w.exporters.take(i)
	if p == nil {
		return errTaken
	}
	ended := p.end()
	return errors.Join(ended, w.exporters.replace(i))
}

func replicaFrozen(ctx context.Context, w *world, e *event) error {
	i := e.IntN(2)
	p := w.exporters.take(i)
	if p == nil {
		return errTaken
	}
	defer w.exporters.back(i, p)
	frozen := e.upTo(time.Second)
	if e.chance(40) {
		frozen += refresh.DeadAfter + time.Second // its attempts are given up
	}
	return p.freeze(ctx, frozen)
}
