//go:build e2e

package main

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// Everything that the exporter does goes through a pooler that gives each
// transaction another session.
func TestE2EPgBouncer(t *testing.T) {
	db := postgrestest.New(t)
	pooled := db.PgBouncer(t)
	must := func(args ...string) string {
		t.Helper()
		code, out, errs := exec(t, pooled, append([]string{"--database.pgbouncer"}, args...)...)
		if code != 0 {
			t.Fatalf("%v: exit %d\n%s%s", args, code, out, errs)
		}
		return out
	}
	must("migrate")
	const views = 4
	for i := range views {
		db.Exec(t, fmt.Sprintf(`CREATE MATERIALIZED VIEW v%d AS SELECT g AS id, now() AS made FROM generate_series(1, 100) AS g;
CREATE UNIQUE INDEX ON v%[1]d (id)`, i))
	}
	must("refresh", "--all")
	if out := must("status"); strings.Count(out, "Fast") != views {
		t.Errorf("status says\n%s", out)
	}
	must("check", "--max-age=5m")

	d := startDaemon(t, pooled, "public: true\nroutes:\n  - {path: '/rows/{id}', view: v0}\n", "--database.pgbouncer", "--max-concurrent=4")
	db.Exec(t, "INSERT INTO materialized_view_refresh_schedule (view_name, every) SELECT 'v' || i, '1 second' FROM generate_series(0, 3) AS i")
	// What a session remembers would be seen by others, and lost.
	stop := pollute(t, pooled)
	defer stop()
	conn := db.Connect(t)
	eventually(t, "each view is refreshed three times on schedule", func() bool {
		if code, body := fetch(t, d.url+"/rows/7"); code != 200 || !strings.Contains(body, `"data_source":"cached"`) {
			t.Fatalf("%d %s", code, body)
		}
		var refreshed int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM (SELECT FROM materialized_view_refresh_history
WHERE trigger = 'schedule' AND outcome = 'succeeded' GROUP BY view_name HAVING count(*) >= 3) AS v`).Scan(&refreshed)
		return err == nil && refreshed == views
	})
	var bad string
	err := conn.QueryRow(t.Context(), `SELECT coalesce(string_agg(outcome || ': ' || coalesce(error, ''), '; '), '')
FROM materialized_view_refresh_history WHERE outcome NOT IN ('succeeded', 'running')`).Scan(&bad)
	if err != nil || bad != "" {
		t.Errorf("%s %v", bad, err)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if strings.Contains(d.log.String(), "prepared statement") {
		t.Error("it keeps prepared statements")
	}
}

// pollute leaves settings behind in the pooler's sessions, as careless clients do.
func pollute(t *testing.T, pooled string) (stop func()) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), pooled+"&default_query_exec_mode=exec&pool_max_conns=2")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			_, err := pool.Exec(t.Context(), `SELECT set_config('search_path', 'pg_temp', false), set_config('DateStyle', 'SQL, DMY', false),
set_config('TimeZone', 'Asia/Tokyo', false), set_config('default_transaction_isolation', 'repeatable read', false), pg_sleep(0.02)`)
			if err != nil {
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); clients.Wait(); pool.Close() })
}

// Behind the pooler too, it is the backend of the refresh that is ended when its
// exporter is frozen, and not one that serves somebody else by now.
func TestE2EFrozenBehindPgBouncer(t *testing.T) {
	for _, method := range []string{"blocking", "swap"} {
		t.Run(method, func(t *testing.T) {
			db := stuck(t)
			db.Exec(t, "REFRESH MATERIALIZED VIEW v; UPDATE materialized_view_refresh_schedule SET method = '"+method+"'")
			pooled := db.PgBouncer(t)
			lost := startProcess(t, pooled+"&application_name=stuck", "--database.pgbouncer")
			conn := replaced(t, db, func() {
				eventually(t, "a backend is at work on the attempt", func() bool { return atWork(t, db) })
				lost.signal(t, syscall.SIGSTOP)
			})
			var ended string
			err := conn.QueryRow(t.Context(), `SELECT concat_ws(', ', string_agg(outcome, ', ' ORDER BY id), max(method)) FROM materialized_view_refresh_history`).Scan(&ended)
			if want := "abandoned, succeeded, " + method; err != nil || ended != want {
				t.Errorf("%s, want %s, %v", ended, want, err)
			}
		})
	}
}

func atWork(t *testing.T, db *postgrestest.Database) (found bool) {
	t.Helper()
	err := db.Connect(t).QueryRow(t.Context(), `
SELECT EXISTS (SELECT FROM materialized_view_refresh_history AS h
               JOIN pg_locks AS l ON l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.objid = h.id::int::oid
               JOIN pg_stat_activity AS a ON a.pid = l.pid
               WHERE h.outcome = 'running' AND a.wait_event = 'PgSleep')`).Scan(&found)
	return err == nil && found
}
