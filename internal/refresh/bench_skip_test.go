package refresh_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// BenchmarkSkipped compares a skipped refresh, all statements and commits of
// ours counted, with a real one of a view of 1,000,000 rows over 3,000,000.
func BenchmarkSkipped(b *testing.B) {
	needsSkipping(b)
	server, err := postgrestest.Start(b.Context(), postgrestest.Options{Settings: map[string]string{"fsync": "on", "synchronous_commit": "on"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Stop() })
	pool, err := pgxpool.New(b.Context(), server.URL("postgres"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	installOn(b, pool)
	if _, err := pool.Exec(b.Context(), `
CREATE TABLE objects AS SELECT i AS id, i / 3 AS job_id, i % 7 AS state FROM generate_series(0, 2999999) AS i;
CREATE MATERIALIZED VIEW large AS SELECT job_id, count(*) AS n, max(state) AS state FROM objects GROUP BY job_id WITH NO DATA`); err != nil {
		b.Fatal(err)
	}
	refresher := refresh.New(pool, "public", "bench")
	const skips = 200
	for range b.N {
		start := time.Now()
		var refreshed time.Duration
		if result, err := refresher.Refresh(b.Context(), skipping("large")); err != nil || result.Skipped {
			b.Fatalf("%+v, %v", result, err)
		}
		refreshed = time.Since(start)
		var skipped []time.Duration
		for range skips {
			start := time.Now()
			if result, err := refresher.Refresh(b.Context(), skipping("large")); err != nil || !result.Skipped {
				b.Fatalf("%+v, %v", result, err)
			}
			skipped = append(skipped, time.Since(start))
		}
		ours := median(skipped)
		fmt.Printf("\nbench: skip ours=%s reference=%s ratio=%.1f p95=%s\n", ours.Round(time.Microsecond), refreshed.Round(time.Millisecond),
			float64(refreshed)/float64(ours), skipped[len(skipped)*95/100].Round(time.Microsecond))
		if _, err := pool.Exec(b.Context(), "DELETE FROM objects WHERE id = (SELECT max(id) FROM objects); SELECT pg_stat_force_next_flush()"); err != nil {
			b.Fatal(err)
		}
	}
}
