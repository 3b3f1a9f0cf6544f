package refresh_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// rounds is how many refreshes of each kind are measured, in turn, so that both
// see the same machine.
const rounds = 200

// BenchmarkRecorded compares a recorded refresh of a small view, all statements
// and commits of ours counted, with the bare statement on the same connection.
// Its server writes through to the disk, as a real one does.
func BenchmarkRecorded(b *testing.B) {
	server, err := postgrestest.Start(b.Context(), postgrestest.Options{Settings: map[string]string{"fsync": "on", "synchronous_commit": "on"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Stop() })
	config, err := pgxpool.ParseConfig(server.URL("postgres"))
	if err != nil {
		b.Fatal(err)
	}
	config.MaxConns = 1 // the same connection for both; attempts this short need no heartbeat
	pool, err := pgxpool.NewWithConfig(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	setUp(b, pool)
	refresher := refresh.New(pool, "public", "bench")
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently} {
		b.Run(string(method), func(b *testing.B) {
			for range b.N {
				bare, recorded := measure(b, pool, refresher, method)
				report(b, method, bare, recorded)
			}
		})
	}
}

func setUp(b *testing.B, pool *pgxpool.Pool) {
	b.Helper()
	conn, err := pool.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	if err := migrations.Apply(b.Context(), conn.Conn(), "public"); err != nil {
		b.Fatal(err)
	}
	_, err = conn.Exec(b.Context(), `
CREATE MATERIALIZED VIEW small AS SELECT i AS id, 'row ' || i AS text FROM generate_series(1, 100) AS i;
CREATE UNIQUE INDEX ON small (id)`)
	if err != nil {
		b.Fatal(err)
	}
}

func measure(b *testing.B, pool *pgxpool.Pool, refresher *refresh.Refresher, method refresh.Method) (bare, recorded []time.Duration) {
	b.Helper()
	statement := "REFRESH MATERIALIZED VIEW small"
	if method == refresh.Concurrently {
		statement = "REFRESH MATERIALIZED VIEW CONCURRENTLY small"
	}
	timed := func(f func(context.Context) error) time.Duration {
		start := time.Now()
		if err := f(b.Context()); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	for range rounds {
		bare = append(bare, timed(func(ctx context.Context) error {
			_, err := pool.Exec(ctx, statement)
			return err
		}))
		recorded = append(recorded, timed(func(ctx context.Context) error {
			_, err := refresher.Refresh(ctx, refresh.Request{View: "small", Method: method, Trigger: refresh.TriggerManual, LockTimeout: time.Second})
			return err
		}))
	}
	return bare, recorded
}

func report(b *testing.B, method refresh.Method, bare, recorded []time.Duration) {
	b.Helper()
	reference, ours := median(bare), median(recorded)
	b.ReportMetric(float64(ours-reference)/float64(time.Millisecond), "ms-more")
	fmt.Printf("\nbench: recorded-%s ours=%s reference=%s ratio=%.2f more=%s\n", method,
		ours.Round(time.Microsecond), reference.Round(time.Microsecond), float64(ours)/float64(reference), (ours - reference).Round(time.Microsecond))
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
