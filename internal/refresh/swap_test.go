package refresh_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

const dependents = `CREATE VIEW over AS SELECT job_id, n FROM job_progress WHERE n > 0; CREATE VIEW over_over AS SELECT count(*) FROM over;
GRANT SELECT ON job_progress TO PUBLIC; COMMENT ON MATERIALIZED VIEW job_progress IS 'it''s how far';`

// belongings is what a swap must not lose.
const belongings = `SELECT concat_ws(' | ', relacl, obj_description(c.oid), relispopulated,
  (SELECT string_agg(pg_get_indexdef(indexrelid), ', ') FROM pg_index WHERE indrelid = c.oid),
  (SELECT string_agg(pg_get_viewdef(oid), ', ' ORDER BY relname) FROM pg_class WHERE relname LIKE 'over%'))
FROM pg_class AS c WHERE c.oid = 'job_progress'::regclass`

func TestSwapIsRecorded(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs+dependents)
	pool := db.Pool(t)
	req := manual("job_progress", refresh.Swap)
	if first := mustRefresh(t, pool, req); first.Method != refresh.Blocking || first.Reason != "first population" {
		t.Errorf("method %s (%s), want blocking for the first population", first.Method, first.Reason)
	}
	before := scan[string](t, pool, belongings)
	oid := scan[uint32](t, pool, "SELECT 'job_progress'::regclass::oid")
	db.Exec(t, "INSERT INTO jobs VALUES ('new', 4)")
	db.Exec(t, "ALTER DATABASE "+postgres.QuoteIdent(db.Name)+" SET search_path = public, pg_catalog; CREATE FUNCTION public.ten() RETURNS int LANGUAGE sql AS 'SELECT 10'")
	pool = db.Pool(t)
	for _, c := range []struct{ objects, want string }{
		{"sum(job_progress.n)", "10"},
		{"sum(public.job_progress.n)", "10"},
		{"(SELECT sum(n) FROM job_progress)", "10"},
		{"(SELECT sum(n) FROM over)", "10"},
		{"max(ten())", "10"},
		{"(SELECT ten() * count(*) FROM over_over)", "10"},
		// The names are exchanged after the totals, or readers would wait for them.
		{"(SELECT count(*) FROM pg_locks WHERE relation = to_regclass('public.job_progress') AND mode = 'AccessExclusiveLock')", "0"},
	} {
		req.TotalJobs, req.TotalObjects = "count(*)", c.objects
		result := mustRefresh(t, pool, req)
		if result.Method != refresh.Swap || result.Reason != "as asked" || result.Warning != "" || result.RowsInserted != nil {
			t.Errorf("%s: %+v", c.objects, result)
		}
		v := fresh(t, pool, "job_progress")
		if v.StaleReason != nil || *v.IsStale || !v.DataAsOf.Equal(*result.AsOf) || !v.LastRefreshedAt.Equal(result.FinishedAt) {
			t.Errorf("freshness %+v does not show what was recorded: %+v", v, result)
		}
		if got := scan[string](t, pool, "SELECT total_jobs || ' ' || coalesce(total_objects::text, 'null') FROM materialized_view_refresh_log"); got != "4 "+c.want {
			t.Errorf("%s: totals %s", c.objects, got)
		}
		if again := scan[uint32](t, pool, "SELECT 'job_progress'::regclass::oid"); again == oid {
			t.Error("it was not swapped")
		}
	}
	if after := scan[string](t, pool, belongings); after != before {
		t.Errorf("lost:\n%s\n%s", before, after)
	}
	if n := scan[int](t, pool, "SELECT count FROM over_over"); n != 4 {
		t.Errorf("%d rows through the views over it, want 4", n)
	}
	if n := scan[int](t, pool, "SELECT count(*) FROM pg_class WHERE relkind IN ('m', 'i') AND relname LIKE 'matview%'"); n != 0 {
		t.Errorf("%d relations are left over", n)
	}
}

// beats are the values that a writer has put in, each with a time by which it
// was committed.
type beats struct {
	mu    sync.Mutex
	beats [][2]time.Time
}

func (b *beats) write(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for ctx.Err() == nil {
		var beat [2]time.Time
		if err := conn.QueryRow(context.WithoutCancel(ctx), "UPDATE beat SET at = clock_timestamp() RETURNING at").Scan(&beat[0]); err != nil {
			return err
		}
		if err := conn.QueryRow(context.WithoutCancel(ctx), "SELECT clock_timestamp()").Scan(&beat[1]); err != nil {
			return err
		}
		b.mu.Lock()
		b.beats = append(b.beats, beat)
		b.mu.Unlock()
	}
	return nil
}

// missed is whether one that was committed by asOf is not in data of value.
func (b *beats) missed(value, asOf time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.beats, func(beat [2]time.Time) bool { return beat[0].After(value) && beat[1].Before(asOf) })
}

