package scheduler_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/scheduler"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// attempts tells a test of each attempt, so that it need not sleep.
type attempts struct {
	mu    sync.Mutex
	views []string
	each  chan attempt
}

type attempt struct{ view, method, outcome string }

func newAttempts() *attempts { return &attempts{each: make(chan attempt, 1000)} }

func (a *attempts) Init(views []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.views = views
}

func (a *attempts) Observe(view, method, outcome string, _ time.Duration) {
	a.each <- attempt{view, method, outcome}
}

func (a *attempts) next(t *testing.T) attempt {
	t.Helper()
	select {
	case got := <-a.each:
		return got
	case <-time.After(30 * time.Second):
		t.Fatal("no attempt within 30 s")
		return attempt{}
	}
}

// of waits for the next attempt on one view, however many others there are meanwhile.
func (a *attempts) of(t *testing.T, view string) attempt {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if got := a.next(t); got.view == view {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("no attempt on %s within 30 s", view)
		}
	}
}

func installed(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "installed", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `CREATE TABLE jobs (id int PRIMARY KEY);
CREATE MATERIALIZED VIEW job_progress AS SELECT id FROM jobs WITH NO DATA;
CREATE UNIQUE INDEX ON job_progress (id);
CREATE MATERIALIZED VIEW other AS SELECT id FROM jobs WITH NO DATA;`)
		return err
	})
}

