package api_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

const readTables = "GRANT SELECT ON jobs, job_objects TO ROLE"

// live is the handler of the jobs with real-time answers.
func live(t testing.TB, db *postgrestest.Database, more string) (*api.Handler, api.Options) {
	t.Helper()
	o := options(t, db.Pool(t), jobsRoute+more)
	o.RealTimePool = liveLogin(t, db, readTables)
	return serve(t, o), o
}

func TestRealTime(t *testing.T) {
	db := jobs(t)
	h, _ := live(t, db, "")
	db.Exec(t, `UPDATE jobs SET status = 'done' WHERE job_id = 'job-3'`)
	want := `{"job_id":"job-3","status":"done","total":5,"progress_percent":0.0,"data_source":"real_time"}`
	if got := body(t, h, "/jobs/job-3?real_time=true", http.StatusOK); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := body(t, h, "/jobs/job-3", http.StatusOK); !strings.Contains(got, `"status":"processing"`) {
		t.Errorf("cached: %s", got)
	}
	body(t, h, "/jobs/no-such?real_time=true", http.StatusNotFound)
	// A row that the view has no more.
	db.Exec(t, `DELETE FROM job_objects WHERE job_id = 'job-4'; DELETE FROM jobs WHERE job_id = 'job-4'`)
	body(t, h, "/jobs/job-4?real_time=true", http.StatusNotFound)
	body(t, h, "/jobs/job-4", http.StatusOK)
}

