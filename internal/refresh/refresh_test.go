package refresh_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// installed is a database with the tables of matview.
func installed(t testing.TB) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "installed", func(ctx context.Context, conn *pgx.Conn) error {
		return migrations.Apply(ctx, conn, "public")
	})
}

func manual(view string, method refresh.Method) refresh.Request {
	return refresh.Request{View: view, Method: method, Trigger: refresh.TriggerManual, LockTimeout: 10 * time.Second}
}

func mustRefresh(t *testing.T, pool *pgxpool.Pool, req refresh.Request) refresh.Result {
	t.Helper()
	result, err := refresh.New(pool, "public", "test").Refresh(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func fresh(t *testing.T, pool *pgxpool.Pool, view string) freshness.View {
	t.Helper()
	v, found, err := freshness.Find(t.Context(), pool, "public", view)
	if err != nil || !found {
		t.Fatalf("freshness of %s: found %v, %v", view, found, err)
	}
	return v
}

func scan[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

const jobs = `CREATE TABLE jobs (job_id text PRIMARY KEY, n int);
INSERT INTO jobs SELECT 'job-' || i, i FROM generate_series(1, 3) AS i;
CREATE MATERIALIZED VIEW job_progress AS SELECT job_id, n FROM jobs WITH NO DATA;
CREATE UNIQUE INDEX ON job_progress (job_id);`

func TestRefreshIsRecorded(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	req := manual("job_progress", refresh.Auto)
	req.TotalJobs, req.TotalObjects = "count(*)", "sum(n) -- of all"
	result := mustRefresh(t, pool, req)
	if result.Method != refresh.Blocking || result.Reason != "first population" {
		t.Errorf("method %s (%s), want blocking for the first population", result.Method, result.Reason)
	}
	v := fresh(t, pool, "job_progress")
	if v.StaleReason != nil || *v.IsStale || !v.DataAsOf.Equal(*result.AsOf) || !v.LastRefreshedAt.Equal(result.FinishedAt) {
		t.Errorf("freshness %+v does not show what was recorded: %+v", v, result)
	}
	if v.DataAsOf.After(*v.LastRefreshedAt) || *v.TotalJobs != 3 || *v.TotalObjects != 6 || *v.SizeBytes <= 0 {
		t.Errorf("freshness %+v", v)
	}
	if again := mustRefresh(t, pool, req); again.Method != refresh.Concurrently || again.Warning != "" {
		t.Errorf("second refresh: %+v, want concurrently without a warning", again)
	}
	if n := scan[int](t, pool, `SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'succeeded' AND data_as_of <= finished_at AND trigger = 'manual'`); n != 2 {
		t.Errorf("%d succeeded attempts in the history, want 2", n)
	}
	// The log's own arithmetic, which other programs use, must not overstate either.
	if !scan[bool](t, pool, `SELECT l.last_refreshed_at - l.refresh_duration_ms * interval '1 ms' <= s.data_as_of
FROM materialized_view_refresh_log AS l JOIN materialized_view_refresh_state AS s USING (view_name)`) {
		t.Error("the log's duration is too short for its as-of")
	}
}

func TestFailureIsRecordedAndLosesNothing(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	before := fresh(t, pool, "job_progress")
	db.Exec(t, `CREATE FUNCTION boom() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'out of fuel' USING ERRCODE = 'P0042'; END $$;
ALTER TABLE jobs ADD CHECK (n > 0); CREATE VIEW broken AS SELECT boom() AS x;
CREATE MATERIALIZED VIEW breaks AS SELECT x FROM broken WITH NO DATA;`)
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("breaks", refresh.Auto))
	if err == nil || postgres.SQLState(err) != "P0042" || !strings.HasPrefix(postgres.Message(err), "refresh breaks: blocking: out of fuel") {
		t.Errorf("err = %v", err)
	}
	v := fresh(t, pool, "breaks")
	if v.ConsecutiveFailures != 1 || !strings.Contains(*v.LastError, "out of fuel") || *v.LastOutcome != "failed" || v.LastRefreshedAt != nil {
		t.Errorf("freshness %+v", v)
	}
	if state := scan[string](t, pool, `SELECT sqlstate FROM materialized_view_refresh_history WHERE outcome = 'failed'`); state != "P0042" {
		t.Errorf("sqlstate %q in the history", state)
	}
	if after := fresh(t, pool, "job_progress"); !after.DataAsOf.Equal(*before.DataAsOf) {
		t.Error("another view's record moved")
	}
}

func TestMissingView(t *testing.T) {
	pool := installed(t).Pool(t)
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual(`"No.Such view"`, refresh.Auto))
	if want := `refresh "No.Such view": there is no such materialized view`; err == nil || err.Error() != want {
		t.Errorf("err = %v, want %s", err, want)
	}
	failedWith(t, pool, pgerrcode.UndefinedTable)
}

// failedWith is for the SQLSTATE of the last attempt in the history.
func failedWith(t *testing.T, pool *pgxpool.Pool, state string) {
	t.Helper()
	if got := scan[string](t, pool, "SELECT outcome || ' ' || coalesce(sqlstate, 'null') FROM materialized_view_refresh_history ORDER BY id DESC LIMIT 1"); got != "failed "+state {
		t.Errorf("the history says %s, want failed %s", got, state)
	}
}

func TestConcurrentlyWithoutIndex(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; CREATE UNIQUE INDEX ON v (x) WHERE x > 0; CREATE UNIQUE INDEX ON v ((x + 1));`)
	pool := db.Pool(t)
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("v", refresh.Concurrently))
	if err == nil || !strings.Contains(err.Error(), `CREATE UNIQUE INDEX ON "public"."v" (KEY_COLUMNS)`) {
		t.Errorf("err = %v", err)
	}
	failedWith(t, pool, "55000")
	if method := scan[string](t, pool, "SELECT coalesce(method, 'null') FROM materialized_view_refresh_history WHERE outcome = 'failed'"); method != "concurrently" {
		t.Errorf("the failed attempt was by %s", method)
	}
	if got := mustRefresh(t, pool, manual("v", refresh.Auto)); got.Method != refresh.Swap {
		t.Errorf("auto chose %s without a usable index or a measurement", got.Method)
	}
}

func TestNames(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE SCHEMA "my.schema"`)
	pool := db.Pool(t)
	for _, name := range []matview.Name{
		{Schema: "public", Relation: "select"},
		{Schema: "public", Relation: `wei"rd na.me`},
		{Schema: "my.schema", Relation: "Größe des Übergangs"},
		{Schema: "public", Relation: strings.Repeat("x", 63)},
	} {
		db.Exec(t, "CREATE MATERIALIZED VIEW "+name.SQL()+" AS SELECT 1 AS x")
		mustRefresh(t, pool, manual(name.String(), refresh.Auto))
		v := fresh(t, pool, name.String())
		if v.StaleReason != nil || *v.Relation != name.Relation || v.IsStale == nil {
			t.Errorf("%s: %+v", name, v)
		}
		if parsed, err := matview.ParseName(v.Name); err != nil || parsed != name {
			t.Errorf("view_name %s parses to %+v, %v", v.Name, parsed, err)
		}
	}
}

