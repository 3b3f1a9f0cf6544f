package refresh_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// holdLock is a long reader; release ends it.
func holdLock(t *testing.T, db *postgrestest.Database) (reader *pgx.Conn, release func()) {
	t.Helper()
	reader = db.Connect(t)
	if _, err := reader.Exec(t.Context(), "SET application_name = 'long report'; BEGIN; SELECT count(*) FROM job_progress"); err != nil {
		t.Fatal(err)
	}
	return reader, func() {
		t.Helper()
		if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
			t.Error(err)
		}
	}
}

const waitsForView = `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'job_progress'::regclass AND NOT granted)`

// Who comes while a blocking refresh waits for its lock is let in before the
// refresh tries again; and when that has been enough, the error says who it was.
func TestRefreshThatWaitsLetsReadersPass(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	before := fresh(t, pool, "job_progress")
	reader, release := holdLock(t, db)
	defer release()
	req := manual("job_progress", refresh.Blocking)
	req.LockTimeout = time.Second
	failed := make(chan error, 1)
	go func() {
		_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), req)
		failed <- err
	}()
	waitFor(t, pool, waitsForView)
	// Behind the refresh, for as long as this try takes.
	if n := scan[int](t, pool, "SELECT count(*) FROM job_progress"); n != 3 {
		t.Errorf("%d rows", n)
	}
	waitFor(t, pool, waitsForView) // it tries again
	select {
	case err := <-failed:
		t.Fatalf("it has given up at its first try: %v", err)
	default:
	}
	err := <-failed
	want := fmt.Sprintf("refresh job_progress: a lock was not free within lock_timeout, in none of 3 tries; it was held by process %d (role postgres, long report, idle in transaction, in a transaction since 20", reader.PgConn().PID())
	if postgres.SQLState(err) != pgerrcode.LockNotAvailable || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("err = %v\nwant %s…", err, want)
	}
	after := fresh(t, pool, "job_progress")
	if !after.DataAsOf.Equal(*before.DataAsOf) || after.StaleReason != nil || after.ConsecutiveFailures != 1 {
		t.Errorf("%+v", after)
	}
	if state := scan[string](t, pool, "SELECT sqlstate FROM materialized_view_refresh_history WHERE outcome = 'failed'"); state != pgerrcode.LockNotAvailable {
		t.Errorf("sqlstate %s in the history", state)
	}
}

// The data of a try that failed is not what the as-of of the next is about.
func TestLaterTryHasItsOwnAsOf(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	_, release := holdLock(t, db)
	req := manual("job_progress", refresh.Blocking)
	req.LockTimeout = 2 * time.Second
	done := make(chan refresh.Result, 1)
	go func() {
		result, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), req)
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	waitFor(t, pool, waitsForView)
	committed := scan[time.Time](t, pool, "WITH i AS (INSERT INTO jobs VALUES ('late', 9)) SELECT clock_timestamp()")
	waitFor(t, pool, "SELECT NOT ("+waitsForView[len("SELECT "):]+")") // the first try is over
	waitFor(t, pool, waitsForView)
	release()
	result := <-done
	if result.AsOf == nil || !result.AsOf.After(committed) || scan[int](t, pool, "SELECT count(*) FROM job_progress") != 4 {
		t.Errorf("as-of %v, want that of the second try, after %s", result.AsOf, committed)
	}
	if result.LockWait < req.LockTimeout {
		t.Errorf("it waited for %s, want the first try's %s at least", result.LockWait, req.LockTimeout)
	}
}

// The wait for the lock inside of REFRESH is no part of what it took, except in
// the log, whose readers take an as-of from it.
func TestLockWaitIsRecordedApart(t *testing.T) {
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently} {
		db := installed(t)
		db.Exec(t, jobs)
		pool := db.Pool(t)
		mustRefresh(t, pool, manual("job_progress", refresh.Auto))
		holder := db.Connect(t)
		if _, err := holder.Exec(t.Context(), "BEGIN; COMMENT ON MATERIALIZED VIEW job_progress IS 'x'"); err != nil {
			t.Fatal(err)
		}
		done := make(chan refresh.Result, 1)
		go func() {
			result, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), manual("job_progress", method))
			if err != nil {
				t.Error(err)
			}
			done <- result
		}()
		waitFor(t, pool, waitsForView)
		waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND datname = current_database() AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '1 s')`)
		if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		result := <-done
		if result.LockWait < 500*time.Millisecond {
			t.Errorf("%s: lock wait %s, of a second", method, result.LockWait)
		}
		if !scan[bool](t, pool, `SELECT h.lock_wait_ms >= 500 AND h.duration_ms + h.lock_wait_ms - l.refresh_duration_ms BETWEEN -2 AND 500 AND l.refresh_duration_ms >= 1000