// A key of a type whose input looks names up is as wrong as any other.
func TestRealTimeKeyThatNamesNothing(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW sized AS SELECT 'jobs'::regclass AS id, 1 AS n; CREATE UNIQUE INDEX ON sized (id)`)
	o := options(t, db.Pool(t), `{public: true, routes: [{path: "/sized/{id}", view: sized}]}`)
	o.RealTimePool = liveLogin(t, db, readTables)
	h := serve(t, o)
	for _, query := range []string{"", "?real_time=true"} {
		if got := body(t, h, "/sized/no_such_table"+query, http.StatusBadRequest); !strings.Contains(got, "id must be of type regclass.") {
			t.Errorf("%s: %s", query, got)
		}
		body(t, h, "/sized/public.jobs"+query, http.StatusOK)
	}
}

// The statement that ran finds its row by the indexes of the tables.
func TestRealTimePushesTheKeyDown(t *testing.T) {
	db := jobs(t)
	h, _ := live(t, db, "")
	body(t, h, "/jobs/job-3?real_time=true", http.StatusOK)
	// The counters of the tables say how much was read. They lag, so force them.
	conn := db.Connect(t)
	sql := api.LiveSQL(h, 0)
	rows, err := conn.Query(t.Context(), "EXPLAIN "+strings.ReplaceAll(sql, "$1", "'job-3'"))
	if err != nil {
		t.Fatal(err)
	}
	var plan strings.Builder
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(line + "\n")
	}
	if rows.Err() != nil || !strings.Contains(plan.String(), "Index Cond: (job_id = 'job-3'::text)") || strings.Contains(plan.String(), "Seq Scan") {
		t.Errorf("%v, plan:\n%s\nof %s", rows.Err(), plan.String(), sql)
	}
}

// The view's query is not asked for while a refresh would block that, and the
// names in it are those that the catalog has now.
func TestRealTimeFollowsRenames(t *testing.T) {
	db := jobs(t)
	h, _ := live(t, db, "")
	body(t, h, "/jobs/job-3?real_time=true", http.StatusOK)

	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), `BEGIN; REFRESH MATERIALIZED VIEW job_progress`); err != nil {
		t.Fatal(err)
	}
	body(t, h, "/jobs/job-3?real_time=true", http.StatusOK)
	if _, err := blocker.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}

	db.Exec(t, `ALTER TABLE jobs RENAME TO jobs_of_old;
CREATE TABLE jobs (job_id text PRIMARY KEY, status text);
INSERT INTO jobs VALUES ('job-3', 'of another table');
ALTER TABLE jobs_of_old RENAME COLUMN status TO state`)
	if got := body(t, h, "/jobs/job-3?real_time=true", http.StatusOK); !strings.Contains(got, `"status":"processing"`) {
		t.Errorf("after the table was renamed: %s", got)
	}
	db.Exec(t, `ALTER MATERIALIZED VIEW job_progress RENAME COLUMN total TO objects`)
	if got := body(t, h, "/jobs/job-3?real_time=true", http.StatusOK); !strings.Contains(got, `"objects":5`) {
		t.Errorf("after a column of the view was renamed: %s", got)
	}
	db.Exec(t, `DROP MATERIALIZED VIEW job_progress;
CREATE MATERIALIZED VIEW job_progress (job_id, n) AS SELECT 5, 6 WHERE true; CREATE UNIQUE INDEX ON job_progress (job_id)`)
	if got := body(t, h, "/jobs/5?real_time=true", http.StatusOK); got != `{"job_id":5,"n":6,"data_source":"real_time"}` {
		t.Errorf("after the view was recreated: %s", got)
	}
	if got := body(t, h, "/jobs/five?real_time=true", http.StatusBadRequest); !strings.Contains(got, "job_id must be of type integer.") {
		t.Errorf("a wrong key: %s", got)
	}
}

// A function that the view calls can neither write nor outstay its time.
func TestRealTimeIsReadOnlyAndBounded(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE TABLE written (n int);
CREATE FUNCTION write_it() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('transaction_read_only', 'off', true);
    INSERT INTO public.written VALUES (1); RETURN 1; END $$;
CREATE FUNCTION take_long() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('statement_timeout', '0', false);
    PERFORM pg_sleep(60); RETURN 1; END $$;
CREATE FUNCTION divide(n int) RETURNS int LANGUAGE sql AS 'SELECT 1 / n';
CREATE MATERIALIZED VIEW writes AS SELECT 1 AS id, write_it() AS n WITH NO DATA;
CREATE MATERIALIZED VIEW sleeps AS SELECT 1 AS id, take_long() AS n WITH NO DATA;
CREATE MATERIALIZED VIEW divides AS SELECT 1 AS id, divide(0) AS n WITH NO DATA;
CREATE MATERIALIZED VIEW twice AS SELECT id, 1 AS n FROM (VALUES (1), (1)) AS v (id) WITH NO DATA;
CREATE MATERIALIZED VIEW secret AS SELECT 1 AS id, count(*) AS n FROM pg_authid WITH NO DATA;
CREATE UNIQUE INDEX ON writes (id); CREATE UNIQUE INDEX ON sleeps (id); CREATE UNIQUE INDEX ON divides (id);
CREATE UNIQUE INDEX ON twice (id); CREATE UNIQUE INDEX ON secret (id)`)
	config := "public: true\nreal_time: {url: 'postgres://unused@localhost/x', statement_timeout: 30s}\nroutes:\n"
	for _, view := range []string{"writes", "sleeps", "divides", "twice", "secret"} {
		config += fmt.Sprintf("  - {path: '/%s/{id}', view: %s}\n", view, view)
	}
	o := options(t, db.Pool(t), config)
	o.RealTimePool = liveLogin(t, db, "GRANT INSERT ON written TO ROLE")
	h := serve(t, o)
	short := options(t, o.Pool, strings.Replace(config, "30s", "100ms", 1))
	short.RealTimePool = o.RealTimePool
	if got := body(t, serve(t, short), "/sleeps/1?real_time=true", http.StatusGatewayTimeout); !strings.Contains(got, `"urn:matview:error:timeout"`) {
		t.Error(got)
	}
	for path, want := range map[string]struct {
		status int
		kind   string
	}{
		"/writes/1":  {http.StatusInternalServerError, "live-query-failed"},
		"/divides/1": {http.StatusInternalServerError, "live-query-failed"},
		"/twice/1":   {http.StatusInternalServerError, "ambiguous-row"},
		"/secret/1":  {http.StatusServiceUnavailable, "misconfigured"},
		"/divides/x": {http.StatusBadRequest, "invalid-key"},
	} {
		if got := body(t, h, path+"?real_time=true", want.status); !strings.Contains(got, `"urn:matview:error:`+want.kind+`"`) {
			t.Errorf("%s: %s", path, got)
		}
	}
	conn := db.Connect(t)
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM written").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows were written (%v)", n, err)
	}
}

// Real-time queries run other people's functions: never with much power.
func TestRealTimeLogin(t *testing.T) {
	db := jobs(t)
	o := options(t, db.Pool(t), jobsRoute+"real_time:\n  url: postgres://unused@localhost/x\n")
	o.RealTimePool = db.Pool(t)
	if _, err := api.New(o); err == nil || !strings.Contains(err.Error(), "matview.yml:6: real_time.url: logs in as") {
		t.Errorf("the exporter's own login: %v", err)
	}
	exporter, password := db.Role(t, "")
	owner, _ := db.Role(t, "")
	reader := []string{exporter}
	if _, err := migrations.Install(t.Context(), db.Connect(t), "public", migrations.Installation{HistoryRetention: time.Hour, Roles: migrations.Roles{Readers: reader}}, migrations.Roles{}); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `GRANT CREATE ON SCHEMA public TO `+owner+`; ALTER MATERIALIZED VIEW job_progress OWNER TO `+owner+`; GRANT SELECT ON job_progress TO `+exporter)
	o.Pool = login(t, db, exporter, password)
	for options, want := range map[string]string{
		"SUPERUSER": "is a superuser, or may become one",
		"IN ROLE " + db.Pool(t).Config().ConnConfig.User: "is a superuser, or may become one",
		"IN ROLE " + exporter:                            "is a member of the role of the exporter itself",
		"NOINHERIT IN ROLE " + owner:                     "owns the view, or is a member of its owner",
		"IN ROLE pg_read_server_files":                   "may reach files or programs of the server",
		"IN ROLE pg_write_server_files":                  "may reach files or programs of the server",
		"IN ROLE pg_execute_server_program":              "may reach files or programs of the server",
	} {
		role, password := db.Role(t, options)
		db.Exec(t, strings.ReplaceAll(readTables, "ROLE", role))
		o.RealTimePool = login(t, db, role, password)
		var log bytes.Buffer
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		if got := body(t, serve(t, o), "/jobs/job-1?real_time=true", http.StatusServiceUnavailable); !strings.Contains(got, "misconfigured") || !strings.Contains(log.String(), want) {
			t.Errorf("%s: %s\n%s", options, got, log.String())
		}
	}
	o.RealTimePool = liveLogin(t, db, readTables)
	body(t, serve(t, o), "/jobs/job-1?real_time=true", http.StatusOK)
}