func options(t *testing.T, pool *pgxpool.Pool, observer scheduler.Observer) scheduler.Options {
	t.Helper()
	return scheduler.Options{
		Pool: pool, Refresher: refresh.New(pool, "public", t.Name()), Schema: "public", AttemptedBy: t.Name(), MaxConcurrent: 2,
		ShutdownTimeout: 10 * time.Second, Observer: observer, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// start runs a scheduler to the end of the test, or until stop is called, which
// waits for it.
func start(t *testing.T, o scheduler.Options) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		scheduler.NewLoop(o).Run(ctx)
		close(done)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func pool(t *testing.T, db *postgrestest.Database) *pgxpool.Pool {
	t.Helper()
	p, err := postgres.Open(t.Context(), postgres.Config{URL: db.URL(), MaxConnections: 6})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func scan[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func waitFor(t *testing.T, pool *pgxpool.Pool, condition string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !scan[bool](t, pool, condition) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", condition)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestEveryInPhase(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('job_progress', '1 s')`)
	seen := newAttempts()
	stop := start(t, options(t, p, seen))
	for range 4 {
		if got := seen.next(t); got.outcome != "succeeded" {
			t.Fatalf("%+v", got)
		}
	}
	stop()
	rows, err := p.Query(t.Context(), `SELECT started_at FROM materialized_view_refresh_history WHERE outcome = 'succeeded' ORDER BY started_at`)
	if err != nil {
		t.Fatal(err)
	}
	starts, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil || len(starts) < 4 {
		t.Fatalf("%d starts, %v", len(starts), err)
	}
	// Whole seconds after the first, however late each one was claimed.
	next := scan[time.Time](t, p, `SELECT next_run_at FROM materialized_view_refresh_state WHERE view_name = 'job_progress'`)
	if phase := next.Sub(starts[0]) % time.Second; phase > 0 && phase < 500*time.Millisecond {
		t.Errorf("the next run at %s has drifted by %s from the first at %s", next, phase, starts[0])
	}
	if !slices.Equal(seen.views, []string{"job_progress"}) {
		t.Errorf("the observer was notified of %v", seen.views)
	}
}

func TestCronIsDueOnceAndThenWaits(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, cron, time_zone) VALUES ('job_progress', '0 3 1 1 *', 'Europe/Berlin')`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	seen.of(t, "job_progress") // it had no verified record
	next := scan[time.Time](t, p, `SELECT next_run_at FROM materialized_view_freshness WHERE view_name = 'job_progress'`).UTC()
	if next.Month() != time.January || next.Day() != 1 || next.Hour() != 2 || !next.After(time.Now()) {
		t.Errorf("next run %s, want 3:00 in Berlin on January 1st", next)
	}
	if limit := scan[float64](t, p, `SELECT max_staleness_seconds FROM materialized_view_freshness WHERE view_name = 'job_progress'`); limit < 2*365*86400 || limit > 2*367*86400 {
		t.Errorf("max_staleness %v s, want about two years", limit)
	}
	// A verified record: a changed schedule does not make it due.
	db.Exec(t, `UPDATE materialized_view_refresh_schedule SET cron = '30 3 1 1 *'`)
	waitFor(t, p, `SELECT extract(minute FROM next_run_at) = 30 FROM materialized_view_refresh_state WHERE view_name = 'job_progress'`)
	if n := scan[int](t, p, `SELECT count(*) FROM materialized_view_refresh_history`); n != 1 {
		t.Errorf("%d attempts, want 1", n)
	}
}

func TestChangedScheduleTakesEffect(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	seen := newAttempts()
	start(t, options(t, p, seen))
	waitFor(t, p, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database())`)
	inserted := time.Now()
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1 h')`)
	seen.of(t, "other")
	t.Logf("a new schedule took effect after %s", time.Since(inserted))
	db.Exec(t, `UPDATE materialized_view_refresh_schedule SET enabled = false, every = '1 s'`)
	waitFor(t, p, `SELECT next_run_at IS NULL AND NOT enabled FROM materialized_view_freshness WHERE view_name = 'other'`)
}

func TestFailureBacksOffAndOthersGoOn(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every, method) VALUES ('no_such_view', '1 d', 'auto'), ('other', '1 s', 'blocking')`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	if got := seen.of(t, "no_such_view"); got.outcome != "failed" {
		t.Errorf("%+v", got)
	}
	for range 2 {
		if got := seen.of(t, "other"); got.outcome != "succeeded" {
			t.Errorf("%+v", got)
		}
	}
	v, found, err := freshness.Find(t.Context(), p, "public", "no_such_view")
	if err != nil || !found || *v.StaleReason != "missing" || v.ConsecutiveFailures != 1 || v.LastError == nil {
		t.Errorf("freshness %+v, %v", v, err)
	}
	waitFor(t, p, `SELECT next_run_at - last_attempt_at BETWEEN '3 s' AND '10 s' FROM materialized_view_refresh_state WHERE view_name = 'no_such_view'`)
}

func TestScheduleThatCannotRunRecordsWhy(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, cron, target_staleness, method) VALUES
('job_progress', '0 0 30 2 *', NULL, 'auto'), ('other', '61 * * * *', NULL, 'auto')`)
	start(t, options(t, p, newAttempts()))
	waitFor(t, p, `SELECT count(*) = 2 FROM materialized_view_refresh_state WHERE last_error LIKE 'schedule: %' AND next_run_at IS NULL`)
	db.Exec(t, `UPDATE materialized_view_refresh_schedule SET cron = '* * * * *' WHERE view_name = 'other'`)
	waitFor(t, p, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE view_name = 'other' AND outcome = 'succeeded')`)
}

// One row that somebody wrote by hand must not stop the others.
func TestSettingsOfOtherTypes(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every, settings) VALUES
('job_progress', '1 h', '{"work_mem": 4096, "enable_seqscan": true}'), ('other', '1 h', '{"work_mem": [1]}')`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	for range 2 {
		switch got := seen.next(t); {
		case got.view == "job_progress" && got.outcome != "succeeded", got.view == "other" && got.outcome != "failed":
			t.Errorf("%+v", got)
		}
	}
	if message := scan[string](t, p, `SELECT last_error FROM materialized_view_refresh_state WHERE view_name = 'other'`); !strings.Contains(message, "work_mem") {
		t.Errorf("last_error: %s", message)
	}
}