FROM materialized_view_refresh_history AS h, materialized_view_refresh_log AS l ORDER BY h.id DESC LIMIT 1`) {
			t.Errorf("%s: history and log: %s", method, scan[string](t, pool, `SELECT concat_ws(' ', h.lock_wait_ms, h.duration_ms, l.refresh_duration_ms)
FROM materialized_view_refresh_history AS h, materialized_view_refresh_log AS l ORDER BY h.id DESC LIMIT 1`))
		}
	}
}

func TestRowsOfConcurrentRefresh(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	if first := mustRefresh(t, pool, manual("job_progress", refresh.Auto)); first.RowsInserted != nil || first.RowsDeleted != nil {
		t.Errorf("a blocking refresh: %v inserted, %v deleted", first.RowsInserted, first.RowsDeleted)
	}
	for _, c := range []struct {
		change            string
		inserted, deleted int64
	}{
		{"SELECT", 0, 0},
		{"INSERT INTO jobs VALUES ('new', 1), ('newer', 2)", 2, 0},
		{"UPDATE jobs SET n = n + 1; DELETE FROM jobs WHERE job_id = 'newer'", 4, 5},
	} {
		db.Exec(t, c.change)
		result := mustRefresh(t, pool, manual("job_progress", refresh.Concurrently))
		if result.RowsInserted == nil || *result.RowsInserted != c.inserted || *result.RowsDeleted != c.deleted {
			t.Errorf("%s: %+v, want %d inserted and %d deleted", c.change, result, c.inserted, c.deleted)
		}
		if got := scan[string](t, pool, "SELECT rows_inserted || ' ' || rows_deleted FROM materialized_view_refresh_history ORDER BY id DESC LIMIT 1"); got != fmt.Sprint(c.inserted, " ", c.deleted) {
			t.Errorf("%s: %s in the history", c.change, got)
		}
	}
}

func TestSettings(t *testing.T) {
	db := installed(t)
	owner, password := db.Role(t, "")
	db.Exec(t, jobs+"ALTER MATERIALIZED VIEW job_progress OWNER TO "+owner+"; GRANT ALL ON ALL TABLES IN SCHEMA public TO "+owner+
		"; CREATE MATERIALIZED VIEW settings AS SELECT current_setting('work_mem') || ' ' || current_setting('maintenance_work_mem') || ' ' || current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') AS s; ALTER MATERIALIZED VIEW settings OWNER TO "+owner)
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: db.URLFor(owner, password)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	req := manual("settings", refresh.Blocking)
	req.Settings = map[string]string{"work_mem": "77MB", "maintenance_work_mem": "88MB"}
	req.StatementTimeout = 90 * time.Second
	mustRefresh(t, pool, req)
	if got := scan[string](t, pool, "SELECT s FROM settings"); got != "77MB 88MB 90s 10s" {
		t.Errorf("refreshed under %s", got)
	}
	if got := scan[string](t, pool, "SELECT string_agg(current_setting(s), ' ') FROM unnest(ARRAY['work_mem', 'statement_timeout', 'lock_timeout']) AS s"); strings.Contains(got, "77MB") || strings.Contains(got, "90s") {
		t.Errorf("the session goes on with %s", got)
	}
	for name, want := range map[string]string{
		"temp_file_limit":       `refresh job_progress: apply its settings: permission denied to set parameter "temp_file_limit"`,
		"no_such_parameter":     `refresh job_progress: apply its settings: unrecognized configuration parameter "no_such_parameter"`,
		"max_connections":       `refresh job_progress: apply its settings: parameter "max_connections" cannot be changed without restarting the server`,
		"transaction_isolation": `refresh job_progress: apply its settings: SET TRANSACTION ISOLATION LEVEL must be called before any query`,
	} {
		req := manual("job_progress", refresh.Auto)
		req.Settings = map[string]string{name: map[bool]string{true: "serializable", false: "1"}[name == "transaction_isolation"]}
		_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), req)
		if err == nil || !strings.HasPrefix(postgres.Message(err), want) {
			t.Errorf("%s: err = %v", name, err)
		}
		if v := fresh(t, pool, "job_progress"); *v.LastOutcome != "failed" || !strings.Contains(*v.LastError, "apply its settings") {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
