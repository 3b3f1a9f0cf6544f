package scheduler_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

func TestTargetStartsEarlyByTheUsualDuration(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW slow AS SELECT 1 AS x FROM pg_sleep(0.3) WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, target_staleness) VALUES ('slow', '4 s')`)
	seen := newAttempts()
	stop := start(t, options(t, p, seen))
	for range 3 {
		if got := seen.of(t, "slow"); got.outcome != "succeeded" {
			t.Fatalf("%+v", got)
		}
	}
	stop()
	// Not "in time", which a busy machine may miss: planned in time.
	if !scan[bool](t, p, `SELECT next_run_at BETWEEN data_as_of + interval '1 s' AND data_as_of + interval '3.2 s' FROM materialized_view_refresh_state WHERE view_name = 'slow'`) {
		t.Errorf("planned %s after the as-of, want 4 s less the 0.3 s that it takes and 0.5 s",
			scan[time.Duration](t, p, `SELECT next_run_at - data_as_of FROM materialized_view_refresh_state WHERE view_name = 'slow'`))
	}
	if limit := scan[float64](t, p, `SELECT max_staleness_seconds FROM materialized_view_freshness WHERE view_name = 'slow'`); limit < 8 || limit > 12 {
		t.Errorf("max_staleness %v s, want twice the target and the duration", limit)
	}
}

// old makes the recorded as-of of every view two hours old, as if time had passed.
const old = `UPDATE materialized_view_refresh_state SET data_as_of = data_as_of - interval '2 h'`

func TestTargetPullsItsChain(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT id FROM jobs WITH NO DATA;
CREATE MATERIALIZED VIEW paused AS SELECT id FROM jobs WITH NO DATA;
CREATE VIEW between AS SELECT id FROM base;
CREATE MATERIALIZED VIEW middle AS SELECT id FROM between WITH NO DATA;
CREATE MATERIALIZED VIEW young AS SELECT id FROM jobs WITH NO DATA;
CREATE MATERIALIZED VIEW top AS SELECT id FROM middle UNION SELECT id FROM young WITH NO DATA;
CREATE MATERIALIZED VIEW over_paused AS SELECT id FROM paused WITH NO DATA;`)
	r := refresh.New(p, "public", "before")
	for _, view := range []string{"base", "paused", "middle", "young", "top", "over_paused"} {
		if _, err := r.Refresh(t.Context(), refresh.Request{View: view, Trigger: refresh.TriggerManual}); err != nil {
			t.Fatal(err)
		}
	}
	db.Exec(t, old+` WHERE view_name <> 'young';
INSERT INTO materialized_view_refresh_schedule (view_name, every, target_staleness, enabled) VALUES
('base', '3 d', NULL, true), ('paused', '1 s', NULL, false), ('top', NULL, '1 h', true), ('over_paused', NULL, '1 h', true)`)
	seen := newAttempts()
	stop := start(t, options(t, p, seen))
	seen.of(t, "top")
	waitFor(t, p, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE view_name = 'over_paused' AND trigger = 'schedule' AND outcome = 'succeeded')`)
	stop()
	order := scan[string](t, p, `SELECT string_agg(view_name, ' ' ORDER BY finished_at) FROM materialized_view_refresh_history WHERE trigger = 'schedule' AND view_name <> 'over_paused'`)
	if order != "base middle top" {
		t.Errorf("refreshed %s, want base, middle and top, in this order, neither what is young nor what is paused", order)
	}
	if !scan[bool](t, p, `SELECT staleness_seconds < 600 AND next_run_at - data_as_of > interval '50 min' FROM materialized_view_freshness WHERE view_name = 'top'`) {
		t.Error("top did not get what its chain has")
	}
	// Its as-of cannot move: it rests, and is not refreshed without end.
	if !scan[bool](t, p, `SELECT next_run_at > clock_timestamp() + interval '1 min' FROM materialized_view_refresh_state WHERE view_name = 'over_paused'`) {
		t.Error("over_paused does not rest")
	}
}

func TestTargetWithUpstreamThatFails(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT 1/(SELECT count(*) FROM jobs) AS id WITH NO DATA;
CREATE MATERIALIZED VIEW top AS SELECT id FROM base WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, target_staleness) VALUES ('top', '1 h')`)
	start(t, options(t, p, newAttempts()))
	waitFor(t, p, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE view_name = 'top' AND outcome = 'failed')`)
	if reason := scan[string](t, p, `SELECT reason FROM materialized_view_refresh_history WHERE view_name = 'top' AND outcome = 'failed' LIMIT 1`); !strings.HasPrefix(reason, "UPSTREAM: refresh of base failed: blocking: division by zero") {
		t.Errorf("reason: %s", reason)
	}
	db.Exec(t, `INSERT INTO jobs VALUES (1)`)
	waitFor(t, p, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE view_name = 'top' AND outcome = 'succeeded')`)
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// lines are those with a text in them.
func (l *lines) lines(text string) (found string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			found += line
		}
	}
	return found
}

func (l *lines) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); l.count(text) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("does not log %q", text)
		}
	}
}

func TestUnreachableTargetIsLoggedOnce(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	// Three refreshes of 40 minutes each, as far as the history knows.
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, started_at, finished_at)
SELECT 'other', 'schedule', 'succeeded', t, t + interval '40 min' FROM generate_series(now() - interval '3 d', now() - interval '1 d', interval '1 d') AS t;
INSERT INTO materialized_view_refresh_schedule (view_name, target_staleness) VALUES ('other', '1 h')`)
	logged := &lines{}
	o := options(t, p, newAttempts())
	o.Logger = slog.New(slog.NewTextHandler(logged, nil))
	start(t, o)
	for n := range 3 {
		if n > 0 {
			db.Exec(t, dueNow)
		}
		waitFor(t, p, `SELECT count(*) > `+string(rune('0'+n))+` AND bool_and(outcome = 'succeeded') FROM materialized_view_refresh_history WHERE started_at > now() - interval '1 h'`)
		// Which comes after the record: it would undo that the view is due.
		waitFor(t, p, `SELECT next_run_at - data_as_of BETWEEN interval '16 min' AND interval '18 min' FROM materialized_view_refresh_state WHERE view_name = 'other'`)
	}
	if n := logged.count("the target cannot be met"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	const line = `level=WARN msg="the target cannot be met: refreshes, with those of the views that it reads, take 40m0s at the 95th percentile, and data is twice as old when one follows the other; make them faster or the target longer" view=other target_staleness=1h0m0s refresh_takes=40m0s`
	if logged.count(line) != 1 {
		t.Errorf("it logs\n%s\nwant\n%s", logged.lines("target"), line)
	}
	db.Exec(t, `DELETE FROM materialized_view_refresh_history WHERE started_at < now() - interval '1 h'`)
	db.Exec(t, dueNow)
	logged.await(t, `level=INFO msg="the target is within reach again" view=other target_staleness=1h0m0s`)
}
