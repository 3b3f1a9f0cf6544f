package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// benched is a database that exporters, each a process of its own, work on.
type benched struct {
	*testing.B
	*pgxpool.Pool
	url string
}

func bench(b *testing.B, views int) benched {
	b.Helper()
	server, err := postgrestest.Start(b.Context(), postgrestest.Options{Settings: map[string]string{"shared_buffers": "256MB", "max_locks_per_transaction": "256"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Stop() })
	d := benched{B: b, url: server.URL("postgres")}
	if d.Pool, err = postgres.Open(b.Context(), postgres.Config{URL: d.url, MaxConnections: 4}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	err = d.AcquireFunc(b.Context(), func(conn *pgxpool.Conn) error { return migrations.Apply(b.Context(), conn.Conn(), "public") })
	if err != nil {
		b.Fatal(err)
	}
	for from := 1; from <= views; from += 500 { // as many as have room in the table of locks
		d.do(fmt.Sprintf(`DO $$ BEGIN
FOR i IN %d..%d LOOP EXECUTE format('CREATE MATERIALIZED VIEW view_%%s AS SELECT %%s AS x', i, i); END LOOP;
END $$`, from, min(from+499, views)))
	}
	return d
}

func (d benched) do(sql string, args ...any) {
	d.Helper()
	if _, err := d.Exec(d.B.Context(), sql, args...); err != nil {
		d.Fatalf("%s: %v", sql, err)
	}
}

func (d benched) number(sql string, args ...any) float64 {
	d.Helper()
	var n float64
	if err := d.QueryRow(d.B.Context(), sql, args...).Scan(&n); err != nil {
		d.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (d benched) until(condition string) {
	d.Helper()
	for deadline := time.Now().Add(2 * time.Minute); d.number("SELECT ("+condition+")::int") == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.Fatalf("in vain: %s", condition)
		}
	}
}

// exporter starts one.
func (d benched) exporter() (p *process, address string) {
	d.Helper()
	address = freeAddress(d)
	return startProcess(d, d.url, "--web.listen-address="+address), "http://" + address
}

// compared prints what was measured beside what is to be reached.
func compared(what string, ours, reference float64, unit string) {
	fmt.Printf("bench: %s ours=%.3g%s reference=%.3g%s ratio=%.3g\n", what, ours, unit, reference, unit, ours/reference)
}

// BenchmarkScheduler measures an exporter with ten thousand schedules, one of which
// is due now and then.
func BenchmarkScheduler(b *testing.B) {
	const views, rounds = 10_000, 250
	d := bench(b, views)
	for b.Loop() {
		d.do(`TRUNCATE materialized_view_refresh_history, materialized_view_refresh_state, materialized_view_refresh_log, materialized_view_refresh_schedule`)
		// Recorded, so that nothing is due for hours.
		d.do(`INSERT INTO materialized_view_refresh_log SELECT 'view_' || i, now(), 1 FROM generate_series(1, $1) AS i`, views)
		planner, _ := d.exporter()
		began := time.Now()
		d.do(`INSERT INTO materialized_view_refresh_schedule (view_name, every, method) SELECT 'view_' || i, interval '1 d', 'blocking' FROM generate_series(1, $1) AS i`, views)
		d.until(fmt.Sprintf(`SELECT count(*) = %d FROM materialized_view_refresh_state WHERE next_run_at > now()`, views))
		compared("scheduler-10000-schedules-planned", time.Since(began).Seconds(), 1, " s")
		compared("scheduler-peak-memory-planning", peakMiB(b, planner), 128, " MiB")
		planner.kill(b)
		d.do("VACUUM ANALYZE")
		p, url := d.ready()
		compared("scheduler-idle-statements-a-second", d.statements(20*time.Second), 1, "")

		for i := range rounds { // due at a time that no round of the exporter's knows
			d.do(`UPDATE materialized_view_refresh_state SET next_run_at = clock_timestamp() + interval '5 s' WHERE view_name = 'view_' || $1::int`, 1+i*(views/rounds))
			time.Sleep(time.Duration(100+rand.IntN(100)) * time.Millisecond)
		}
		d.until(fmt.Sprintf(`SELECT count(*) >= %d AND bool_and(outcome = 'succeeded') FROM materialized_view_refresh_history`, rounds))
		// Every day: the next run is due a day after this one was.
		const lag = `
SELECT 1000 * percentile_disc($1) WITHIN GROUP (ORDER BY extract(epoch FROM h.started_at - (st.next_run_at - interval '1 d')))::float8
FROM materialized_view_refresh_history AS h JOIN materialized_view_refresh_state AS st USING (view_name)`
		for _, percentile := range []int{50, 99, 100} {
			compared(fmt.Sprintf("scheduler-dispatch-lag-p%d", percentile), d.number(lag, float64(percentile)/100), 250, " ms")
		}
		if code, _ := fetch(b, url+"/metrics"); code != http.StatusOK {
			b.Errorf("/metrics: %d", code)
		}
		compared("scheduler-peak-memory", peakMiB(b, p), 128, " MiB")
		p.kill(b)
	}
}

// ready starts an exporter on what there is, and measures until it says that it is ready.
func (d benched) ready() (p *process, url string) {
	d.Helper()
	began := time.Now()
	p, url = d.exporter()
	for {
		resp, err := http.Get(url + "/-/ready")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Since(began) > time.Minute {
			d.Fatal(p.log.String())
		}
		time.Sleep(time.Millisecond)
	}
	compared("scheduler-start-to-ready", time.Since(began).Seconds(), 1, " s")
	return p, url
}

// statements counts what an exporter at rest sends, pings included, in the server's log.
func (d benched) statements(during time.Duration) float64 {
	d.Helper()
	var data string
	if err := d.QueryRow(d.B.Context(), "SHOW data_directory").Scan(&data); err != nil {
		d.Fatal(err)
	}
	set := func(prefix, statements string) {
		d.do("ALTER SYSTEM SET log_line_prefix = '" + prefix + "'")
		d.do("ALTER SYSTEM SET log_statement = '" + statements + "'")
		d.do("SELECT pg_reload_conf()")
	}
	set("<%a> ", "all")
	defer set("", "none")
	count := func() float64 {
		log, err := os.ReadFile(filepath.Join(filepath.Dir(data), "postgres.log"))
		if err != nil {
			d.Fatal(err)
		}
		return float64(len(logged.FindAll(log, -1)))
	}
	time.Sleep(5 * time.Second) // until every session has read that
	began, before := time.Now(), count()
	time.Sleep(during)
	sent := count() - before
	if sent == 0 {
		d.Error("the server's log has no statement of the exporter's")
	}
	return sent / time.Since(began).Seconds()
}

var logged = regexp.MustCompile(`(?m)^<matview-exporter> LOG:  (statement|execute)`)

func peakMiB(tb testing.TB, p *process) float64 {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		tb.Skip("how much memory a process had is read from /proc, which is not here")
	}
	for line := range strings.Lines(string(status)) {
		var kB float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kB); n == 1 {
			return kB / 1024
		}
	}
	tb.Fatal("no VmHWM")
	return 0
}

