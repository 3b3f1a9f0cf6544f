package provider

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

const (
	benchRows    = 1_000_000
	benchReaders = 8
	benchSwaps   = 9
	benchStall   = 50 * time.Millisecond // that a reader may wait at the most
	benchQuery   = "SELECT id, 'row ' || id AS name, id %% 100 AS status, %d + amount AS amount FROM source"
)

// BenchmarkSwap compares a recorded replacement of a definition, while readers
// query the view in a loop, with DROP, CREATE and CREATE INDEX, while as many
// readers query a copy of the view: those of the view itself would only wait. Of
// the times the median counts, of the stalls the longest; "elsewhere" is that of the
// readers of the copy, which nothing locks. The server writes through to the disk.
func BenchmarkSwap(b *testing.B) {
	server, err := postgrestest.Start(b.Context(), postgrestest.Options{Settings: map[string]string{"fsync": "on", "full_page_writes": "on"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Stop() })
	pool, err := pgxpool.New(b.Context(), server.URL("postgres"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	setUpSwap(b, pool)
	c := &client{pool: pool, logSchema: "public"}
	var ours, reference []time.Duration
	var stall, elsewhere time.Duration
	reads := 0
	for n := range benchSwaps {
		took, other := withReaders(b, server.URL("postgres"), "same", func() error {
			_, err := pool.Exec(b.Context(), "BEGIN; DROP MATERIALIZED VIEW replaced; CREATE MATERIALIZED VIEW replaced AS "+
				fmt.Sprintf(benchQuery, n)+"; CREATE UNIQUE INDEX replaced_id ON replaced (id); COMMIT")
			return err
		})
		reference, elsewhere = append(reference, took), max(elsewhere, other.longest)
		took, seen := withReaders(b, server.URL("postgres"), "job_progress", func() error {
			return changeDefinition(b.Context(), c, fmt.Sprintf(benchQuery, n+1))
		})
		ours, stall, reads = append(ours, took), max(stall, seen.longest), reads+seen.reads
		if seen.err != nil {
			b.Errorf("a reader failed: %v", seen.err)
		}
	}
	o, r := median(ours), median(reference)
	fmt.Printf("\nbench: swap ours=%s reference=%s ratio=%.2f\n", o.Round(time.Millisecond), r.Round(time.Millisecond), float64(o)/float64(r))
	fmt.Printf("bench: swap-stall ours=%s reference=%s ratio=%.2f reads=%d elsewhere=%s\n", stall.Round(time.Millisecond/10), benchStall,
		float64(stall)/float64(benchStall), reads, elsewhere.Round(time.Millisecond/10))
}

func setUpSwap(b *testing.B, pool *pgxpool.Pool) {
	b.Helper()
	conn, err := pool.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	if err := migrations.Apply(b.Context(), conn.Conn(), "public"); err != nil {
		b.Fatal(err)
	}
	sql := fmt.Sprintf("CREATE TABLE source AS SELECT i AS id, i %% 977 AS amount FROM generate_series(1, %d) AS i; ANALYZE source", benchRows)
	for _, view := range []string{"job_progress", "same", "replaced"} {
		sql += "; CREATE MATERIALIZED VIEW " + view + " AS " + fmt.Sprintf(benchQuery, 0) + "; CREATE UNIQUE INDEX " + view + "_id ON " + view + " (id); ANALYZE " + view
	}
	if _, err := conn.Exec(b.Context(), sql+"; CHECKPOINT"); err != nil {
		b.Fatal(err)
	}
}

// readings are what all readers saw.
type readings struct {
	mu      sync.Mutex
	longest time.Duration
	reads   int
	err     error
}

// withReaders measures do while readers query a view.
func withReaders(b *testing.B, url, view string, do func() error) (time.Duration, *readings) {
	b.Helper()
	seen := &readings{}
	ctx, stop := context.WithCancel(b.Context())
	var wg, ready sync.WaitGroup
	ready.Add(benchReaders)
	for range benchReaders {
		wg.Go(func() { seen.read(ctx, url, view, &ready) })
	}
	ready.Wait()
	start := time.Now()
	err := do()
	took := time.Since(start)
	stop()
	wg.Wait()
	if err != nil {
		b.Fatal(err)
	}
	return took, seen
}

func (r *readings) read(ctx context.Context, url, view string, ready *sync.WaitGroup) {
	background := context.WithoutCancel(ctx)
	conn, err := pgx.Connect(background, url)
	ready.Done()
	for err == nil && ctx.Err() == nil {
		var id int
		start := time.Now()
		// No row is an error.
		err = conn.QueryRow(background, "SELECT id FROM "+view+" WHERE id = $1", 1+rand.N(benchRows)).Scan(&id)
		r.note(time.Since(start))
		time.Sleep(time.Millisecond) // a reader does something with a row
	}
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.err = err
		return
	}
	_ = conn.Close(background)
}

func (r *readings) note(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	r.longest = max(r.longest, took)
}