// REFRESH takes its snapshot before it waits for its lock, so that a refresh
// that waited does not have what was committed meanwhile.
func TestAsOfPrecedesTheWaitForTheLock(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))

	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; SELECT count(*) FROM job_progress"); err != nil {
		t.Fatal(err)
	}
	done := make(chan refresh.Result)
	go func() {
		result, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), manual("job_progress", refresh.Blocking))
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'job_progress'::regclass AND NOT granted)`)
	committed := scan[time.Time](t, pool, `WITH i AS (INSERT INTO jobs VALUES ('late', 9)) SELECT clock_timestamp()`)
	if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	result := <-done
	if n := scan[int](t, pool, `SELECT count(*) FROM job_progress WHERE job_id = 'late'`); n != 0 {
		t.Fatal("this server took the snapshot after the wait: the test shows nothing")
	}
	if !result.AsOf.Before(committed) {
		t.Errorf("as-of %s claims a row that was committed at %s and is not in the view", result.AsOf, committed)
	}
}

func waitFor(t *testing.T, pool *pgxpool.Pool, condition string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !scan[bool](t, pool, condition) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", condition)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Under REPEATABLE READ the snapshot would be older than the clock that is read
// after the lock.
func TestIsolationOfTheServerDoesNotLeakIn(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs+`ALTER DATABASE `+postgres.QuoteIdent(db.Name)+` SET default_transaction_isolation = 'serializable'`)
	db.Exec(t, `CREATE MATERIALIZED VIEW isolation AS SELECT current_setting('transaction_isolation') AS level`)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("isolation", refresh.Auto))
	if level := scan[string](t, pool, "SELECT level FROM isolation"); level != "read committed" {
		t.Errorf("refreshed under %s", level)
	}
}

func TestAsOfOfViewsOverViews(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs+`
CREATE VIEW between AS SELECT * FROM job_progress;
CREATE MATERIALIZED VIEW summary AS SELECT count(*) AS n FROM between WITH NO DATA;`)
	pool := db.Pool(t)
	db.Exec(t, `REFRESH MATERIALIZED VIEW job_progress`) // by somebody unrecorded
	mustRefresh(t, pool, manual("summary", refresh.Auto))
	if v := fresh(t, pool, "summary"); v.DataAsOf != nil || *v.StaleReason != "unverified" {
		t.Errorf("a view over one of unknown age claims as-of %v, reason %v", v.DataAsOf, v.StaleReason)
	}
	up := mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	down := mustRefresh(t, pool, manual("summary", refresh.Auto))
	if down.AsOf == nil || !down.AsOf.Equal(*up.AsOf) {
		t.Errorf("as-of %v of the summary, want that of what it reads, %v", down.AsOf, up.AsOf)
	}
}

func TestTotalsThatFail(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs+`CREATE SEQUENCE s`)
	pool := db.Pool(t)
	for _, c := range []struct{ jobs, objects, warning string }{
		{"1/0", "count(*)", "total_jobs is null: division by zero"},
		{"count(*)", "no_such_column", `total_objects is null: column "no_such_column" does not exist`},
		{"3000000000", "count(*)", "total_jobs is null: 3000000000 does not fit"},
		{"n", "count(*)", `total_jobs is null: column "job_progress.n" must appear in the GROUP BY clause`},
		{"count(*)", "9223372036854775808", "total_objects is null: bigint out of range"},
		{"nextval('s')", "count(*)", "total_jobs is null: cannot execute nextval() in a read-only transaction"},
		{"1) FROM jobs; DROP TABLE jobs; SELECT (1", "count(*)", "total_jobs is null: cannot insert multiple commands"},
	} {
		req := manual("job_progress", refresh.Auto)
		req.TotalJobs, req.TotalObjects = c.jobs, c.objects
		result := mustRefresh(t, pool, req)
		if !strings.Contains(result.Warning, c.warning) {
			t.Errorf("%s, %s: warning %q, want %q", c.jobs, c.objects, result.Warning, c.warning)
		}
		if (result.TotalJobs == nil) == (result.TotalObjects == nil) {
			t.Errorf("%s, %s: totals %v and %v, want exactly one", c.jobs, c.objects, result.TotalJobs, result.TotalObjects)
		}
	}
}

func TestPrivileges(t *testing.T) {
	db := installed(t)
	owner, _ := db.Role(t, "")
	plain, password := db.Role(t, "")
	db.Exec(t, jobs+`ALTER MATERIALIZED VIEW job_progress OWNER TO `+postgres.QuoteIdent(owner)+`;
