package honesty

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// handKinds are refreshes by anybody else: psql, pg_cron, another program.
var handKinds = []kind{
	{name: "hand refresh", weight: 20, run: handRefresh},
	{name: "hand refresh in a long transaction", weight: 12, run: handRefreshHeld},
	{name: "hand refresh of old data", weight: 14, run: handRefreshOld},
	{name: "hand refresh in a savepoint", weight: 8, run: handRefreshSavepoint},
	{name: "procedure that commits as it goes", weight: 8, run: handProcedure},
	{name: "hand refresh within DO", weight: 5, run: handDo},
	{name: "WITH NO DATA", weight: 4, run: handNoData},
	{name: "other program", weight: 10, run: otherProgram, on: func(v *view) bool { return v.foreign }},
	{name: "nonsense in the log", weight: 4, run: nonsense, on: func(v *view) bool { return v.foreign }},
}

// session is one connection of an event, by the superuser or the owner.
type session struct {
	ctx  context.Context //nolint:containedctx // an event's own
	conn *pgx.Conn
}

func (w *world) session(ctx context.Context, e *event, do func(*session) error) error {
	conn, err := connect(ctx, oneOf(e, w.superURL(), w.ownerSocketURL()), "by hand")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	return do(&session{ctx: ctx, conn: conn})
}

// exec runs statements; with arguments, one.
func (s *session) exec(sql string, args ...any) error {
	if len(args) == 0 {
		args = []any{pgx.QueryExecModeSimpleProtocol}
	}
	_, err := s.conn.Exec(s.ctx, sql, args...)
	return err
}

func (s *session) all(steps ...string) error {
	for _, sql := range steps {
		if err := s.exec(sql); err != nil {
			return err
		}
	}
	return nil
}

// hold waits with the locks that the session has.
func (s *session) hold(d time.Duration) error { pause(s.ctx, d); return s.ctx.Err() }

func (e *event) handSQL() string {
	if e.view.unique != "" && e.chance(50) {
		return "REFRESH MATERIALIZED VIEW CONCURRENTLY " + e.view.name
	}
	return "REFRESH MATERIALIZED VIEW " + e.view.name
}

func (e *event) isolation() string {
	return oneOf(e, "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
}

// finish is mostly COMMIT.
func (e *event) finish() string {
	if e.chance(25) {
		return "ROLLBACK"
	}
	return "COMMIT"
}

func handRefresh(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error { return s.exec(e.handSQL()) })
}

func handRefreshHeld(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		if err := s.all("BEGIN ISOLATION LEVEL "+e.isolation(), e.handSQL()); err != nil {
			return err
		}
		if err := s.hold(e.upTo(300 * time.Millisecond)); err != nil {
			return err
		}
		return s.exec(e.finish())
	})
}

// handRefreshOld puts data into the view that is older than what was there.
func handRefreshOld(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		if err := s.all("BEGIN ISOLATION LEVEL "+oneOf(e, "REPEATABLE READ", "SERIALIZABLE"), "SELECT FROM pg_class LIMIT 1"); err != nil {
			return err
		}
		if err := s.hold(e.upTo(600 * time.Millisecond)); err != nil {
			return err
		}
		return s.all(e.handSQL(), e.finish())
	})
}

func handRefreshSavepoint(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		steps := []string{"BEGIN ISOLATION LEVEL " + e.isolation(), "SAVEPOINT a", e.handSQL(), "SAVEPOINT b", e.handSQL(), "ROLLBACK TO " + oneOf(e, "a", "b")}
		if e.chance(50) {
			steps = append(steps, e.handSQL(), "RELEASE a")
		}
		return s.all(append(steps, e.finish())...)
	})
}

func handProcedure(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		return s.exec("CALL refresh_and_commit($1, $2)", e.view.name, 1+e.IntN(5))
	})
}

func handDo(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		return s.exec("DO $$ BEGIN " + e.handSQL() + "; BEGIN " + e.handSQL() + "; RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN END; END $$")
	})
}

func handNoData(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		if err := s.all("BEGIN", "REFRESH MATERIALIZED VIEW "+e.view.name+" WITH NO DATA"); err != nil {
			return err
		}
		return s.exec(e.finish())
	})
}

// otherProgram refreshes and then upserts the log, in two transactions, as the
// Lambda function does that was there before us.
func otherProgram(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		began := time.Now()
		if err := s.exec(e.handSQL()); err != nil {
			return err
		}
		return s.exec(`
INSERT INTO materialized_view_refresh_log (view_name, last_refreshed_at, refresh_duration_ms, total_jobs, total_objects)
VALUES ($1, now(), $2, 1, 1)
ON CONFLICT (view_name) DO UPDATE SET last_refreshed_at = EXCLUDED.last_refreshed_at, refresh_duration_ms = EXCLUDED.refresh_duration_ms,
    total_jobs = EXCLUDED.total_jobs, total_objects = EXCLUDED.total_objects`, e.view.key, time.Since(began).Milliseconds())
	})
}

func nonsense(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		return s.exec("INSERT INTO materialized_view_refresh_log VALUES (" + literal(e.view.key) + ", " +
			oneOf(e, "now() + interval '1 hour', 5", "now(), NULL", "'infinity', 1", "'-infinity', NULL", "now(), -1000000") + `)
ON CONFLICT (view_name) DO UPDATE SET last_refreshed_at = EXCLUDED.last_refreshed_at, refresh_duration_ms = EXCLUDED.refresh_duration_ms`)
	})
}
