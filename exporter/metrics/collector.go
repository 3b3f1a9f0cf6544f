// Package metrics publishes freshness to Prometheus.
package metrics

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Collector shows the freshness of every view that somebody asked about, from
// one statement a scrape, which scrapes that overlap share. While the database
// is away it goes on with what was last known, of which staleness keeps
// growing, and matview_up is 0.
type Collector struct {
	reader  *freshness.Reader
	timeout time.Duration
	logger  *slog.Logger
	away    *atomic.Bool // said once an outage
}

// New makes a collector. timeout bounds a scrape that names none of its own.
func New(reader *freshness.Reader, timeout time.Duration, logger *slog.Logger) *Collector {
	return &Collector{reader: reader, timeout: timeout, logger: logger, away: &atomic.Bool{}}
}

// Within is the same collector for a scrape that waits no longer than timeout.
func (c *Collector) Within(timeout time.Duration) *Collector {
	within := *c
	within.timeout = min(c.timeout, timeout)
	return &within
}

// gauge is one metric of a view; value is nil where it is unknown, which gives
// no sample and never 0.
type gauge struct {
	name, help string
	value      func(v freshness.View) *float64
}

var gauges = []gauge{
	{"matview_last_refresh_timestamp_seconds", "When the last recorded refresh finished, in Unix time", func(v freshness.View) *float64 {
		return unix(v.LastRefreshedAt)
	}},
	{"matview_data_as_of_timestamp_seconds", "Every commit acknowledged by then is in the view, in Unix time", func(v freshness.View) *float64 {
		return unix(v.DataAsOf)
	}},
	{"matview_staleness_seconds", "Age of the data by its as-of", func(v freshness.View) *float64 {
		return v.StalenessSeconds
	}},
	{"matview_max_staleness_seconds", "Age above which the data counts as stale", func(v freshness.View) *float64 {
		return v.MaxStalenessSeconds
	}},
	{"matview_stale", "Whether the view is stale (1), also because its age is unknown, or fresh (0)", func(v freshness.View) *float64 {
		if v.IsStale == nil {
			return nil
		}
		return flag(*v.IsStale)
	}},
	{"matview_schedule_enabled", "Whether the schedule of the view is enabled (1) or paused (0)", func(v freshness.View) *float64 {
		if v.Enabled == nil {
			return nil
		}
		return flag(*v.Enabled)
	}},
	{"matview_last_refresh_duration_seconds", "How long the last recorded refresh took", func(v freshness.View) *float64 {
		if v.RefreshDurationMS == nil {
			return nil
		}
		return value(float64(*v.RefreshDurationMS) / 1000)
	}},
	{"matview_consecutive_failures", "Attempts that failed since the last that succeeded", func(v freshness.View) *float64 {
		return value(float64(v.ConsecutiveFailures))
	}},
	{"matview_next_refresh_timestamp_seconds", "When the next scheduled refresh is due, in Unix time", func(v freshness.View) *float64 {
		return unix(v.NextRunAt)
	}},
	{"matview_total_jobs", "The total_jobs that the last refresh recorded", func(v freshness.View) *float64 {
		return whole(v.TotalJobs)
	}},
	{"matview_total_objects", "The total_objects that the last refresh recorded", func(v freshness.View) *float64 {
		return whole(v.TotalObjects)
	}},
	{"matview_size_bytes", "Size of the view with its indexes right after the last refresh", func(v freshness.View) *float64 {
		return whole(v.SizeBytes)
	}},
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

const upHelp = "Whether the last scrape or run could read the freshness of the views (1) or the database was away (0)"

// Not among the gauges: while the database is away nobody knows.
var inProgress = gauge{"matview_refresh_in_progress", "Whether a refresh is running (1), by any exporter", func(v freshness.View) *float64 {
	return flag(v.RefreshInProgress)
}}

// Gather implements [prometheus.Gatherer]. A registry, which checks and sorts
// each of thousands of samples, would double what a scrape costs: here no two
// can be alike, since they come from rows with names of their own, in order.
func (c *Collector) Gather() ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	views, err := c.reader.Read(ctx)
	if wasAway := c.away.Swap(err != nil); err != nil && !wasAway {
		c.logger.Error("cannot read freshness; metrics go on from what was last known", "err", postgres.Message(err))
	}
	shown := gauges
	if err == nil {
		shown = append(slices.Clone(gauges), inProgress)
	}
	labels := make([][]*dto.LabelPair, len(views))
	for i, v := range views {
		labels[i] = viewLabel(v.Name)
	}
	families := []*dto.MetricFamily{{
		Name: new("matview_up"), Help: new(upHelp),
		Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: flag(err == nil)}}},
	}}
	for _, g := range shown {
		if family := g.family(views, labels); len(family.Metric) > 0 {
			families = append(families, family)
		}
	}
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return families, nil
}

func (g gauge) family(views []freshness.View, labels [][]*dto.LabelPair) *dto.MetricFamily {
	family := &dto.MetricFamily{Name: &g.name, Help: &g.help, Type: dto.MetricType_GAUGE.Enum(), Metric: make([]*dto.Metric, 0, len(views))}
	for i, v := range views {
		if n := g.value(v); n != nil {
			family.Metric = append(family.Metric, &dto.Metric{Label: labels[i], Gauge: &dto.Gauge{Value: n}})
		}
	}
	return family
}

var viewLabelName = "view"

// viewLabel are the labels that all gauges of a view share.
func viewLabel(name string) []*dto.LabelPair {
	name = label(name)
	return []*dto.LabelPair{{Name: &viewLabelName, Value: &name}}
}
