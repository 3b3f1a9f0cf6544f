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

// fromEnv is a number from the environment.
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

// asked is the storm that the environment asks for.
func asked(t *testing.T) storm {
	t.Helper()
	s := storm{seed: fromEnv(t, "MATVIEW_HONESTY_SEED", 1), events: int(fromEnv(t, "MATVIEW_HONESTY_EVENTS", 1000)), kinds: kinds}
	if soak := os.Getenv("MATVIEW_HONESTY_SOAK"); soak != "" {
		d, err := time.ParseDuration(soak)
		if err != nil {
			t.Fatalf("MATVIEW_HONESTY_SOAK: %v", err)
		}
		s.lasts, s.events = d, 0
	}
	return s
}

// begin lets writer and checker run; end waits for them.
func (w *world) begin(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { w.writer.run(ctx) })
	all.Go(func() { w.writeRarely(ctx) })
	all.Go(func() { w.checker.run(ctx) })
	return sync.OnceFunc(func() { cancel(); all.Wait() })
}

func TestHonesty(t *testing.T) {
	s := asked(t)
	t.Logf("seed %d; PostgreSQL and events as the package documentation says", s.seed)
	w := newWorld(t)
	w.exporters = newExporters(t, w.ownerURL())
	w.exporters.startReplicas(t)
	end := w.begin(t.Context())
	defer end()
	began := time.Now()
	events := s.rage(t.Context(), w)
	raged := time.Since(began)
	w.refuse(t, s)
	w.calm(t)
	end()
	w.refuse(t, s)
	w.measure(t, s, events, raged)
}

// refuse fails the test if there was a lie, and says what was going on.
func (w *world) refuse(t *testing.T, s storm) {
	t.Helper()
	lies := w.checker.found()
	if len(lies) == 0 {
		return
	}
	t.Fatalf("freshness was overstated; MATVIEW_HONESTY_SEED=%d\n%s\n\nThe latest events:\n%s", s.seed, strings.Join(lies, "\n"), w.journal.latest(40))
}

// measure says what the storm did, and fails if it, or the checker, was blind.
func (w *world) measure(t *testing.T, s storm, events int, raged time.Duration) {
	t.Helper()
	t.Logf("%d events in %s; %d bumps", events, raged.Round(time.Second), w.truth.len())
	by := w.journal.counts()
	for _, k := range s.kinds {
		c := by[k.name]
		t.Logf("%4d of %4d × %s; a failure: %v", c.succeeded, c.tried, k.name, c.failure)
		if c.succeeded == 0 && c.tried >= 10 {
			t.Errorf("none of %d events %q succeeded", c.tried, k.name)
		}
	}
	t.Log("refreshes: " + scan[string](t, w, `
SELECT string_agg(format('%s %s by %s', n, outcome, who), ', ' ORDER BY who, outcome) FROM (
    SELECT concat_ws(' ', trigger, method) AS who, outcome, count(*) AS n FROM materialized_view_refresh_history GROUP BY 1, 2) AS h`))
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently, refresh.Swap} {
		n := scan[int](t, w, "SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'succeeded' AND method = "+literal(string(method)))
		if n < 5 && events >= 1000 {
			t.Errorf("%d refreshes only were %s", n, method)
		}
	}
	w.measureSkips(t, events)
	for _, v := range w.views {
		seen := w.checker.counts[v.name]
		t.Logf("%s: verified %d times, of another program %d, unknown %v", v.name, seen.verified, seen.foreign, seen.unknown)
		if seen.verified < 30 && events >= 1000 {
			t.Errorf("the as-of of %s was verified %d times only", v.name, seen.verified)
		}
	}
}

// calm is after the storm: the exporters bring every scheduled view back to
// fresh, end when told, and nothing of ours is left over.
func (w *world) calm(t *testing.T) {
	t.Helper()
	w.repair(t)
	quiet := scan[time.Time](t, w, "SELECT clock_timestamp()")
	eventually(t, "every scheduled view is fresh again, and every dead attempt found", func() (bool, string) {
		behind := scan[string](t, w, fmt.Sprintf(`
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
	for _, p := range w.exporters.all() {
		if err := p.end(); err != nil {
			t.Errorf("an exporter did not end well: %v\n%s", err, p.log.String())
		}
	}
	for _, pool := range w.pools {
		pool.Close()
	}
	eventually(t, "nothing of ours is left over", func() (bool, string) {
		left := scan[string](t, w, `
SELECT concat_ws(', ',
    (SELECT string_agg('backend ' || application_name || ': ' || query, ', ') FROM pg_stat_activity
     WHERE datname = current_database() AND application_name NOT IN ('writer', 'checker', 'judge') AND backend_type = 'client backend'),
    (SELECT 'advisory locks: ' || count(*) FROM pg_locks WHERE locktype = 'advisory' HAVING count(*) > 0),
    (SELECT 'running attempts: ' || string_agg(view_name, ', ') FROM materialized_view_refresh_history
     WHERE outcome = 'running' HAVING count(*) > 0))`)
		return left == "", left
	})
}

// repair undoes what events could not undo themselves since they were cut off.
func (w *world) repair(t *testing.T) {
	t.Helper()
	conn, err := connect(t.Context(), w.ownerSocketURL(), "judge")
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(conn)
	for _, v := range w.views {
		if scan[bool](t, w, "SELECT to_regclass("+literal(v.name)+") IS NULL") {
			if !v.leaf {
				t.Fatalf("%s is gone", v.name)
			}
			if err := (&session{ctx: t.Context(), conn: conn}).exec(v.createSQL("NO DATA")); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One that is due again as soon as it is refreshed, as a busy machine makes of
	// every second, keeps those that read it waiting, for minutes.
	for _, v := range w.views {
		if !v.leaf && v.every != "" {
			w.exec(t, w.ownerSocketURL(), "UPDATE materialized_view_refresh_schedule SET every = '5 seconds' WHERE view_name = "+literal(v.key))
		}
	}
	if slices.Contains(w.exporters.all(), nil) {
		t.Fatal("an exporter was not started again")
	}
}

// settleTimeout is far longer than it takes: an abandoned attempt is found after
// seven seconds, a failed one tried again after five or, failing often, more.
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
			t.Fatalf("not within %s: %s\n%s", settleTimeout, what, still)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func scan[T any](t *testing.T, w *world, sql string) T {
	t.Helper()
	conn, err := connect(t.Context(), w.superURL(), "judge")
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