GRANT SELECT ON jobs TO `+postgres.QuoteIdent(owner)+`;
GRANT ALL ON ALL TABLES IN SCHEMA public TO `+postgres.QuoteIdent(plain))
	if postgrestest.Version(t) >= 170000 {
		db.Exec(t, `REVOKE ALL ON job_progress FROM `+postgres.QuoteIdent(plain))
	}
	pool, err := pgxpool.New(t.Context(), db.URLFor(plain, password))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, err = refresh.New(pool, "public", "test").Refresh(t.Context(), manual("job_progress", refresh.Auto))
	if err == nil || !strings.Contains(err.Error(), "GRANT "+owner+" TO "+plain) {
		t.Errorf("err = %v, want the mending GRANT", err)
	}
	db.Exec(t, "GRANT "+owner+" TO "+plain+"; ALTER ROLE "+plain+" NOINHERIT")
	if postgrestest.Version(t) >= 160000 {
		db.Exec(t, "GRANT "+owner+" TO "+plain+" WITH INHERIT FALSE")
	}
	_, err = refresh.New(pool, "public", "test").Refresh(t.Context(), manual("job_progress", refresh.Auto))
	remedy := "ALTER ROLE " + plain + " INHERIT" // a GRANT would change nothing
	if postgrestest.Version(t) >= 160000 {
		remedy = "GRANT " + owner + " TO " + plain + " WITH INHERIT TRUE"
	}
	if err == nil || !strings.HasSuffix(err.Error(), remedy) {
		t.Errorf("err = %v, want %s", err, remedy)
	}
	db.Exec(t, remedy)
	req := manual("job_progress", refresh.Auto)
	req.TotalJobs = "count(*)"
	if result := mustRefresh(t, pool, req); *result.TotalJobs != 3 {
		t.Errorf("as a member of the owner: %+v", result)
	}
	// A superuser has more rights than the owner, whose SQL must not get them.
	if result := mustRefresh(t, db.Pool(t), req); result.TotalJobs != nil || !strings.Contains(result.Warning, "may act as superuser") {
		t.Errorf("as a superuser: %+v", result)
	}
	// A function in the expression could act as any role that the login may.
	other, _ := db.Role(t, "")
	db.Exec(t, `GRANT `+postgres.QuoteIdent(other)+` TO `+postgres.QuoteIdent(plain))
	if result := mustRefresh(t, pool, req); result.TotalJobs != nil || !strings.Contains(result.Warning, "may act as "+other) {
		t.Errorf("as a member of another role too: %+v", result)
	}
	db.Exec(t, `REVOKE `+postgres.QuoteIdent(other)+` FROM `+postgres.QuoteIdent(plain)+`; GRANT pg_monitor TO `+postgres.QuoteIdent(plain))
	if result := mustRefresh(t, pool, req); result.TotalJobs == nil {
		t.Errorf("as a member of pg_monitor: %+v", result)
	}
}

func TestKilledBetweenRefreshAndCommit(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	before := fresh(t, pool, "job_progress")
	db.Exec(t, `INSERT INTO jobs VALUES ('new', 1);
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NULL; END $$;
CREATE TRIGGER die AFTER INSERT OR UPDATE ON materialized_view_refresh_log FOR EACH ROW EXECUTE FUNCTION die();`)
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("job_progress", refresh.Blocking))
	if postgres.SQLState(err) != "57P01" {
		t.Fatalf("err = %v, want the end of the backend", err)
	}
	after := fresh(t, pool, "job_progress")
	if !after.DataAsOf.Equal(*before.DataAsOf) || !after.LastRefreshedAt.Equal(*before.LastRefreshedAt) || after.StaleReason != nil {
		t.Errorf("the record moved: %+v", after)
	}
	if n := scan[int](t, pool, "SELECT count(*) FROM job_progress"); n != 3 {
		t.Errorf("the data moved: %d rows", n)
	}
	if after.ConsecutiveFailures != 1 {
		t.Errorf("the failure was not recorded: %+v", after)
	}
}

// An adopted log may round what it is given; the refresh is still ours, and one
// by somebody else is still noticed.
func TestLogThatRounds(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, jobs+`CREATE TABLE materialized_view_refresh_log (view_name text PRIMARY KEY, last_refreshed_at timestamptz(0) NOT NULL,
refresh_duration_ms int, total_jobs int, total_objects bigint)`)
	pool := db.Pool(t)
	if err := migrations.Apply(t.Context(), db.Connect(t), "public"); err != nil {
		t.Fatal(err)
	}
	result := mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	if v := fresh(t, pool, "job_progress"); v.StaleReason != nil || !v.DataAsOf.Equal(*result.AsOf) {
		t.Errorf("%+v", v)
	}
	db.Exec(t, "REFRESH MATERIALIZED VIEW job_progress")
	if v := fresh(t, pool, "job_progress"); v.StaleReason == nil || *v.StaleReason != "changed_outside" || v.DataAsOf != nil {
		t.Errorf("after a refresh by hand: %+v", v)
	}
}

// A clock that was set back makes nothing younger.
func TestRecordFromTheFuture(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	db.Exec(t, `UPDATE materialized_view_refresh_log SET last_refreshed_at = last_refreshed_at + interval '1 hour';
UPDATE materialized_view_refresh_state SET logged_refreshed_at = logged_refreshed_at + interval '1 hour', data_as_of = data_as_of + interval '1 hour'`)
	if v := fresh(t, pool, "job_progress"); v.DataAsOf != nil || v.StaleReason == nil || *v.StaleReason != "unverified" {
		t.Errorf("%+v", v)
	}
}

func TestCancelledRefreshEndsOnTheServer(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(60)::text AS nap WITH NO DATA`)
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: db.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := refresh.New(pool, "public", "test").Refresh(ctx, manual("slow", refresh.Auto))
		failed <- err
	}()
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND datname = current_database() AND wait_event = 'PgSleep')`)
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) && postgres.SQLState(err) != pgerrcode.QueryCanceled {
		t.Errorf("err = %v", err)
	}
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND datname = current_database() AND state <> 'idle')`)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE outcome = 'failed' AND sqlstate = '57014')`)
}

func TestTwoAtOnceWaitForEachOther(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	errs := make(chan error)
	for range 4 {
		go func() {
			_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), manual("job_progress", refresh.Auto))
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if overlapping := scan[int](t, pool, `
SELECT count(*) FROM materialized_view_refresh_history AS a JOIN materialized_view_refresh_history AS b ON a.id < b.id
WHERE tstzrange(a.data_as_of, a.finished_at) && tstzrange(b.data_as_of, b.finished_at)`); overlapping != 0 {
		t.Errorf("%d pairs of refreshes of one view overlapped", overlapping)
	}
}