// A replacement has what was committed before its as-of, and perhaps more.
func TestSwapUnderWrites(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE TABLE beat (id int PRIMARY KEY, at timestamptz NOT NULL); INSERT INTO beat VALUES (1, clock_timestamp());
CREATE MATERIALIZED VIEW beats AS SELECT id, at FROM beat; CREATE UNIQUE INDEX ON beats (id);`)
	pool := db.Pool(t)
	ctx, cancel := context.WithCancel(t.Context())
	written := make(chan error)
	var b beats
	go func() { written <- b.write(ctx, db.URL()) }()
	for range 30 {
		asOf := *mustRefresh(t, pool, manual("beats", refresh.Swap)).AsOf
		if value := scan[time.Time](t, pool, "SELECT at FROM beats"); b.missed(value, asOf) {
			t.Fatalf("as-of %s claims a beat after %s", asOf, value)
		}
	}
	cancel()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `CREATE MATERIALIZED VIEW down AS SELECT max(at) AS at FROM beats`)
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("down", refresh.Auto))
	if err != nil {
		t.Fatal(err)
	}
	if up, down := fresh(t, pool, "beats"), fresh(t, pool, "down"); !down.DataAsOf.Equal(*up.DataAsOf) {
		t.Errorf("as-of %s over a swapped view of %s", down.DataAsOf, up.DataAsOf)
	}
	// A view that others are made of cannot be swapped any more.
	_, err = refresh.New(pool, "public", "test").Refresh(t.Context(), manual("beats", refresh.Swap))
	if err == nil || !strings.Contains(err.Error(), "refresh beats: swap: beats cannot be replaced: materialized view public.down") {
		t.Errorf("err = %v", err)
	}
	failedWith(t, pool, "55000")
	if v := fresh(t, pool, "beats"); *v.LastOutcome != "failed" || !strings.Contains(*v.LastError, "materialized view public.down") || v.StaleReason != nil {
		t.Errorf("%+v", v)
	}
}

// stopAtLog has whoever writes the log wait while lock 1 is held; the refresh is
// done then but for its commit.
const stopAtLog = `CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
CREATE TRIGGER stop AFTER INSERT OR UPDATE ON materialized_view_refresh_log FOR EACH ROW EXECUTE FUNCTION stop();`

const stopped = `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND classid = 0 AND NOT granted)`

// The view's name means the replacement for a REFRESH that has waited for the exchange,
// which puts in its own data, older or newer than ours: that shows.
func TestRefreshByHandDuringSwap(t *testing.T) {
	for _, statement := range []string{"REFRESH MATERIALIZED VIEW job_progress", "REFRESH MATERIALIZED VIEW CONCURRENTLY job_progress"} {
		db := installed(t)
		db.Exec(t, jobs)
		pool := db.Pool(t)
		mustRefresh(t, pool, manual("job_progress", refresh.Auto))
		other := db.Connect(t)
		// It will not see what comes after this.
		if _, err := other.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"); err != nil {
			t.Fatal(err)
		}
		db.Exec(t, stopAtLog+"INSERT INTO jobs VALUES ('new', 4)")
		holder := db.Connect(t)
		if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
			t.Fatal(err)
		}
		swapped := make(chan error)
		go func() {
			req := manual("job_progress", refresh.Swap)
			_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), req)
			swapped <- err
		}()
		waitFor(t, pool, stopped)
		byHand := make(chan error)
		go func() {
			_, err := other.Exec(context.WithoutCancel(t.Context()), statement+"; COMMIT")
			byHand <- err
		}()
		waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND wait_event_type = 'Lock' AND datname = current_database())`)
		if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(1)"); err != nil {
			t.Fatal(err)
		}
		if err := <-swapped; err != nil {
			// The exchange's lock_timeout bounds the wait of the record too.
			t.Fatal(err)
		}
		if err := <-byHand; err != nil {
			t.Logf("%s: %v", statement, err)
		}
		rows := scan[int](t, pool, "SELECT count(*) FROM job_progress")
		v := fresh(t, pool, "job_progress")
		t.Logf("%s: %d rows, as-of %v", statement, rows, v.DataAsOf)
		if rows == 3 && (v.DataAsOf != nil || v.StaleReason == nil || *v.StaleReason != "changed_outside") {
			t.Errorf("%s has put older data in, and the view claims %+v", statement, v)
		}
	}
}

