package refresh_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

const (
	largeRows    = 1_000_000 // of the view; its table has three times as many
	largeRounds  = 3         // of which the median counts, the longest of stalls
	largeReaders = 4
	largeQuery   = "SELECT id, 'task ' || id AS name, status, amount FROM tasks WHERE step = 3"
)

// BenchmarkLarge compares the methods on a view of a million rows. Its server
// writes through to the disk. One that is short of cores shows that in stalls:
// "elsewhere" is the longest read meanwhile of a view that nobody refreshes.
func BenchmarkLarge(b *testing.B) {
	l := newLarge(b)
	b.Run("limit", l.limit)
	b.Run("blocking", l.blocking)
	for _, percent := range []int{0, 1, 50} {
		b.Run(fmt.Sprintf("concurrently-%d%%", percent), func(b *testing.B) { l.changed(b, percent) })
	}
	b.Run("stall", l.stall)
}

type large struct {
	pool      *pgxpool.Pool
	refresher *refresh.Refresher
	url       string
}

func newLarge(b *testing.B) *large {
	b.Helper()
	server, err := postgrestest.Start(b.Context(), postgrestest.Options{Settings: map[string]string{
		"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "maintenance_work_mem": "256MB", "autovacuum": "off",
	}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Stop() })
	pool, err := pgxpool.New(b.Context(), server.URL("postgres"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	l := &large{pool: pool, refresher: refresh.New(pool, "public", "bench"), url: server.URL("postgres")}
	conn, err := pool.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	if err := migrations.Apply(b.Context(), conn.Conn(), "public"); err != nil {
		b.Fatal(err)
	}
	l.exec(b, "CREATE TABLE tasks (id bigint, step int, status int, amount int, PRIMARY KEY (id, step)) WITH (fillfactor = 50)")
	l.exec(b, fmt.Sprintf("INSERT INTO tasks SELECT i, s, i %% 5, i %% 977 FROM generate_series(1, %d) AS i, generate_series(1, 3) AS s", largeRows))
	l.exec(b, "VACUUM ANALYZE tasks")
	for _, view := range []string{"progress", "elsewhere"} {
		l.exec(b, "CREATE MATERIALIZED VIEW "+view+" AS "+largeQuery)
		l.exec(b, "CREATE UNIQUE INDEX ON "+view+" (id)")
		l.exec(b, "VACUUM ANALYZE "+view)
	}
	return l
}

func (l *large) exec(b *testing.B, sql string) {
	b.Helper()
	if _, err := l.pool.Exec(b.Context(), sql); err != nil {
		b.Fatal(err)
	}
}

// change updates a share of the rows, and does what both sides would otherwise
// meet at random.
func (l *large) change(b *testing.B, percent int) {
	b.Helper()
	l.exec(b, fmt.Sprintf("UPDATE tasks SET amount = amount + 1 WHERE step = 3 AND id %% 100 < %d", percent))
	l.exec(b, "VACUUM tasks")
	l.exec(b, "CHECKPOINT")
}

func (l *large) timed(b *testing.B, f func()) time.Duration {
	b.Helper()
	start := time.Now()
	f()
	return time.Since(start)
}

func (l *large) refresh(b *testing.B, method refresh.Method) {
	b.Helper()
	_, err := l.refresher.Refresh(b.Context(), refresh.Request{View: "progress", Method: method, Trigger: refresh.TriggerManual, LockTimeout: 10 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
}

// versus measures recorded swaps and a bare statement in turn.
func (l *large) versus(b *testing.B, name, statement string, percent int) {
	b.Helper()
	var ours, reference []time.Duration
	for range largeRounds {
		l.change(b, percent)
		reference = append(reference, l.timed(b, func() { l.exec(b, statement) }))
		l.change(b, percent)
		ours = append(ours, l.timed(b, func() { l.refresh(b, refresh.Swap) }))
	}
	o, r := median(ours), median(reference)
	fmt.Printf("\nbench: %s ours=%s reference=%s ratio=%.2f\n", name, o.Round(time.Millisecond), r.Round(time.Millisecond), float64(o)/float64(r))
}

// limit is what no method can undercut: the query alone, written to nowhere.
func (l *large) limit(b *testing.B) {
	for range b.N {
		l.versus(b, "swap-vs-query-alone", "SELECT count(*) FROM ("+largeQuery+" OFFSET 0) AS q", 0)
	}
}

func (l *large) blocking(b *testing.B) {
	for range b.N {
		l.versus(b, "swap-vs-blocking", "REFRESH MATERIALIZED VIEW progress", 0)
	}
}

func (l *large) changed(b *testing.B, percent int) {
	b.Helper()
	for range b.N {
		l.versus(b, fmt.Sprintf("swap-vs-concurrently-%d%%", percent), "REFRESH MATERIALIZED VIEW CONCURRENTLY progress", percent)
	}
}

func (l *large) stall(b *testing.B) {
	for range b.N {
		for _, method := range []refresh.Method{refresh.Swap, refresh.Blocking} {
			var longest, elsewhere, took time.Duration
			for range largeRounds {
				l.change(b, 1)
				stop := l.read(b)
				took = max(took, l.timed(b, func() { l.refresh(b, method) }))
				progress, other := stop()
				longest, elsewhere = max(longest, progress), max(elsewhere, other)
			}
			fmt.Printf("\nbench: stall-%s ours=%s reference=%s ratio=%.3f elsewhere=%s\n", method, longest.Round(time.Millisecond/10),
				took.Round(time.Millisecond), float64(longest)/float64(took), elsewhere.Round(time.Millisecond/10))
		}
	}
}

// read reads two views in a loop until stop, which returns the longest read of each.
func (l *large) read(b *testing.B) (stop func() (progress, elsewhere time.Duration)) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	var wg, ready sync.WaitGroup
	var mu sync.Mutex
	longest := map[string]time.Duration{}
	for reader := range 2 * largeReaders {
		view := []string{"progress", "elsewhere"}[reader%2]
		ready.Add(1)
		wg.Go(func() {
			reads, err := readInLoop(ctx, l.url, view, &ready)
			if err != nil {
				b.Errorf("a reader of %s failed: %v", view, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			longest[view] = max(longest[view], slices.Max(reads))
		})
	}
	ready.Wait()
	return func() (time.Duration, time.Duration) {
		cancel()
		wg.Wait()
		return longest["progress"], longest["elsewhere"]
	}
}

func readInLoop(ctx context.Context, url, view string, ready *sync.WaitGroup) (reads []time.Duration, err error) {
	background := context.WithoutCancel(ctx)
	conn, err := pgx.Connect(background, url)
	ready.Done()
	if err != nil {
		return nil, err
	}
	defer conn.Close(background)
	for len(reads) == 0 || ctx.Err() == nil {
		var id int
		start := time.Now()
		if err := conn.QueryRow(background, "SELECT id FROM "+view+" WHERE id = $1", 1+rand.N(largeRows)).Scan(&id); err != nil {
			return nil, err
		}
		reads = append(reads, time.Since(start))
		time.Sleep(5 * time.Millisecond) // what a reader does with a row
	}
	return reads, nil
}