func TestAbandonedAttemptIsTakenOver(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	// An exporter that froze in the middle of its transaction: its backend holds
	// the view's lock and the advisory lock of the attempt, and its heartbeat has stopped. The
	// history names a session of somebody else, whom a pooler gave the one that the
	// attempt had first.
	frozen, stranger := db.Connect(t), db.Connect(t)
	id := scan[int64](t, p, `
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, attempted_by, backend_pid, backend_start, heartbeat_at)
SELECT 'job_progress', 'schedule', 'running', 'frozen', $1, backend_start, clock_timestamp() FROM pg_stat_get_activity($1) RETURNING id`, stranger.PgConn().PID())
	if _, err := frozen.Exec(t.Context(), fmt.Sprintf(`BEGIN; SELECT pg_advisory_xact_lock(%d, %d); REFRESH MATERIALIZED VIEW job_progress`, matview.LockClass+1, id)); err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Exec(t.Context(), `BEGIN; SELECT pg_advisory_xact_lock(4711, $1)`, pgx.QueryExecModeSimpleProtocol, id); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('job_progress', '1 h')`)
	began := time.Now()
	seen := newAttempts()
	start(t, options(t, p, seen))
	if got := seen.of(t, "job_progress"); got.outcome != "succeeded" {
		t.Errorf("%+v", got)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("taken over after %s", took)
	}
	if n := scan[int](t, p, `SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'abandoned' AND error LIKE '%frozen%' AND sqlstate = '57P01'`); n != 1 {
		t.Errorf("%d abandoned attempts in the history, want 1", n)
	}
	if _, err := stranger.Exec(t.Context(), "COMMIT"); err != nil {
		t.Errorf("the session of somebody else was ended: %v", err)
	}
	if err := frozen.Ping(t.Context()); err == nil {
		t.Error("the session of the attempt was not ended")
	}
}

func TestReplicasShareTheWork(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('job_progress', '1 s'), ('other', '1 s')`)
	seen := newAttempts()
	var stops []func()
	for range 3 {
		stops = append(stops, start(t, options(t, p, seen)))
	}
	for range 8 {
		if got := seen.next(t); got.outcome != "succeeded" {
			t.Errorf("%+v", got)
		}
	}
	for _, stop := range stops {
		stop()
	}
	// Each due run was claimed once: whoever claims moves the view to its next run.
	if twice := scan[int](t, p, `
SELECT count(*) FROM (SELECT view_name, next_run_at - interval '1 s' AS last FROM materialized_view_refresh_state) AS st
JOIN LATERAL (SELECT count(*) AS attempts, min(started_at) AS first FROM materialized_view_refresh_history AS h WHERE h.view_name = st.view_name) AS h ON true
WHERE h.attempts > extract(epoch FROM st.last - h.first) + 1.999`); twice != 0 {
		t.Errorf("%d views were refreshed more often than they were due", twice)
	}
	if overlapping := scan[int](t, p, `
SELECT count(*) FROM materialized_view_refresh_history AS a JOIN materialized_view_refresh_history AS b ON a.id < b.id AND a.view_name = b.view_name
WHERE tstzrange(a.data_as_of, a.finished_at) && tstzrange(b.data_as_of, b.finished_at)`); overlapping != 0 {
		t.Errorf("%d pairs of refreshes of one view overlapped", overlapping)
	}
}

func TestShutdownWaitsThenCancels(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(600)::text AS nap WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('slow', '1 h')`)
	o := options(t, p, newAttempts())
	o.ShutdownTimeout = 100 * time.Millisecond
	stop := start(t, o)
	waitFor(t, p, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database())`)
	stop()
	if outcome := scan[string](t, p, `SELECT concat_ws(' ', outcome, sqlstate, error) FROM materialized_view_refresh_history WHERE view_name = 'slow'`); !strings.HasPrefix(outcome, "failed 57014 refresh slow: cancelled: the exporter was stopped") {
		t.Errorf("the cancelled attempt is recorded as %s", outcome)
	}
}

func TestScheduleMadeAnewIsDueAtOnce(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1 d')`)
	seen := newAttempts()
	start(t, options(t, p, seen))
	seen.of(t, "other")
	db.Exec(t, `DELETE FROM materialized_view_refresh_schedule; DROP MATERIALIZED VIEW other; CREATE MATERIALIZED VIEW other AS SELECT 1 AS x WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1 d')`)
	if got := seen.of(t, "other"); got.outcome != "succeeded" {
		t.Errorf("%+v", got)
	}
}

// The process lives and its backend does not: the attempt must neither hang nor
// be vouched for.
func TestBackendGoneSilently(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(600)::text AS nap WITH NO DATA`)
	proxy := blackhole(t, db.URL())
	through, err := postgres.Open(t.Context(), postgres.Config{URL: proxy.url, MaxConnections: 6})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(through.Close)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('slow', '1 d')`)
	seen := newAttempts()
	o := options(t, through, seen)
	o.ShutdownTimeout = 0
	start(t, o)
	waitFor(t, p, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database())`)
	proxy.mute() // what goes through it now arrives nowhere, and no end of it either
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()`)
	if got := seen.of(t, "slow"); got.outcome != "failed" {
		t.Errorf("%+v", got)
	}
}
