package honesty

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// skipKinds are about views that are refreshed only where something has changed.
var skipKinds = []kind{
	{name: "refresh unless unchanged", weight: 60, run: refreshUnlessUnchanged, on: isRare},
	{name: "rare base truncated and filled", weight: 3, run: rareTruncated, on: isRare},
	{name: "rare base changed and rolled back", weight: 3, run: rareRolledBack, on: isRare},
}

func isRare(v *view) bool { return v.rare }

// The rare heartbeat has its changes counted before its commit is acknowledged,
// whoever makes them, so that what a skip can prove need not lag by a minute,
// which would be longer than the storm.
const (
	rareSQL     = `WITH b AS (UPDATE rare SET n = n + 1 RETURNING n) SELECT n, pg_stat_force_next_flush() FROM b`
	seenRareSQL = `SELECT n, clock_timestamp() FROM rare`
	rareLag     = 100 * time.Millisecond
)

// rarest is the longest pause between two of its bumps; half of them are a tenth
// of that.
const rarest = 4 * time.Second

// writeRarely bumps the rare heartbeat until ctx ends, over every crash.
func (w *world) writeRarely(ctx context.Context) {
	for slices.ContainsFunc(w.views, isRare) && ctx.Err() == nil {
		if conn, err := connect(ctx, w.ownerSocketURL(), "writer"); err == nil {
			for ctx.Err() == nil && !conn.IsClosed() {
				if _, err := conn.Exec(ctx, rareSQL, pgx.QueryExecModeSimpleProtocol); err == nil {
					var b bump
					if err := conn.QueryRow(ctx, seenRareSQL).Scan(&b.n, &b.at); err == nil {
						w.rarely.add(b)
					}
				}
				longest := rarest
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

// refreshUnlessUnchanged also proves the bound: a skip leaves the view no older
// than was asked for.
func refreshUnlessUnchanged(ctx context.Context, w *world, e *event) error {
	req := e.request()
	bounds := refresh.Skipping{MaxLag: 300*time.Millisecond + e.upTo(30*time.Second), FullAfter: 5*time.Second + e.upTo(30*time.Second), Lag: rareLag}
	req.SkipUnchanged = &bounds
	asked := time.Now() // the server is on this machine
	result, err := oneOf(e, w.ours...).Refresh(ctx, req)
	if err != nil || !result.Skipped {
		return err
	}
	if result.AsOf == nil || result.AsOf.Before(asked.Add(-bounds.MaxLag-time.Millisecond)) {
		w.checker.report(fmt.Sprintf("%s was skipped with an as-of of %s, when at %s no more than %s was to be left behind",
			e.view.name, stamp(result.AsOf), stamp(&asked), bounds.MaxLag))
	}
	return nil
}

func rareTruncated(ctx context.Context, w *world, e *event) error {
	return w.asOwner(ctx, func(s *session) error {
		return s.all("BEGIN", "LOCK TABLE rare", "CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM rare", "TRUNCATE rare",
			"INSERT INTO rare SELECT * FROM kept", e.finish())
	})
}

func rareRolledBack(ctx context.Context, w *world, e *event) error {
	return w.asOwner(ctx, func(s *session) error {
		if err := s.all("BEGIN", "UPDATE rare SET n = n + 1"); err != nil {
			return err
		}
		if err := s.hold(e.upTo(300 * time.Millisecond)); err != nil {
			return err
		}
		return s.exec("ROLLBACK")
	})
}

// measureSkips says how many refreshes were skipped, and fails if too few were to
// show anything. An exporter's schedule leaves, with the settings that the storm
// gives it, at most the longest gap and [refresh.CommitLag] behind.
func (w *world) measureSkips(t *testing.T, events int) {
	t.Helper()
	if !slices.ContainsFunc(w.views, isRare) {
		return
	}
	t.Logf("%d bumps of the rare heartbeat", w.rarely.len())
	for _, c := range []struct {
		what, where string
		least       int
	}{
		// By whom depends on how busy the machine is: an exporter comes first where we wait.
		{"skips", "outcome = 'skipped'", 1},
		{"skips of ours", "outcome = 'skipped' AND trigger <> 'schedule'", 0},
		{"skips of ours that moved the as-of on", "outcome = 'skipped' AND trigger <> 'schedule' AND data_as_of > (SELECT max(p.data_as_of) FROM materialized_view_refresh_history AS p WHERE p.view_name = h.view_name AND p.outcome = 'succeeded' AND p.finished_at < h.started_at)", 0},
		{"skips of the exporters", "outcome = 'skipped' AND trigger = 'schedule'", 0},
		{"refreshes since something had changed", "outcome = 'succeeded' AND reason LIKE '%changed since: %rare%'", 5},
	} {
		n := scan[int](t, w, "SELECT count(*) FROM materialized_view_refresh_history AS h WHERE "+c.where)
		t.Logf("%d %s", n, c.what)
		if n < c.least && events >= 1000 {
			t.Errorf("%d %s, want at least %d", n, c.what, c.least)
		}
	}
	const longestGap = 2 * time.Second
	if late := scan[int](t, w, fmt.Sprintf(`SELECT count(*) FROM materialized_view_refresh_history
WHERE outcome = 'skipped' AND trigger = 'schedule' AND data_as_of < started_at - interval '%f seconds'`, (longestGap+refresh.CommitLag).Seconds())); late > 0 {
		t.Errorf("the exporters skipped %d refreshes although that left more than %s behind", late, longestGap+refresh.CommitLag)
	}
}