func TestKilledBetweenSwapAndCommit(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs+dependents)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	before, was := fresh(t, pool, "job_progress"), scan[string](t, pool, belongings)
	db.Exec(t, `INSERT INTO jobs VALUES ('new', 1);
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NULL; END $$;
CREATE TRIGGER die AFTER INSERT OR UPDATE ON materialized_view_refresh_log FOR EACH ROW EXECUTE FUNCTION die();`)
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("job_progress", refresh.Swap))
	if postgres.SQLState(err) != "57P01" {
		t.Fatalf("err = %v, want the end of the backend", err)
	}
	after := fresh(t, pool, "job_progress")
	if *after.OID != *before.OID || !after.DataAsOf.Equal(*before.DataAsOf) || !after.LastRefreshedAt.Equal(*before.LastRefreshedAt) || after.StaleReason != nil {
		t.Errorf("the record moved: %+v", after)
	}
	if n := scan[int](t, pool, "SELECT count(*) FROM over"); n != 3 || was != scan[string](t, pool, belongings) {
		t.Errorf("the view moved: %d rows", n)
	}
	if after.ConsecutiveFailures != 1 || *after.LastOutcome != "failed" {
		t.Errorf("the failure was not recorded: %+v", after)
	}
}

// What a swap needs more rights for than a REFRESH does.
func TestSwapWithoutRights(t *testing.T) {
	db := installed(t)
	owner, password := db.Role(t, "")
	db.Exec(t, jobs+"GRANT SELECT ON jobs TO "+owner+"; GRANT CREATE ON SCHEMA public TO "+owner+"; ALTER MATERIALIZED VIEW job_progress OWNER TO "+owner+"; REVOKE CREATE ON SCHEMA public FROM "+owner+", PUBLIC; DROP INDEX job_progress_job_id_idx;"+
		"GRANT ALL ON ALL TABLES IN SCHEMA public TO "+owner)
	pool, err := pgxpool.New(t.Context(), db.URLFor(owner, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	_, err = refresh.New(pool, "public", "test").Refresh(t.Context(), manual("job_progress", refresh.Swap))
	obstacle := "it is in schema public, where role " + owner + " lacks CREATE (GRANT CREATE ON SCHEMA public TO " + owner + ")"
	if err == nil || !strings.Contains(err.Error(), obstacle) {
		t.Errorf("err = %v", err)
	}
	db.Exec(t, "UPDATE materialized_view_refresh_history SET duration_ms = 60000")
	result := mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	if result.Method != refresh.Blocking || !strings.HasPrefix(result.Reason, "instead of swap (") || !strings.Contains(result.Reason, obstacle) {
		t.Errorf("%s: %s", result.Method, result.Reason)
	}
	db.Exec(t, "GRANT CREATE ON SCHEMA public TO "+owner+"; UPDATE materialized_view_refresh_history SET duration_ms = 60000, swap_refused = false")
	if result := mustRefresh(t, pool, manual("job_progress", refresh.Auto)); result.Method != refresh.Swap || !strings.Contains(result.Reason, "would block readers for 60.0 s") {
		t.Errorf("%s: %s", result.Method, result.Reason)
	}
	if postgrestest.Version(t) < 170000 {
		return
	}
	// MAINTAIN allows REFRESH, but not what a swap does.
	maintainer, password := db.Role(t, "")
	db.Exec(t, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+maintainer+"; UPDATE materialized_view_refresh_history SET duration_ms = 60000, swap_refused = false")
	if pool, err = pgxpool.New(t.Context(), db.URLFor(maintainer, password)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if result := mustRefresh(t, pool, manual("job_progress", refresh.Auto)); result.Method != refresh.Blocking || !strings.Contains(result.Reason, "it belongs to role "+owner) {
		t.Errorf("%s: %s", result.Method, result.Reason)
	}
}

// A long reader keeps a view from being exchanged, not from being refreshed.
func TestAutoUnderLongReader(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	db.Exec(t, "UPDATE materialized_view_refresh_history SET duration_ms = 9700, rows_inserted = 2, rows_deleted = 1 WHERE method = 'concurrently'; ANALYZE job_progress")
	reader := db.Connect(t)
	if _, err := reader.Exec(t.Context(), "BEGIN; SELECT * FROM job_progress"); err != nil {
		t.Fatal(err)
	}
	req := manual("job_progress", refresh.Auto)
	req.LockTimeout = 300 * time.Millisecond
	result := mustRefresh(t, pool, req)
	if result.Method != refresh.Concurrently || !strings.HasPrefix(result.Reason, "instead of swap (the last concurrent refresh changed 67% of 3 rows and took 9.7 s), since swap: exchange job_progress for its replacement: other sessions held locks") {
		t.Errorf("%s: %s", result.Method, result.Reason)
	}
	// It is not tried again at once.
	db.Exec(t, "UPDATE materialized_view_refresh_history SET duration_ms = 9700, rows_inserted = 2, rows_deleted = 1 WHERE method = 'concurrently'")
	if again := mustRefresh(t, pool, req); again.Method != refresh.Concurrently || !strings.HasSuffix(again.Reason, "took 9.7 s, and one of the last 5 refreshes could not be a swap") {
		t.Errorf("%s: %s", again.Method, again.Reason)
	}
	if want := fmt.Sprintf("one is held by process %d (role postgres, idle in transaction, in a transaction since", reader.PgConn().PID()); !strings.Contains(result.Reason, want) {
		t.Errorf("%s does not say %s", result.Reason, want)
	}
	if result.LockWait < 20*time.Millisecond { // four attempts and the pauses between them
		t.Errorf("it waited for a lock for %s only", result.LockWait)
	}
	req.Method = refresh.Swap
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), req)
	if postgres.SQLState(err) != pgerrcode.LockNotAvailable {
		t.Errorf("err = %v", err)
	}
}

// Somebody who has the log's row locked holds the record up, but no reader: the
// view is not exchanged before.
func TestSwapWithLockedLog(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	other := db.Connect(t)
	if _, err := other.Exec(t.Context(), "BEGIN; UPDATE materialized_view_refresh_log SET total_jobs = 1"); err != nil {
		t.Fatal(err)
	}
	req := manual("job_progress", refresh.Swap)
	req.LockTimeout = 300 * time.Millisecond
	var exchange *matview.ExchangeError
	if _, err := refresh.New(pool, "public", "test").Refresh(t.Context(), req); !errors.As(err, &exchange) || !strings.Contains(err.Error(), "record it") {
		t.Errorf("err = %v", err)
	}
	if _, err := other.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	mustRefresh(t, pool, req)
}

// While the replacement is filled and indexed, the view is anybody's.
func TestSwapHoldsNothingWhileItBuilds(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs+dependents+"CREATE STATISTICS st ON job_id, n FROM job_progress")
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
		t.Fatal(err)
	}
	req := manual("job_progress", refresh.Swap)
	req.TotalJobs = "count(*) + count(pg_advisory_xact_lock(1)::text) * 0" // the replacement has been filled by then
	done := make(chan refresh.Result, 1)
	go func() {
		result, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), req)
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	waitFor(t, pool, stopped)
	if held := scan[int](t, pool, `SELECT count(*) FROM pg_locks AS l JOIN pg_locks AS w USING (pid)
WHERE w.locktype = 'advisory' AND NOT w.granted AND l.relation IN ('job_progress'::regclass, 'over'::regclass, 'over_over'::regclass)`); held != 0 {
		t.Errorf("it holds %d locks on the view and those over it", held)
	}
	db.Exec(t, "INSERT INTO jobs VALUES ('new', 4); REFRESH MATERIALIZED VIEW job_progress")
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(1)"); err != nil {
		t.Fatal(err)
	}
	result := <-done
	// The data is older than what was put in meanwhile, and so is its as-of.
	v := fresh(t, pool, "job_progress")
	if v.StaleReason != nil || !v.DataAsOf.Equal(*result.AsOf) || *result.TotalJobs != 3 || scan[int](t, pool, "SELECT count(*) FROM over") != 3 {
		t.Errorf("%+v of %+v", v, result)
	}
}

