package honesty

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// fromEnv returns a number from the environment.
func fromEnv(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// workloadFromEnv returns the workload that the environment variables describe.
func workloadFromEnv(t *testing.T) workload {
	t.Helper()
	s := workload{seed: fromEnv(t, "MATVIEW_HONESTY_SEED", 1), events: int(fromEnv(t, "MATVIEW_HONESTY_EVENTS", 1000)), kinds: kinds}
	if soak := os.Getenv("MATVIEW_HONESTY_SOAK"); soak != "" {
		d, err := time.ParseDuration(soak)
		if err != nil {
			t.Fatalf("MATVIEW_HONESTY_SOAK: %v", err)
		}
		s.lasts, s.events = d, 0
	}
	return s
}

// begin starts the writers and the checker; end stops them and waits for them.
func (h *harness) begin(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { h.writer.run(ctx) })
	all.Go(func() { h.writeRarely(ctx) })
	all.Go(func() { h.checker.run(ctx) })
	return sync.OnceFunc(func() { cancel(); all.Wait() })
}

func TestHonesty(t *testing.T) {
	s := workloadFromEnv(t)
	t.Logf("seed %d; see the package documentation for the settings", s.seed)
	h := newHarness(t)
	h.exporters = newExporters(t, h.ownerURL())
	h.exporters.startReplicas(t)
	end := h.begin(t.Context())
	defer end()
	began := time.Now()
	events := s.run(t.Context(), h)
	elapsed := time.Since(began)
	h.failOnViolations(t, s)
	h.settle(t)
	end()
	h.failOnViolations(t, s)
	h.checkCoverage(t, s, events, elapsed)
}

// failOnViolations fails the test if freshness was overstated, and prints the latest
// events.
func (h *harness) failOnViolations(t *testing.T, s workload) {
	t.Helper()
	violations := h.checker.found()
	if len(violations) == 0 {
		return
	}
	t.Fatalf("freshness was overstated; MATVIEW_HONESTY_SEED=%d\n%s\n\nThe latest events:\n%s", s.seed, strings.Join(violations, "\n"), h.journal.latest(40))
}

// checkCoverage logs what the workload did, and fails if it exercised too little or
// the checker verified too little.
func (h *harness) checkCoverage(t *testing.T, s workload, events int, elapsed time.Duration) {
	t.Helper()
	t.Logf("%d events in %s; %d bumps", events, elapsed.Round(time.Second), h.truth.len())
	by := h.journal.counts()
	for _, k := range s.kinds {
		c := by[k.name]
		t.Logf("%4d of %4d × %s; a failure: %v", c.succeeded, c.tried, k.name, c.failure)
		if c.succeeded == 0 && c.tried >= 10 {
			t.Errorf("none of %d events %q succeeded", c.tried, k.name)
		}
	}
	t.Log("refreshes: " + scan[string](t, h, `
SELECT string_agg(format('%s %s by %s', n, outcome, who), ', ' ORDER BY who, outcome) FROM (
    SELECT concat_ws(' ', trigger, method) AS who, outcome, count(*) AS n FROM materialized_view_refresh_history GROUP BY 1, 2) AS h`))
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently, refresh.Swap} {
		n := scan[int](t, h, "SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'succeeded' AND method = "+literal(string(method)))
		if n < 5 && events >= 1000 {
			t.Errorf("only %d refreshes were %s", n, method)
		}
	}
	h.checkSkips(t, events)
	for _, v := range h.views {
		seen := h.checker.counts[v.name]
		t.Logf("%s: verified %d times, written by another program %d times, unknown %v", v.name, seen.verified, seen.foreign, seen.unknown)
		if seen.verified < 30 && events >= 1000 {
			t.Errorf("the as-of of %s was verified only %d times", v.name, seen.verified)
		}
	}
}

