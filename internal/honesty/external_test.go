package honesty

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// externalKinds are refreshes by anything but our programs: psql, pg_cron, another
// program.
var externalKinds = []kind{
	{name: "external refresh", weight: 20, run: externalRefresh},
	{name: "external refresh in a long transaction", weight: 12, run: externalRefreshInLongTransaction},
	{name: "external refresh of old data", weight: 14, run: externalRefreshOfOldData},
	{name: "external refresh in a savepoint", weight: 8, run: externalRefreshInSavepoint},
	{name: "procedure that commits after each refresh", weight: 8, run: procedureThatCommits},
	{name: "external refresh within DO", weight: 5, run: externalRefreshInDo},
	{name: "external refresh WITH NO DATA", weight: 4, run: externalRefreshWithNoData},
	{name: "other program", weight: 10, run: otherProgram, on: func(v *view) bool { return v.foreign }},
	{name: "invalid log row", weight: 4, run: invalidLogRow, on: func(v *view) bool { return v.foreign }},
}

// session is a connection of an event, as the superuser or the owner.
type session struct {
	ctx  context.Context //nolint:containedctx // the event's
	conn *pgx.Conn
}

func (h *harness) session(ctx context.Context, e *event, do func(*session) error) error {
	conn, err := connect(ctx, oneOf(e, h.superURL(), h.ownerSocketURL()), "external")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	return do(&session{ctx: ctx, conn: conn})
}

// exec runs several statements, or one if there are arguments.
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

// wait keeps the session and its locks for d.
func (s *session) wait(d time.Duration) error { pause(s.ctx, d); return s.ctx.Err() }

func (e *event) refreshSQL() string {
	if e.view.unique != "" && e.chance(50) {
		return "REFRESH MATERIALIZED VIEW CONCURRENTLY " + e.view.name
	}
	return "REFRESH MATERIALIZED VIEW " + e.view.name
}

func (e *event) isolation() string {
	return oneOf(e, "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
}

// finish returns COMMIT or, less often, ROLLBACK.
func (e *event) finish() string {
	if e.chance(25) {
		return "ROLLBACK"
	}
	return "COMMIT"
}

func externalRefresh(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error { return s.exec(e.refreshSQL()) })
}

func externalRefreshInLongTransaction(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		if err := s.all("BEGIN ISOLATION LEVEL "+e.isolation(), e.refreshSQL()); err != nil {
			return err
		}
		if err := s.wait(e.upTo(300 * time.Millisecond)); err != nil {
			return err
		}
		return s.exec(e.finish())
	})
}

// externalRefreshOfOldData refreshes with an old snapshot, so that the view may get
// older data than it had.
func externalRefreshOfOldData(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		if err := s.all("BEGIN ISOLATION LEVEL "+oneOf(e, "REPEATABLE READ", "SERIALIZABLE"), "SELECT FROM pg_class LIMIT 1"); err != nil {
			return err
		}
		if err := s.wait(e.upTo(600 * time.Millisecond)); err != nil {
			return err
		}
		return s.all(e.refreshSQL(), e.finish())
	})
}

func externalRefreshInSavepoint(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		steps := []string{"BEGIN ISOLATION LEVEL " + e.isolation(), "SAVEPOINT a", e.refreshSQL(), "SAVEPOINT b", e.refreshSQL(), "ROLLBACK TO " + oneOf(e, "a", "b")}
		if e.chance(50) {
			steps = append(steps, e.refreshSQL(), "RELEASE a")
		}
		return s.all(append(steps, e.finish())...)
	})
}

func procedureThatCommits(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		return s.exec("CALL refresh_and_commit($1, $2)", e.view.name, 1+e.IntN(5))
	})
}

func externalRefreshInDo(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		return s.exec("DO $$ BEGIN " + e.refreshSQL() + "; BEGIN " + e.refreshSQL() + "; RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN END; END $$")
	})
}

func externalRefreshWithNoData(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		if err := s.all("BEGIN", "REFRESH MATERIALIZED VIEW "+e.view.name+" WITH NO DATA"); err != nil {
			return err
		}
		return s.exec(e.finish())
	})
}

// otherProgram refreshes and then upserts the log, in two transactions, like the Lambda
// function that matview replaces.
func otherProgram(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		began := time.Now()
		if err := s.exec(e.refreshSQL()); err != nil {
			return err
		}
		return s.exec(`
INSERT INTO materialized_view_refresh_log (view_name, last_refreshed_at, refresh_duration_ms, total_jobs, total_objects)
VALUES ($1, now(), $2, 1, 1)
ON CONFLICT (view_name) DO UPDATE SET last_refreshed_at = EXCLUDED.last_refreshed_at, refresh_duration_ms = EXCLUDED.refresh_duration_ms,
    total_jobs = EXCLUDED.total_jobs, total_objects = EXCLUDED.total_objects`, e.view.key, time.Since(began).Milliseconds())
	})
}

func invalidLogRow(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		return s.exec("INSERT INTO materialized_view_refresh_log VALUES (" + literal(e.view.key) + ", " +
			oneOf(e, "now() + interval '1 hour', 5", "now(), NULL", "'infinity', 1", "'-infinity', NULL", "now(), -1000000") + `)
ON CONFLICT (view_name) DO UPDATE SET last_refreshed_at = EXCLUDED.last_refreshed_at, refresh_duration_ms = EXCLUDED.refresh_duration_ms`)
	})
}
