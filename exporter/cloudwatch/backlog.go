package cloudwatch

import (
	"slices"
	"sync"
	"time"
)

const (
	// maxBacklog bounds what is kept through an outage; the oldest goes first.
	// It is half an hour of a thousand views, and months of one.
	maxBacklog = 100_000
	// maxAge is what CloudWatch takes, two weeks, less the time that it may take
	// to get there.
	maxAge = 14*24*time.Hour - time.Hour
)

// backlog is what waits to be published, the oldest first.
type backlog struct {
	metrics *Metrics
	most    int

	mu   sync.Mutex
	data []datum
}

func (b *backlog) add(data []datum) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, data...)
	b.bound()
}

// take removes up to n of the oldest that CloudWatch would still take at now.
func (b *backlog) take(n int, now time.Time) []datum {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := len(b.data)
	b.data = slices.DeleteFunc(b.data, func(d datum) bool { return now.Sub(d.at) > maxAge })
	b.metrics.dropped.Add(float64(before - len(b.data)))
	n = min(n, len(b.data))
	taken := slices.Clone(b.data[:n])
	b.data = slices.Delete(b.data, 0, n)
	b.metrics.backlog.Set(float64(len(b.data)))
	return taken
}

// putBack returns to the front what could not be published.
func (b *backlog) putBack(data []datum) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = slices.Concat(data, b.data)
	b.bound()
}

func (b *backlog) bound() {
	if over := len(b.data) - b.most; over > 0 {
		b.data = slices.Delete(b.data, 0, over)
		b.metrics.dropped.Add(float64(over))
	}
	b.metrics.backlog.Set(float64(len(b.data)))
}
