package matview

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// COMMIT waits until all WAL is on disk, with the view locked. By then, the swap has
// flushed the WAL of the build rather than leave it to the WAL writer.
func TestSwapFlushesWAL(t *testing.T) {
	server, err := postgrestest.Start(t.Context(), postgrestest.Options{Settings: map[string]string{
		"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB", "synchronous_commit": "off",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	pool, err := pgxpool.New(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pool.Exec(t.Context(), "CREATE MATERIALIZED VIEW v AS SELECT generate_series(1, 1000) AS id"); err != nil {
		t.Fatal(err)
	}
	view, err := Read(t.Context(), pool, Name{PublicSchema, "v"})
	if err != nil {
		t.Fatal(err)
	}
	var filled string
	var flushed bool
	err = swap(t, pool, Swap{
		View: view, Pool: pool,
		Filled: func(ctx context.Context, _ Name, _ uint32) error {
			return pool.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&filled)
		},
		Exchanging: func(ctx context.Context) error {
			return pool.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn", filled).Scan(&flushed)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !flushed {
		t.Error("the WAL of the build is not on disk before the view is locked")
	}
}
