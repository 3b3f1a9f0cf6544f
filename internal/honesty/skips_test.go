package honesty

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// skipKinds are events of the views with skip_unchanged.
var skipKinds = []kind{
	{name: "refresh unless unchanged", weight: 60, run: refreshUnlessUnchanged, on: isRare},
	{name: "rare base truncated and filled", weight: 3, run: rareTruncated, on: isRare},
	{name: "rare base changed and rolled back", weight: 3, run: rareRolledBack, on: isRare},
}

func isRare(v *view) bool { return v.rare }

// Every change of the rare heartbeat flushes its statistics with its commit. So the
// as-of of a skip need not lag by a minute, which would be longer than the workload.
const (
	rareSQL     = `WITH b AS (UPDATE rare SET n = n + 1 RETURNING n) SELECT n, pg_stat_force_next_flush() FROM b`
	seenRareSQL = `SELECT n, clock_timestamp() FROM rare`
	rareLag     = 100 * time.Millisecond
)

// longestRareGap is the longest pause between two of its bumps; half of the pauses are
// at most a tenth of it.
const longestRareGap = 4 * time.Second

// writeRarely bumps the rare heartbeat until ctx ends. It reconnects after a crash.
func (h *harness) writeRarely(ctx context.Context) {
	for slices.ContainsFunc(h.views, isRare) && ctx.Err() == nil {
		if conn, err := connect(ctx, h.ownerSocketURL(), "writer"); err == nil {
			for ctx.Err() == nil && !conn.IsClosed() {
				if _, err := conn.Exec(ctx, rareSQL, pgx.QueryExecModeSimpleProtocol); err == nil {
					var b bump
					if err := conn.QueryRow(ctx, seenRareSQL).Scan(&b.n, &b.at); err == nil {
						h.rarely.add(b)
					}
				}
				longest := longestRareGap
				if rand.IntN(2) == 0 {
					longest /= 10
				}
				pause(ctx, rand.N(longest))
			}
			closeNow(conn)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// refreshUnlessUnchanged also checks the bound: a skip leaves the view no older than
// MaxLag.
func refreshUnlessUnchanged(ctx context.Context, h *harness, e *event) error {
	req := e.request()
	bounds := refresh.Skipping{MaxLag: 300*time.Millisecond + e.upTo(30*time.Second), FullAfter: 5*time.Second + e.upTo(30*time.Second), Lag: rareLag}
	req.SkipUnchanged = &bounds
	requested := time.Now() // the server is on this machine
	result, err := oneOf(e, h.refreshers...).Refresh(ctx, req)
	if err != nil || !result.Skipped {
		return err
	}
	if result.AsOf == nil || result.AsOf.Before(requested.Add(-bounds.MaxLag-time.Millisecond)) {
		h.checker.report(fmt.Sprintf("%s was skipped with an as-of of %s, although at %s it was to be at most %s old",
			e.view.name, stamp(result.AsOf), stamp(&requested), bounds.MaxLag))
	}
	return nil
}

func rareTruncated(ctx context.Context, h *harness, e *event) error {
	return h.asOwner(ctx, func(s *session) error {
		return s.all("BEGIN", "LOCK TABLE rare", "CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM rare", "TRUNCATE rare",
			"INSERT INTO rare SELECT * FROM kept", e.finish())
	})
}

func rareRolledBack(ctx context.Context, h *harness, e *event) error {
	return h.asOwner(ctx, func(s *session) error {
		if err := s.all("BEGIN", "UPDATE rare SET n = n + 1"); err != nil {
			return err
		}
		if err := s.wait(e.upTo(300 * time.Millisecond)); err != nil {
			return err
		}
		return s.exec("ROLLBACK")
	})
}

// checkSkips logs how many refreshes were skipped, and why the others were not, and fails
// if none is although nothing changes any more. With the settings of this workload, a schedule leaves a view behind by at most its longest gap
// and [refresh.CommitLag].
func (h *harness) checkSkips(t *testing.T, events int) {
	t.Helper()
	if !slices.ContainsFunc(h.views, isRare) {
		return
	}
	t.Logf("%d bumps of the rare heartbeat", h.rarely.len())
	for _, c := range []struct {
		what, where string
		least       int
	}{
		// How many there are depends on the load: each refresh may find a change.
		{"skips", "outcome = 'skipped'", 0},
		{"skips by this process", "outcome = 'skipped' AND trigger <> 'schedule'", 0},
		{"skips by this process that advanced the as-of", "outcome = 'skipped' AND trigger <> 'schedule' AND data_as_of > (SELECT max(p.data_as_of) FROM materialized_view_refresh_history AS p WHERE p.view_name = h.view_name AND p.outcome = 'succeeded' AND p.finished_at < h.started_at)", 0},
		{"skips by the exporters", "outcome = 'skipped' AND trigger = 'schedule'", 0},
		{"refreshes because something had changed", "outcome = 'succeeded' AND reason LIKE '%changed since: %rare%'", 5},
	} {
		n := scan[int](t, h, "SELECT count(*) FROM materialized_view_refresh_history AS h WHERE "+c.where)
		t.Logf("%d %s", n, c.what)
		if n < c.least && events >= 1000 {
			t.Errorf("%d %s, want at least %d", n, c.what, c.least)
		}
	}
	t.Logf("why it was not skipped: %v", scan[map[string]int](t, h, `SELECT coalesce(jsonb_object_agg(why, n), '{}') FROM (
    SELECT regexp_replace(substring(reason FROM '^not skipped: ([^;]*);'), '[0-9]+', 'N', 'g') AS why, count(*) AS n
    FROM materialized_view_refresh_history WHERE reason LIKE 'not skipped: %' GROUP BY 1) AS r`))
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: h.ownerURL()})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	eventually(t, "a refresh of an unchanged view is skipped", func() (bool, string) {
		result, err := refresh.New(pool, "public", "the honesty test").Refresh(t.Context(), refresh.Request{
			View: "rarely", Trigger: refresh.TriggerManual, LockTimeout: time.Second,
			SkipUnchanged: &refresh.Skipping{MaxLag: time.Hour, FullAfter: time.Hour, Lag: rareLag},
		})
		return result.Skipped, fmt.Sprintf("%s %v", result.Reason, err)
	})
	const longestGap = 2 * time.Second
	if late := scan[int](t, h, fmt.Sprintf(`SELECT count(*) FROM materialized_view_refresh_history
WHERE outcome = 'skipped' AND trigger = 'schedule' AND data_as_of < started_at - interval '%f seconds'`, (longestGap+refresh.CommitLag).Seconds())); late > 0 {
		t.Errorf("the exporters skipped %d refreshes although that left more than %s behind", late, longestGap+refresh.CommitLag)
	}
}