// probe sees refreshes without our records: of the same statement two at once, and
// each that is committed.
const probe = `
CREATE SEQUENCE refreshed_at_once; -- counts also what is rolled back
CREATE TABLE committed (statement text);
CREATE FUNCTION refresh_starts() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(4711, hashtext(current_query())) THEN PERFORM nextval('refreshed_at_once'); END IF;
END $$;
CREATE FUNCTION refresh_ends() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO committed VALUES (current_query()); END $$;
CREATE EVENT TRIGGER refresh_starts ON ddl_command_start WHEN TAG IN ('REFRESH MATERIALIZED VIEW') EXECUTE FUNCTION refresh_starts();
CREATE EVENT TRIGGER refresh_ends ON ddl_command_end WHEN TAG IN ('REFRESH MATERIALIZED VIEW') EXECUTE FUNCTION refresh_ends()`

// provoke has two sessions refresh a view at once, which the probe must see.
func (d benched) provoke() {
	d.Helper()
	ctx := d.B.Context()
	first, err := d.Begin(ctx)
	if err != nil {
		d.Fatal(err)
	}
	if _, err := first.Exec(ctx, "REFRESH MATERIALIZED VIEW view_1"); err != nil {
		d.Fatal(err)
	}
	second, err := d.Begin(ctx)
	if err != nil {
		d.Fatal(err)
	}
	if _, err := second.Exec(ctx, "SET LOCAL lock_timeout = '1ms'"); err != nil {
		d.Fatal(err)
	}
	if _, err := second.Exec(ctx, "REFRESH MATERIALIZED VIEW view_1"); postgres.SQLState(err) != pgerrcode.LockNotAvailable {
		d.Fatal(err)
	}
	for _, tx := range []pgx.Tx{first, second} {
		if err := tx.Rollback(ctx); err != nil {
			d.Fatal(err)
		}
	}
	if d.number(atOnce) == 0 {
		d.Fatal("the probe does not see two refreshes at once")
	}
	d.do("ALTER SEQUENCE refreshed_at_once RESTART")
}

