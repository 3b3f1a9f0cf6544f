package metrics

import (
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// Counters count what this process has done. They exist from 0 for every
// scheduled view, so that a rate sees the first failure.
type Counters struct {
	refreshes, failures, skipped *prometheus.CounterVec
	duration                     *prometheus.HistogramVec

	mu    sync.Mutex
	views map[string]struct{}
}

// NewCounters registers the counters.
func NewCounters(reg prometheus.Registerer) *Counters {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "matview_" + name, Help: help}, []string{"view"})
	}
	c := &Counters{
		refreshes: counter("refreshes_total", "Refreshes by this process that succeeded"),
		failures:  counter("refresh_failures_total", "Refreshes by this process that failed"),
		skipped:   counter("refreshes_skipped_total", "Refreshes by this process that were skipped since nothing had changed"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "matview_refresh_duration_seconds", Help: "How long the refreshes by this process that succeeded took",
			Buckets:                     []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, []string{"method"}),
		views: map[string]struct{}{},
	}
	reg.MustRegister(c.refreshes, c.failures, c.skipped, c.duration)
	return c
}

// label is a view's name as a label, which must be UTF-8: a database in SQL_ASCII
// has names that are not. Their bytes are written out, so that no two become one.
func label(view string) string {
	if utf8.ValidString(view) {
		return view
	}
	return strconv.QuoteToASCII(view)
}

// Init makes the series of every scheduled view, and removes those of views that
// are scheduled no longer.
func (c *Counters) Init(views []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	scheduled := make(map[string]struct{}, len(views))
	for _, view := range views {
		view = label(view)
		scheduled[view] = struct{}{}
		for _, counter := range c.perView() {
			counter.WithLabelValues(view)
		}
	}
	for view := range c.views {
		if _, still := scheduled[view]; !still {
			for _, counter := range c.perView() {
				counter.DeleteLabelValues(view)
			}
		}
	}
	c.views = scheduled
}

func (c *Counters) perView() []*prometheus.CounterVec {
	return []*prometheus.CounterVec{c.refreshes, c.failures, c.skipped}
}

// Observe counts one attempt; outcome is as the history names it. duration is
// that of a refresh that succeeded.
func (c *Counters) Observe(view, method, outcome string, duration time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	view = label(view)
	if _, scheduled := c.views[view]; !scheduled {
		return // its schedule was removed while it ran
	}
	switch outcome {
	case "succeeded":
		c.refreshes.WithLabelValues(view).Inc()
		c.duration.WithLabelValues(method).Observe(duration.Seconds())
	case "skipped":
		c.skipped.WithLabelValues(view).Inc()
	default:
		c.failures.WithLabelValues(view).Inc()
	}
}
