package freshness

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Reader reads the freshness of the views that somebody asked about, for those
// who publish it. It remembers what it read: while the database is away, the
// data goes on ageing.
type Reader struct {
	db      postgres.Querier
	schema  string
	timeout time.Duration
	now     func() time.Time
	reads   singleflight.Group

	mu   sync.Mutex
	last []View
	at   time.Time
}

// NewReader makes a reader. timeout bounds its statement; now is time.Now but in
// tests.
func NewReader(db postgres.Querier, schema string, timeout time.Duration, now func() time.Time) *Reader {
	return &Reader{db: db, schema: schema, timeout: timeout, now: now}
}

// Read returns the views as they are now, from one statement, which reads that
// overlap share. On an error, also that ctx ended first, the views are what was
// last known of them, none if nothing ever was.
func (r *Reader) Read(ctx context.Context) ([]View, error) {
	read := r.reads.DoChan("", func() (any, error) { return nil, r.ask(context.WithoutCancel(ctx)) })
	var err error
	select {
	case result := <-read:
		err = result.Err
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return r.Known(), err
}

// Known is what was last read, aged until now. It asks nobody.
func (r *Reader) Known() []View {
	r.mu.Lock()
	defer r.mu.Unlock()
	passed := elapsed(r.at, r.now())
	views := make([]View, len(r.last))
	for i, v := range r.last {
		views[i] = v.after(passed)
	}
	return views
}

func (r *Reader) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	began := r.now() // what is read is at least as old as this says
	views, err := All(ctx, r.db, r.schema)
	if err != nil {
		return err
	}
	asked := views[:0]
	for _, v := range views {
		if v.Asked() {
			asked = append(asked, v)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.at = asked, began
	return nil
}

// elapsed is the time from one moment to another by whichever clock says more:
// the monotonic one stands still while a machine sleeps, the other may be set
// back. Neither may make data younger.
func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)), 0)
}

// after is the view when d has passed and nothing more is known.
func (v View) after(d time.Duration) View {
	if v.StalenessSeconds != nil {
		age := *v.StalenessSeconds + d.Seconds()
		v.StalenessSeconds = &age
		if v.MaxStalenessSeconds != nil && age > *v.MaxStalenessSeconds && v.IsStale != nil && !*v.IsStale {
			stale, reason := true, "older_than_max_staleness"
			v.IsStale, v.StaleReason = &stale, &reason
		}
	}
	if v.SecondsSinceRefresh != nil {
		age := *v.SecondsSinceRefresh + d.Seconds()
		v.SecondsSinceRefresh = &age
	}
	return v
}