const atOnce = `SELECT CASE WHEN is_called THEN last_value ELSE 0 END::float8 FROM refreshed_at_once`

// BenchmarkReplicas kills and restarts three exporters at random for a minute,
// while two hundred views are due every second.
func BenchmarkReplicas(b *testing.B) {
	const views = 200
	d := bench(b, views)
	d.do(probe)
	d.provoke()
	for b.Loop() {
		d.do(`TRUNCATE materialized_view_refresh_history, materialized_view_refresh_state, materialized_view_refresh_log, materialized_view_refresh_schedule, committed`)
		d.do(`INSERT INTO materialized_view_refresh_schedule (view_name, every, method) SELECT 'view_' || i, interval '1 s', 'blocking' FROM generate_series(1, $1) AS i`, views)
		replicas := make([]*process, 3)
		for i := range replicas {
			replicas[i], _ = d.exporter()
		}
		d.until(fmt.Sprintf(`SELECT count(DISTINCT view_name) = %d FROM materialized_view_refresh_history WHERE outcome = 'succeeded'`, views))
		kills := 0
		for end := time.Now().Add(time.Minute); time.Now().Before(end); kills++ {
			time.Sleep(time.Duration(200+rand.IntN(2000)) * time.Millisecond)
			i := rand.IntN(len(replicas))
			replicas[i].kill(b)
			replicas[i], _ = d.exporter()
		}
		ended := d.time()
		for _, p := range replicas {
			p.kill(b)
		}
		d.until(`SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'matview%'`)
		d.judge(kills, ended)
	}
}

func (d benched) time() (now time.Time) {
	d.Helper()
	if err := d.QueryRow(d.B.Context(), "SELECT clock_timestamp()").Scan(&now); err != nil {
		d.Fatal(err)
	}
	return now
}

// judge looks at what became of a minute of kills.
func (d benched) judge(kills int, ended time.Time) {
	d.Helper()
	succeeded := d.number(`SELECT count(*)::float8 FROM materialized_view_refresh_history WHERE outcome = 'succeeded'`)
	d.Logf("%d kills, %.0f refreshes, %.0f attempts abandoned", kills, succeeded,
		d.number(`SELECT count(*)::float8 FROM materialized_view_refresh_history WHERE outcome = 'abandoned'`))
	// A view is due a second after its last refresh was, and at once where that was
	// abandoned: whoever finds that out says so. The run that the end cut off counts.
	compared("replicas-latest-after-due", d.number(`
SELECT max(extract(epoch FROM started_at - due))::float8 FROM (
    SELECT started_at, lag(started_at + CASE outcome WHEN 'succeeded' THEN interval '1 s' ELSE interval '0' END) OVER (PARTITION BY view_name ORDER BY started_at) AS due
    FROM (SELECT view_name, outcome, started_at FROM materialized_view_refresh_history WHERE started_at <= $1
          UNION ALL SELECT view_name, NULL, $1 FROM materialized_view_refresh_schedule) AS h) AS a`, ended), 10, " s")
	for what, sql := range map[string]string{
		"refreshes of one view that overlapped, by the history": `
SELECT count(*)::float8 FROM (
    SELECT started_at, max(finished_at) OVER (PARTITION BY view_name ORDER BY started_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS ended
    FROM materialized_view_refresh_history) AS a
WHERE ended > started_at`,
		"refreshes of one view that overlapped, by the probe": atOnce,
		"committed refreshes that the history does not have, or has twice": `
SELECT abs((SELECT count(*) FROM committed) - (SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'succeeded'))::float8`,
		"views whose log or state is not of their last refresh": `
SELECT count(*)::float8 FROM materialized_view_refresh_schedule AS s
LEFT JOIN (SELECT DISTINCT ON (view_name) * FROM materialized_view_refresh_history WHERE outcome = 'succeeded' ORDER BY view_name, finished_at DESC) AS h USING (view_name)
LEFT JOIN materialized_view_refresh_log AS l USING (view_name)
LEFT JOIN materialized_view_freshness AS f USING (view_name)
WHERE l.last_refreshed_at IS DISTINCT FROM h.finished_at OR f.data_as_of IS DISTINCT FROM h.data_as_of`,
		"failed refreshes": `SELECT count(*)::float8 FROM materialized_view_refresh_history WHERE outcome = 'failed'`,
	} {
		n := d.number(sql)
		fmt.Printf("bench: replicas: %s ours=%.0f reference=0 ratio=%.0f\n", what, n, n)
		if n != 0 {
			d.Errorf("%.0f %s", n, what)
		}
	}
}
