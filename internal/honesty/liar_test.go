package honesty

import (
	"context"
	"slices"
	"testing"
	"time"
)

// The harness is worth what it catches. These are refreshes that record a lie,
// each one a design that looks right; the checker must catch every one, and not
// the one that differs from them only in being honest.

// recordAs records a refresh in the session's transaction just as ours do, but
// with an as-of of the liar's choice.
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

// recorded is a refresh in a transaction of this isolation. Before it something
// is done that takes a while, such as to wait for the view's advisory lock.
func recorded(isolation, asOf string) func(context.Context, *world, *event) error {
	return func(ctx context.Context, w *world, e *event) error {
		return w.session(ctx, e, func(s *session) error {
			now, err := s.prepare(e, isolation)
			if err != nil {
				return err
			}
			if err := s.exec(e.handSQL()); err != nil {
				return err
			}
			if err := s.recordAs(e.view, asOf, now); err != nil {
				return err
			}
			return s.exec("COMMIT")
		})
	}
}

// prepare begins, does what takes a while, and reads the clock.
func (s *session) prepare(e *event, isolation string) (now time.Time, err error) {
	if err := s.all("BEGIN ISOLATION LEVEL "+isolation, "SELECT FROM pg_class LIMIT 1"); err != nil {
		return now, err
	}
	if err := s.hold(e.upTo(50 * time.Millisecond)); err != nil {
		return now, err
	}
	err = s.conn.QueryRow(s.ctx, "SELECT clock_timestamp()").Scan(&now)
	return now, err
}

// recordedLater refreshes to old data, of which the record takes notice but
// keeps the later of two times.
func recordedLater(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		began, err := s.prepare(e, "REPEATABLE READ")
		if err != nil {
			return err
		}
		if err := s.hold(100 * time.Millisecond); err != nil {
			return err
		}
		if err := s.all(e.handSQL(), "COMMIT"); err != nil {
			return err
		}
		return s.recordAs(e.view, "greatest(before.data_as_of, $1::timestamptz - interval '1 second')", began)
	})
}

// readBefore is the as-of of an honest refresh in a READ COMMITTED transaction.
const readBefore = "$1::timestamptz"

func on(name string) func(*view) bool { return func(v *view) bool { return v.name == name } }

func TestLiesAreCaught(t *testing.T) {
	w := newWorld(t)
	w.views = []*view{w.view("chain1"), w.view("chain2"), w.view("by_hand")}
	around := []kind{
		{name: "reader in a long transaction", weight: 5, run: longReader},
		{name: "base locked", weight: 2, run: baseLocked},
	}
	honest := kind{name: "as-of read before the refresh", weight: 20, run: recorded("READ COMMITTED", readBefore), on: on("by_hand")}
	for _, test := range []struct {
		name    string
		refresh func(context.Context, *world, *event) error
		on      string
		kinds   []kind
	}{
		{name: "as-of read after the refresh", refresh: recorded("READ COMMITTED", "coalesce(clock_timestamp(), $1)"), on: "by_hand"},
		{name: "as-of read where the snapshot is older", refresh: recorded("REPEATABLE READ", readBefore), on: "by_hand"},
		{name: "as-of that never goes back", refresh: recordedLater, on: "by_hand", kinds: []kind{honest}},
		{name: "view over a view with its own start", refresh: recorded("READ COMMITTED", readBefore), on: "chain2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			liar := kind{name: test.name, weight: 20, run: test.refresh, on: on(test.on)}
			s := storm{seed: 1, events: 300, kinds: slices.Concat([]kind{liar}, test.kinds, around)}
			events := w.rageAnew(t, s)
			lies := w.checker.found()
			if len(lies) == 0 {
				t.Fatalf("not caught in %d events\n%s", events, w.journal.latest(20))
			}
			t.Logf("caught after %d events: %s", events, lies[0])
		})
	}
	t.Run(honest.name, func(t *testing.T) {
		s := storm{seed: 1, events: 300, kinds: slices.Concat([]kind{honest}, around)}
		w.rageAnew(t, s)
		w.refuse(t, s)
		if seen := w.checker.counts["by_hand"].verified; seen < 50 {
			t.Errorf("its as-of was verified %d times only", seen)
		}
	})
}

// rageAnew is a storm that knows nothing of those before it.
func (w *world) rageAnew(t *testing.T, s storm) (events int) {
	t.Helper()
	w.exec(t, w.superURL(), "TRUNCATE materialized_view_refresh_state, materialized_view_refresh_log")
	w.exec(t, w.superURL(), "REFRESH MATERIALIZED VIEW chain1")
	w.checker, w.journal = newChecker(w.superURL(), w.truth, w.rarely, w.views), &journal{}
	end := w.begin(t.Context())
	defer end()
	return s.rage(t.Context(), w)
}
