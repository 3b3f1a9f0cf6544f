package scheduler

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// dependenciesTTL is how long dependencies are cached. Meanwhile a view may be
// replaced by one that reads others: that costs one refresh out of order, with the
// as-of that it really has.
const dependenciesTTL = 30 * time.Second

// dependencies caches which materialized view reads which. It is safe for
// concurrent use.
type dependencies struct {
	pool  *pgxpool.Pool
	store *store.Store

	mu     sync.Mutex
	reads  refresh.Reads
	readAt time.Time
	// readers[i] reads upstreams[i], also through other materialized views.
	readers, upstreams []string
}

func newDependencies(pool *pgxpool.Pool, tables *store.Store) *dependencies {
	return &dependencies{pool: pool, store: tables}
}

// refresh reads the dependencies unless the cache is fresh; read is whether it did.
func (d *dependencies) refresh(ctx context.Context) (read bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.readAt) < dependenciesTTL {
		return false, nil
	}
	reads, err := refresh.ReadReads(ctx, d.pool, d.store.Schema())
	if err != nil {
		return false, err
	}
	d.reads, d.readAt = reads, time.Now()
	d.readers, d.upstreams = nil, nil
	for view := range reads {
		for _, upstream := range reads.Upstreams(view) {
			d.readers, d.upstreams = append(d.readers, view), append(d.upstreams, upstream)
		}
	}
	return true, nil
}

func (d *dependencies) invalidate() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readAt = time.Time{}
}

// of are all views that one reads, each after those that it reads itself.
func (d *dependencies) of(view string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads.Upstreams(view)
}

// waiting says which views wait for which, for as long as longest.
func (d *dependencies) waiting(longest time.Duration) store.Waiting {
	d.mu.Lock()
	defer d.mu.Unlock()
	return store.Waiting{Readers: d.readers, Upstreams: d.upstreams, Longest: longest}
}