// settle runs after the workload: the exporters refresh every scheduled view, they
// end on SIGTERM, and no session, lock or running attempt remains.
func (h *harness) settle(t *testing.T) {
	t.Helper()
	h.repair(t)
	quiet := scan[time.Time](t, h, "SELECT clock_timestamp()")
	eventually(t, "every scheduled view is fresh, and no dead attempt counts as running", func() (bool, string) {
		behind := scan[string](t, h, fmt.Sprintf(`
SELECT concat_ws(E'\n',
    (SELECT string_agg(format('%%s: %%s, as of %%s, last attempt %%s, next %%s, failures %%s, last error %%s; %%s', view_name, coalesce(stale_reason, 'fresh'), data_as_of,
                              last_attempt_at, next_run_at, consecutive_failures, last_error,
                              (SELECT string_agg(concat_ws(' ', h.started_at, h.outcome, h.data_as_of, h.reason, h.error), ' / ' ORDER BY h.id DESC)
                               FROM (SELECT * FROM materialized_view_refresh_history AS h WHERE h.view_name = f.view_name ORDER BY id DESC LIMIT 3) AS h)), E'\n')
     FROM materialized_view_freshness AS f WHERE is_scheduled AND (data_as_of IS NULL OR data_as_of < '%[1]s')),
    (SELECT string_agg(format('%%s: attempt of %%s by %%s still running, last heartbeat %%s', view_name, started_at, attempted_by, heartbeat_at), E'\n')
     FROM materialized_view_refresh_history WHERE outcome = 'running' AND started_at < '%[1]s'))`, quiet.Format(time.RFC3339Nano)))
		return behind == "", behind
	})
	for _, p := range h.exporters.all() {
		if err := p.end(); err != nil {
			t.Errorf("an exporter failed to shut down: %v\n%s", err, p.log.String())
		}
	}
	for _, pool := range h.pools {
		pool.Close()
	}
	eventually(t, "no session, lock or running attempt remains", func() (bool, string) {
		left := scan[string](t, h, `
SELECT concat_ws(', ',
    (SELECT string_agg('backend ' || application_name || ': ' || query, ', ') FROM pg_stat_activity
     WHERE datname = current_database() AND application_name NOT IN ('writer', 'checker', 'inspector') AND backend_type = 'client backend'),
    (SELECT 'advisory locks: ' || count(*) FROM pg_locks WHERE locktype = 'advisory' HAVING count(*) > 0),
    (SELECT 'running attempts: ' || string_agg(view_name, ', ') FROM materialized_view_refresh_history
     WHERE outcome = 'running' HAVING count(*) > 0))`)
		return left == "", left
	})
}

// repair undoes what interrupted events could not undo themselves.
func (h *harness) repair(t *testing.T) {
	t.Helper()
	conn, err := connect(t.Context(), h.ownerSocketURL(), "inspector")
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(conn)
	for _, v := range h.views {
		if scan[bool](t, h, "SELECT to_regclass("+literal(v.name)+") IS NULL") {
			if !v.leaf {
				t.Fatalf("%s is gone", v.name)
			}
			if err := (&session{ctx: t.Context(), conn: conn}).exec(v.createSQL("NO DATA")); err != nil {
				t.Fatal(err)
			}
		}
	}
	// On a busy machine, a view with every = 1s is due again as soon as it is refreshed,
	// and keeps the views that read it waiting for minutes.
	for _, v := range h.views {
		if !v.leaf && v.every != "" {
			h.exec(t, h.ownerSocketURL(), "UPDATE materialized_view_refresh_schedule SET every = '5 seconds' WHERE view_name = "+literal(v.key))
		}
	}
	if slices.Contains(h.exporters.all(), nil) {
		t.Fatal("an exporter was not started again")
	}
}

// settleTimeout is far longer than necessary: a dead attempt is detected within
// seconds, and a failed one is retried after five seconds or, after several failures,
// later.
const settleTimeout = 2 * time.Minute

func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(settleTimeout)
	for {
		good, still := ok()
		if good {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not true within %s: %s\n%s", settleTimeout, what, still)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func scan[T any](t *testing.T, h *harness, sql string) T {
	t.Helper()
	conn, err := connect(t.Context(), h.superURL(), "inspector")
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(conn)
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}
