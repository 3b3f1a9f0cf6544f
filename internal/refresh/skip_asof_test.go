package refresh_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// aged puts the last refresh of all views an hour back, which is honest: they
// have all that was committed by then.
const aged = `UPDATE materialized_view_refresh_state SET data_as_of = data_as_of - interval '1 hour'`

func TestSkipMovesTheAsOfOn(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, jobs+`CREATE MATERIALIZED VIEW summary AS SELECT count(*) AS n FROM job_progress WITH NO DATA`)
	pool := db.Pool(t)
	mustNotSkip(t, pool, "job_progress", "")
	mustNotSkip(t, pool, "summary", "")
	before := fresh(t, pool, "job_progress")
	if skipped := mustSkip(t, pool, "job_progress"); !skipped.AsOf.Equal(*before.DataAsOf) {
		t.Errorf("right after the refresh the as-of moved from %s to %s", before.DataAsOf, skipped.AsOf)
	}
	db.Exec(t, aged)
	began := scan[time.Time](t, pool, "SELECT clock_timestamp()")
	if up := mustSkip(t, pool, "summary"); !up.AsOf.Before(began.Add(-time.Hour + time.Minute)) {
		t.Errorf("as-of %s of a view whose upstream's is an hour old", up.AsOf)
	}
	result := mustSkip(t, pool, "job_progress")
	ended := scan[time.Time](t, pool, "SELECT clock_timestamp()")
	if result.AsOf.Before(began.Add(-refresh.CommitLag-2*time.Second)) || result.AsOf.After(ended.Add(-refresh.CommitLag)) {
		t.Errorf("as-of %s, want 61 seconds before the check, from %s to %s", result.AsOf, began, ended)
	}
	v := fresh(t, pool, "job_progress")
	if !v.DataAsOf.Equal(*result.AsOf) || !v.LastRefreshedAt.Equal(*before.LastRefreshedAt) || v.StaleReason != nil && *v.StaleReason != "older_than_max_staleness" ||
		*v.LastOutcome != "skipped" || v.ConsecutiveFailures != 0 {
		t.Errorf("freshness %+v after the skip to %s", v, result.AsOf)
	}
	if up := mustSkip(t, pool, "summary"); !up.AsOf.Equal(*result.AsOf) {
		t.Errorf("as-of %s, want its upstream's, %s", up.AsOf, result.AsOf)
	}
	if n := scan[int](t, pool, `SELECT count(*) FROM materialized_view_refresh_history
WHERE outcome = 'skipped' AND reason = 'nothing that it reads has changed since its last refresh' AND finished_at >= started_at AND duration_ms >= 0 AND data_as_of < finished_at`); n != 4 {
		t.Errorf("%d skipped attempts in the history, want 4", n)
	}
}

// A session that is busy, or idle in a transaction, may have committed before
// what it has not counted yet.
func TestSkipWaitsForCountsHeldBack(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, jobs+`CREATE PROCEDURE hold() LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO jobs VALUES ('held back', 1);
	COMMIT;
	PERFORM pg_advisory_lock(42);
END $$;`)
	pool := db.Pool(t)
	mustNotSkip(t, pool, "job_progress", "")
	db.Exec(t, aged)
	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	procedure := db.Connect(t)
	done := make(chan error)
	go func() {
		_, err := procedure.Exec(context.WithoutCancel(t.Context()), "CALL hold()")
		done <- err
	}()
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted)`)
	committed := scan[int](t, pool, "SELECT count(*) FROM jobs WHERE job_id = 'held back'")
	if committed != 1 {
		t.Fatal("the procedure has not committed")
	}
	started := scan[time.Time](t, pool, `SELECT query_start FROM pg_stat_activity WHERE query = 'CALL hold()'`)
	if result := mustSkip(t, pool, "job_progress"); !result.AsOf.Equal(started.Add(-refresh.CommitLag)) {
		t.Errorf("as-of %s while a procedure runs since %s that has committed", result.AsOf, started)
	}
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// It counts its change now, or up to ten seconds later.
	for deadline := time.Now().Add(time.Minute); ; {
		result := mustRefresh(t, pool, skipping("job_progress"))
		if !result.Skipped {
			if !strings.Contains(result.Reason, "changed since: jobs") {
				t.Errorf("refreshed, since %s", result.Reason)
			}
			break
		}
		if result.AsOf.After(started) || time.Now().After(deadline) {
			t.Fatalf("as-of %s, while what was committed after %s is not counted", result.AsOf, started)
		}
		time.Sleep(50 * time.Millisecond)
	}

	// Idle in a transaction, with a change committed just before it.
	db.Exec(t, aged)
	for _, sql := range []string{"INSERT INTO jobs VALUES ('a', 1)", "INSERT INTO jobs VALUES ('b', 1)", "BEGIN", "SELECT 1"} {
		if _, err := procedure.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	idle := scan[time.Time](t, pool, "SELECT xact_start FROM pg_stat_activity WHERE pid = $1", procedure.PgConn().PID())
	if result := mustRefresh(t, pool, skipping("job_progress")); result.Skipped && result.AsOf.After(idle.Add(-refresh.CommitLag)) {
		t.Errorf("as-of %s while a session is in a transaction since %s", result.AsOf, idle)
	}
}

func TestSkipBounds(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustNotSkip(t, pool, "job_progress", "")
	req := skipping("job_progress")
	req.SkipUnchanged.FullAfter = time.Nanosecond
	if result := mustRefresh(t, pool, req); result.Skipped || !strings.Contains(result.Reason, "refreshed in any case 1ns after the last time") {
		t.Errorf("%+v", result)
	}
	db.Exec(t, aged)
	open := db.Connect(t)
	if _, err := open.Exec(t.Context(), "BEGIN; SELECT 1"); err != nil {
		t.Fatal(err)
	}
	req = skipping("job_progress")
	req.SkipUnchanged.MaxLag = 30 * time.Second
	result := mustRefresh(t, pool, req)
	if result.Skipped || !strings.Contains(result.Reason, "unchanged, but only until 1m1s ago for certain, and its max_staleness or target_staleness leaves 30s: the session of process") {
		t.Errorf("%+v", result)
	}
}

// Without the right to see the others there is no telling what they hold back.
func TestSkipNeedsToSeeTheOthers(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	owner, password := db.Role(t, "")
	db.Exec(t, jobs+`ALTER MATERIALIZED VIEW job_progress OWNER TO `+postgres.QuoteIdent(owner)+`; ALTER TABLE jobs OWNER TO `+postgres.QuoteIdent(owner)+`;