// A function cannot leave a lock in the session, where it would outlive its
// transaction.
func TestRealTimeLeavesNoLocks(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE FUNCTION keep(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(4711); RETURN 1 / n; END $$;
CREATE MATERIALIZED VIEW keeps AS SELECT i AS id, keep(i) AS n FROM (VALUES (0), (1)) AS v (i) WITH NO DATA; CREATE UNIQUE INDEX ON keeps (id)`)
	o := options(t, db.Pool(t), `{public: true, routes: [{path: "/keeps/{id}", view: keeps}]}`)
	o.RealTimePool = liveLogin(t, db, "SELECT 'ROLE'")
	h := serve(t, o)
	for path, status := range map[string]int{"/keeps/1": http.StatusOK, "/keeps/0": http.StatusInternalServerError} {
		body(t, h, path+"?real_time=true", status)
		var free bool
		if err := db.Connect(t).QueryRow(t.Context(), "SELECT pg_try_advisory_xact_lock(4711)").Scan(&free); err != nil || !free {
			t.Errorf("%s has left its lock (%v)", path, err)
		}
		if o.RealTimePool.Stat().TotalConns() != 1 {
			t.Errorf("%s has cost the connection", path)
		}
	}
}

// What the live login may not read fails for it, though the view, filled by its
// owner, has it.
func TestRealTimePrivileges(t *testing.T) {
	db := jobs(t)
	_, o := live(t, db, "")
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	h := serve(t, o)
	body(t, h, "/jobs/job-1?real_time=true", http.StatusOK)
	db.Exec(t, `REVOKE SELECT ON job_objects FROM `+o.RealTimePool.Config().ConnConfig.User)
	if got := body(t, h, "/jobs/job-1?real_time=true", http.StatusServiceUnavailable); !strings.Contains(got, "misconfigured") {
		t.Error(got)
	}
	for _, want := range []string{"path=/jobs/{job_id} ", "the login of real_time may not run the view's query: permission denied for table job_objects"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %s", want, log.String())
		}
	}
	body(t, h, "/jobs/job-1", http.StatusOK)
}

func TestRealTimeLimit(t *testing.T) {
	db := jobs(t)
	h, _ := live(t, db, "real_time: {url: 'postgres://unused@localhost/x', max_concurrent: 1, statement_timeout: 30s}\n")
	body(t, h, "/jobs/job-1?real_time=true", http.StatusOK)
	// One query waits for a lock, so that the next finds no place.
	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), `BEGIN; LOCK TABLE jobs`); err != nil {
		t.Fatal(err)
	}
	var first sync.WaitGroup
	first.Go(func() { body(t, h, "/jobs/job-1?real_time=true", http.StatusOK) })
	waitForLock(t, db)
	w := get(t, h, "/jobs/job-1?real_time=true")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "too-many-live-queries") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	body(t, h, "/jobs/job-1", http.StatusOK)
	if _, err := blocker.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	first.Wait()
}

// waitForLock returns once somebody in the database waits for a lock.
func waitForLock(t *testing.T, db *postgrestest.Database) {
	t.Helper()
	waitForLocks(t, db, 1)
}

// waitForLocks returns once so many wait.
func waitForLocks(t *testing.T, db *postgrestest.Database, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn := db.Connect(t)
	for waiting := false; !waiting; {
		err := conn.QueryRow(ctx, "SELECT count(*) >= $1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'", n).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What row security hides from the real-time login it does not see, though the
// view, filled by its owner, has it. That is documented, hence kept.
func TestRealTimeRowSecurity(t *testing.T) {
	db := jobs(t)
	h, o := live(t, db, "")
	db.Exec(t, `ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON jobs TO `+o.RealTimePool.Config().ConnConfig.User+` USING (job_id = 'job-1')`)
	body(t, h, "/jobs/job-1?real_time=true", http.StatusOK)
	body(t, h, "/jobs/job-2?real_time=true", http.StatusNotFound)
	body(t, h, "/jobs/job-2", http.StatusOK)
}