// What a swap reads of a view waits for somebody's blocking refresh of it, but
// not for long.
func TestSwapDuringRefreshByHand(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	other := db.Connect(t)
	if _, err := other.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW job_progress"); err != nil {
		t.Fatal(err)
	}
	req := manual("job_progress", refresh.Swap)
	req.LockTimeout = 200 * time.Millisecond
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), req)
	if want := fmt.Sprintf("in none of 3 tries; it was held by process %d (role postgres, idle in transaction,", other.PgConn().PID()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("err = %v, want %s", err, want)
	}
}

// How much changes is measured again now and then: a swap does not tell.
func TestAutoMeasuresAgain(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Auto))
	db.Exec(t, `DELETE FROM materialized_view_refresh_history; ANALYZE job_progress;
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, method, duration_ms, rows_inserted, rows_deleted) VALUES ('job_progress', 'schedule', 'succeeded', 'concurrently', 9700, 1, 1);
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, method, duration_ms, started_at)
SELECT 'job_progress', 'schedule', 'succeeded', 'swap', 2000, clock_timestamp() FROM generate_series(1, 19);
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome) VALUES ('job_progress', 'schedule', 'failed');
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, method, duration_ms) VALUES ('job_progress', 'external', 'succeeded', 'blocking', 1), ('other', 'schedule', 'succeeded', 'blocking', 1)`)
	for i, want := range []refresh.Method{refresh.Swap, refresh.Concurrently} {
		if result := mustRefresh(t, pool, manual("job_progress", refresh.Auto)); result.Method != want {
			t.Errorf("refresh %d: %s: %s", 20+i, result.Method, result.Reason)
		}
		db.Exec(t, "UPDATE materialized_view_refresh_history SET duration_ms = 2000 WHERE method = 'swap'")
	}
}
