package honesty

import (
	"context"
	"slices"
	"testing"
	"time"
)

// These tests check the harness itself. Each faulty recorder refreshes a view and
// records an as-of that is too late, by a design that looks right. The checker must
// detect every one of them, and must accept the correct recorder, which differs from
// them only in its as-of.

// recordAs records a refresh in the session's transaction just as ours do, but

func (s *session) recordAs(v *view, asOf string, args ...any) error {
	return s.exec(`
WITH logged AS (
    INSERT INTO materialized_view_refresh_log (view_name, last_refreshed_at, refresh_duration_ms)
    VALUES (`+literal(v.key)+`, clock_timestamp(), 0)
    ON CONFLICT (view_name) DO UPDATE SET last_refreshed_at = EXCLUDED.last_refreshed_at, refresh_duration_ms = EXCLUDED.refresh_duration_ms
    RETURNING last_refreshed_at, refresh_duration_ms
)
INSERT INTO materialized_view_refresh_state AS st (view_name, data_as_of, view_oid, view_filenode, view_xmin, logged_refreshed_at, logged_duration_ms)
SELECT `+literal(v.key)+`, `+asOf+`, c.oid, c.relfilenode, c.xmin, logged.last_refreshed_at, logged.refresh_duration_ms
FROM logged, pg_class AS c
LEFT JOIN materialized_view_refresh_state AS before ON before.view_name = `+literal(v.key)+`
WHERE c.oid = to_regclass(`+literal(v.name)+`)
ON CONFLICT (view_name) DO UPDATE SET data_as_of = EXCLUDED.data_as_of, view_oid = EXCLUDED.view_oid, view_filenode = EXCLUDED.view_filenode,
    view_xmin = EXCLUDED.view_xmin, logged_refreshed_at = EXCLUDED.logged_refreshed_at, logged_duration_ms = EXCLUDED.logged_duration_ms`,
		args...)
}

// recorded refreshes and records in a transaction of this isolation level. Before the
// refresh the transaction does something that takes time, such as waiting for the
// view's advisory lock.
func recorded(isolation, asOf string) func(context.Context, *harness, *event) error {
	return func(ctx context.Context, h *harness, e *event) error {
		return h.session(ctx, e, func(s *session) error {
			now, err := s.prepare(e, isolation)
			if err != nil {
				return err
			}
			if err := s.exec(e.refreshSQL()); err != nil {
				return err
			}
			if err := s.recordAs(e.view, asOf, now); err != nil {
				return err
			}
			return s.exec("COMMIT")
		})
	}
}

// prepare begins the transaction, takes its snapshot, waits, and reads the clock.
func (s *session) prepare(e *event, isolation string) (now time.Time, err error) {
	if err := s.all("BEGIN ISOLATION LEVEL "+isolation, "SELECT FROM pg_class LIMIT 1"); err != nil {
		return now, err
	}
	if err := s.wait(e.upTo(50 * time.Millisecond)); err != nil {
		return now, err
	}
	err = s.conn.QueryRow(s.ctx, "SELECT clock_timestamp()").Scan(&now)
	return now, err
}

// recordedLater refreshes with an old snapshot, and records the later of the old and
// the new as-of.
func recordedLater(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		began, err := s.prepare(e, "REPEATABLE READ")
		if err != nil {
			return err
		}
		if err := s.wait(100 * time.Millisecond); err != nil {
			return err
		}
		if err := s.all(e.refreshSQL(), "COMMIT"); err != nil {
			return err
		}
		return s.recordAs(e.view, "greatest(before.data_as_of, $1::timestamptz - interval '1 second')", began)
	})
}

// readBefore is the correct as-of of a refresh in a READ COMMITTED transaction.
const readBefore = "$1::timestamptz"

func on(name string) func(*view) bool { return func(v *view) bool { return v.name == name } }

func TestFaultyRecordersAreDetected(t *testing.T) {
	h := newHarness(t)
	h.views = []*view{h.view("chain1"), h.view("chain2"), h.view("unscheduled")}
	around := []kind{
		{name: "reader in a long transaction", weight: 5, run: longReader},
		{name: "base table locked", weight: 2, run: baseLocked},
	}
	correct := kind{name: "as-of read before the refresh", weight: 20, run: recorded("READ COMMITTED", readBefore), on: on("unscheduled")}
	for _, test := range []struct {
		name    string
		refresh func(context.Context, *harness, *event) error
		on      string
		kinds   []kind
	}{
		{name: "as-of read after the refresh", refresh: recorded("READ COMMITTED", "coalesce(clock_timestamp(), $1)"), on: "unscheduled"},
		{name: "as-of read where the snapshot is older", refresh: recorded("REPEATABLE READ", readBefore), on: "unscheduled"},
		{name: "as-of that never goes back", refresh: recordedLater, on: "unscheduled", kinds: []kind{correct}},
		{name: "view over a view with its own start", refresh: recorded("READ COMMITTED", readBefore), on: "chain2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			faulty := kind{name: test.name, weight: 20, run: test.refresh, on: on(test.on)}
			s := workload{seed: 1, events: 300, kinds: slices.Concat([]kind{faulty}, test.kinds, around)}
			events := h.runAnew(t, s)
			violations := h.checker.found()
			if len(violations) == 0 {
				t.Fatalf("not detected in %d events\n%s", events, h.journal.latest(20))
			}
			t.Logf("detected after %d events: %s", events, violations[0])
		})
	}
	t.Run(correct.name, func(t *testing.T) {
		s := workload{seed: 1, events: 300, kinds: slices.Concat([]kind{correct}, around)}
		h.runAnew(t, s)
		h.failOnViolations(t, s)
		if seen := h.checker.counts["unscheduled"].verified; seen < 50 {
			t.Errorf("its as-of was verified only %d times", seen)
		}
	})
}

// runAnew runs a workload with empty tables, a new checker and a new journal.
func (h *harness) runAnew(t *testing.T, s workload) (events int) {
	t.Helper()
	h.exec(t, h.superURL(), "TRUNCATE materialized_view_refresh_state, materialized_view_refresh_log")
	h.exec(t, h.superURL(), "REFRESH MATERIALIZED VIEW chain1")
	h.checker, h.journal = newChecker(h.superURL(), h.truth, h.rarely, h.views), &journal{}
	end := h.begin(t.Context())
	defer end()
	return s.run(t.Context(), h)
}
