// Package metrics publishes freshness to Prometheus.
package metrics

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Collector reads the freshness of every view that somebody asked about, with
// one statement a scrape. Scrapes that overlap share it. While the database is
// away it goes on with what was last known, of which staleness keeps growing,
// and matview_up is 0.
type Collector struct {
	db      freshness.Querier
	schema  string
	timeout time.Duration
	logger  *slog.Logger
	reads   singleflight.Group

	mu   sync.Mutex
	last snapshot
}

// snapshot is what one statement read. readAt is by this process's monotonic
// clock, so that a stepped wall clock makes no data younger.
type snapshot struct {
	views  []freshness.View
	readAt time.Time
	up     bool
}

// New makes a collector. timeout bounds the statement of a scrape.
func New(db freshness.Querier, schema string, timeout time.Duration, logger *slog.Logger) *Collector {
	return &Collector{db: db, schema: schema, timeout: timeout, logger: logger}
}

// gauge is one metric of a view; value is nil where it is unknown, which gives
// no sample and never 0.
type gauge struct {
	desc  *prometheus.Desc
	value func(v freshness.View, sinceRead time.Duration) *float64
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("matview_"+name, help, labels, nil)
}

var up = describe("up", "Whether the last scrape could read the freshness of the views (1) or the database was away (0)")

// Not among the gauges: while the database is away nobody knows.
var inProgress = describe("refresh_in_progress", "Whether a refresh is running (1), by any exporter", "view")

var gauges = []gauge{
	{describe("last_refresh_timestamp_seconds", "When the last recorded refresh finished, in Unix time", "view"), func(v freshness.View, _ time.Duration) *float64 {
		return unix(v.LastRefreshedAt)
	}},
	{describe("data_as_of_timestamp_seconds", "Every commit acknowledged by then is in the view, in Unix time", "view"), func(v freshness.View, _ time.Duration) *float64 {
		return unix(v.DataAsOf)
	}},
	{describe("staleness_seconds", "Age of the data by its as-of", "view"), func(v freshness.View, sinceRead time.Duration) *float64 {
		if v.StalenessSeconds == nil {
			return nil
		}
		return value(*v.StalenessSeconds + sinceRead.Seconds())
	}},
	{describe("max_staleness_seconds", "Age above which the data counts as stale", "view"), func(v freshness.View, _ time.Duration) *float64 {
		return v.MaxStalenessSeconds
	}},
	{describe("stale", "Whether the view is stale (1), also because its age is unknown, or fresh (0)", "view"), isStale},
	{describe("schedule_enabled", "Whether the schedule of the view is enabled (1) or paused (0)", "view"), func(v freshness.View, _ time.Duration) *float64 {
		if v.Enabled == nil {
			return nil
		}
		return flag(*v.Enabled)
	}},
	{describe("last_refresh_duration_seconds", "How long the last recorded refresh took", "view"), func(v freshness.View, _ time.Duration) *float64 {
		if v.RefreshDurationMS == nil {
			return nil
		}
		return value(float64(*v.RefreshDurationMS) / 1000)
	}},
	{describe("consecutive_failures", "Attempts that failed since the last that succeeded", "view"), func(v freshness.View, _ time.Duration) *float64 {
		return value(float64(v.ConsecutiveFailures))
	}},
	{describe("next_refresh_timestamp_seconds", "When the next scheduled refresh is due, in Unix time", "view"), func(v freshness.View, _ time.Duration) *float64 {
		return unix(v.NextRunAt)
	}},
	{describe("total_jobs", "The total_jobs that the last refresh recorded", "view"), func(v freshness.View, _ time.Duration) *float64 {
		return whole(v.TotalJobs)
	}},
	{describe("total_objects", "The total_objects that the last refresh recorded", "view"), func(v freshness.View, _ time.Duration) *float64 {
		return whole(v.TotalObjects)
	}},
	{describe("size_bytes", "Size of the view with its indexes right after the last refresh", "view"), func(v freshness.View, _ time.Duration) *float64 {
		return whole(v.SizeBytes)
	}},
}

// isStale turns 1 by itself while the database is away.
func isStale(v freshness.View, sinceRead time.Duration) *float64 {
	if v.IsStale == nil {
		return nil
	}
	outgrown := v.StalenessSeconds != nil && v.MaxStalenessSeconds != nil && *v.StalenessSeconds+sinceRead.Seconds() > *v.MaxStalenessSeconds
	return flag(*v.IsStale || outgrown)
}

func value(f float64) *float64 { return &f }

func flag(b bool) *float64 {
	if b {
		return value(1)
	}
	return value(0)
}

func whole(n *int64) *float64 {
	if n == nil {
		return nil
	}
	return value(float64(*n))
}

func unix(t *time.Time) *float64 {
	if t == nil {
		return nil
	}
	return value(float64(t.UnixMicro()) / 1e6)
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	descs <- up
	descs <- inProgress
	for _, g := range gauges {
		descs <- g.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	now := c.read()
	metrics <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, *flag(now.up))
	sinceRead := time.Since(now.readAt)
	for _, v := range now.views {
		view := label(v.Name)
		for _, g := range gauges {
			if n := g.value(v, sinceRead); n != nil {
				metrics <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, *n, view)
			}
		}
		if now.up {
			metrics <- prometheus.MustNewConstMetric(inProgress, prometheus.GaugeValue, *flag(v.RefreshInProgress), view)
		}
	}
}

// read asks the database, once for all scrapes that wait meanwhile.
func (c *Collector) read() snapshot {
	result, _, _ := c.reads.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
		defer cancel()
		began := time.Now() // of what is read, staleness is at least as old as this
		views, err := freshness.All(ctx, c.db, c.schema)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			if c.last.up || c.last.readAt.IsZero() {
				c.logger.Error("cannot read freshness; metrics go on from what was last known", "err", postgres.Message(err))
			}
			c.last.up = false
			if c.last.readAt.IsZero() {
				c.last.readAt = began
			}
			return c.last, nil
		}
		c.last = snapshot{readAt: began, up: true}
		for _, v := range views {
			if v.Asked() {
				c.last.views = append(c.last.views, v)
			}
		}
		return c.last, nil
	})
	now, _ := result.(snapshot)
	return now
}