GRANT ALL ON ALL TABLES IN SCHEMA public TO `+postgres.QuoteIdent(owner))
	pool, err := pgxpool.New(t.Context(), db.URLFor(owner, password))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	mustNotSkip(t, pool, "job_progress", "")
	mustNotSkip(t, pool, "job_progress", "GRANT pg_read_all_stats TO "+owner)
	db.Exec(t, "GRANT pg_read_all_stats TO "+postgres.QuoteIdent(owner))
	mustSkip(t, pool, "job_progress")
	db.Exec(t, "ALTER DATABASE "+postgres.QuoteIdent(db.Name)+" SET track_counts = off")
	mustNotSkip(t, pool, "job_progress", "the setting track_counts is off")
}

func TestSkippingNeedsPostgreSQL15(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	err := refresh.CheckSkipping(t.Context(), pool)
	if postgrestest.Version(t) >= 150000 {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), "skip_unchanged requires 15 or later") {
		t.Errorf("err = %v", err)
	}
	mustNotSkip(t, pool, "job_progress", "skip_unchanged requires 15 or later")
	mustNotSkip(t, pool, "job_progress", "skip_unchanged requires 15 or later")
}

// A crash loses the counts of changes, which then start at nothing again; the
// start time of the server stays where a single session's crash was the cause.
func TestSkipAfterCrashAndTwoPhaseCommit(t *testing.T) {
	needsSkipping(t)
	server, err := postgrestest.Start(t.Context(), postgrestest.Options{Settings: map[string]string{"max_prepared_transactions": "5"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	pool, err := pgxpool.New(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	installOn(t, pool)
	exec := func(sql string) {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		writer{conn.Conn()}.exec(t, sql)
	}
	exec(jobs)
	mustNotSkip(t, pool, "job_progress", "")
	mustSkip(t, pool, "job_progress")
	exec("BEGIN; UPDATE jobs SET n = 0; PREPARE TRANSACTION 'skip'")
	mustSkip(t, pool, "job_progress") // it is not committed yet
	exec("COMMIT PREPARED 'skip'")
	mustNotSkip(t, pool, "job_progress", "changed since: jobs")
	mustSkip(t, pool, "job_progress")

	started := scan[time.Time](t, pool, "SELECT pg_postmaster_start_time()")
	crash := func() {
		conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		backend, err := os.FindProcess(int(conn.PgConn().PID()))
		if err != nil {
			t.Fatal(err)
		}
		if err := backend.Kill(); err != nil {
			t.Fatal(err)
		}
		pool.Reset()
		deadline := time.Now().Add(time.Minute)
		for ok := false; !ok; {
			if time.Now().After(deadline) {
				t.Fatal("the server does not come back")
			}
			// Until it notices the crash it is as it was.
			err := pool.QueryRow(t.Context(), "SELECT pg_stat_get_tuples_inserted('jobs'::regclass) = 0").Scan(&ok)
			if err != nil {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	crash()
	mustNotSkip(t, pool, "job_progress", "the server")
	mustSkip(t, pool, "job_progress")
	exec("INSERT INTO jobs VALUES ('lost count', 1)")
	crash() // the counters are at 0 as they were at the refresh
	mustNotSkip(t, pool, "job_progress", "changed since: the server;")
	if now := scan[time.Time](t, pool, "SELECT pg_postmaster_start_time()"); !now.Equal(started) {
		t.Errorf("the start time moved from %s to %s: the test shows nothing of stats_reset", started, now)
	}
}
