package publish

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Counters count the refreshes of this process. The series of every scheduled view
// start at 0, so that a rate sees the first failure.
type Counters struct {
	byOutcome map[string]*prometheus.CounterVec
	duration  *prometheus.HistogramVec

	mu        sync.Mutex
	scheduled map[string]bool // by label
}

// NewCounters registers the counters.
func NewCounters(reg prometheus.Registerer) *Counters {
	counter := func(name, help string) *prometheus.CounterVec {
		return promauto.With(reg).NewCounterVec(prometheus.CounterOpts{Name: "matview_" + name, Help: help}, []string{viewLabel})
	}
	return &Counters{
		byOutcome: map[string]*prometheus.CounterVec{
			"succeeded": counter("refreshes_total", "Refreshes by this process that succeeded"),
			"failed":    counter("refresh_failures_total", "Refreshes by this process that failed"),
			"skipped":   counter("refreshes_skipped_total", "Refreshes by this process that were skipped because nothing had changed"),
		},
		duration: promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
			Name: "matview_refresh_duration_seconds", Help: "How long the refreshes by this process that succeeded took",
			Buckets:                     []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, []string{"method"}),
	}
}

// Init creates the series of every scheduled view, and deletes those of views that
// are no longer scheduled.
func (c *Counters) Init(views []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.scheduled
	c.scheduled = make(map[string]bool, len(views))
	for _, view := range views {
		c.scheduled[labelValue(view)] = true
	}
	for _, counter := range c.byOutcome {
		for view := range before {
			if !c.scheduled[view] {
				counter.DeleteLabelValues(view)
			}
		}
		for view := range c.scheduled {
			counter.WithLabelValues(view)
		}
	}
}

// Observe counts one attempt, whose outcome is as the history names it. duration is
// used only if it succeeded.
func (c *Counters) Observe(view, method, outcome string, duration time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	view = labelValue(view)
	if !c.scheduled[view] {
		return // its schedule was removed while it ran
	}
	if outcome == "succeeded" {
		c.duration.WithLabelValues(method).Observe(duration.Seconds())
	}
	if counter := c.byOutcome[outcome]; counter != nil {
		counter.WithLabelValues(view).Inc()
	}
}
