package publish

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Scrapes serves /metrics: the freshness of every view that somebody asked about,
// from one statement a scrape, which overlapping scrapes share, and the metrics of
// the process. While the database is away it exposes what was last known, whose
// staleness keeps growing, and matview_up is 0.
type Scrapes struct {
	Process *prometheus.Registry
	Reader  *freshness.Reader
	// Timeout bounds the statement. The timeout of a scrape does so too: a database
	// that is too slow for it shows as matview_up 0, not as a failed scrape.
	Timeout time.Duration
	Logger  *slog.Logger

	away atomic.Bool // logged once an outage
}

// timeoutHeader is where Prometheus says how long it waits for a scrape.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// answerTime is kept of the scrape's timeout for sending what was read.
const answerTime = 500 * time.Millisecond

// ServeHTTP implements [http.Handler].
func (s *Scrapes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Without cancel: a client that leaves does not mean that the database is away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), min(s.Timeout, scrapeTimeout(r.Header.Get(timeoutHeader))))
	defer cancel()
	options := promhttp.HandlerOpts{Registry: s.Process, ErrorLog: slog.NewLogLogger(s.Logger.Handler(), slog.LevelError)}
	promhttp.HandlerFor(s.Gatherer(ctx), options).ServeHTTP(w, r)
}

// scrapeTimeout reads the header; without one it is no bound.
func scrapeTimeout(header string) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || seconds <= 0 || seconds > 3600 {
		return time.Hour
	}
	timeout := time.Duration(seconds * float64(time.Second))
	return max(timeout-answerTime, timeout/2)
}

// Gatherer gathers one scrape.
func (s *Scrapes) Gatherer(ctx context.Context) prometheus.Gatherer {
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.Process, scrape{s, ctx})
	return reg
}

// scrape collects the gauges of the views once.
type scrape struct {
	*Scrapes
	ctx context.Context //nolint:containedctx // Collect takes none
}

// Describe implements [prometheus.Collector].
func (s scrape) Describe(ch chan<- *prometheus.Desc) {
	ch <- upDesc
	for _, g := range gauges {
		ch <- g.desc
	}
}

// Collect implements [prometheus.Collector].
func (s scrape) Collect(ch chan<- prometheus.Metric) {
	views, err := s.Reader.Read(s.ctx)
	if wasAway := s.away.Swap(err != nil); err != nil && !wasAway {
		s.Logger.Error("cannot read freshness; metrics continue from what was last known", "err", postgres.Message(err))
	}
	ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, number(err == nil))
	for i := range views {
		v := &views[i]
		name := labelValue(v.Name)
		labels := []*dto.LabelPair{{Name: &viewLabel, Value: &name}}
		for _, g := range gauges {
			if value := g.value(v); value != nil && (err == nil || !g.live) {
				ch <- &sample{g.desc, labels, value}
			}
		}
	}
}

// sample is a [prometheus.Metric]. One from MustNewConstMetric has labels of its
// own, which makes a scrape of a thousand views about 30 % slower.
type sample struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair // shared by all gauges of the view
	value  *float64
}

func (s *sample) Desc() *prometheus.Desc { return s.desc }

func (s *sample) Write(m *dto.Metric) error {
	m.Label, m.Gauge = s.labels, &dto.Gauge{Value: s.value}
	return nil
}

// gauge is one metric of a view.
type gauge struct {
	name, help string
	// value is nil where it is unknown, which gives no sample and never 0.
	value func(v *freshness.View) *float64
	// momentary is wrong a moment later, and so is not pushed. live is known only
	// while the database answers.
	momentary, live bool
	desc            *prometheus.Desc
}

const upName, upHelp = "matview_up", "Whether the last scrape or run could read the freshness of the views (1) or the database was away (0)"

var (
	viewLabel = "view"
	upDesc    = prometheus.NewDesc(upName, upHelp, nil, nil)
)

var gauges = describe([]gauge{
	{name: "matview_last_refresh_timestamp_seconds", help: "When the last recorded refresh finished, in Unix time", value: func(v *freshness.View) *float64 { return unix(v.LastRefreshedAt) }},
	{name: "matview_data_as_of_timestamp_seconds", help: "Every commit acknowledged by then is in the view, in Unix time", value: func(v *freshness.View) *float64 { return unix(v.DataAsOf) }},
	{name: "matview_staleness_seconds", help: "Age of the data by its as-of", momentary: true, value: func(v *freshness.View) *float64 { return v.StalenessSeconds }},
	{name: "matview_max_staleness_seconds", help: "Age above which the data counts as stale", value: func(v *freshness.View) *float64 { return v.MaxStalenessSeconds }},
	{name: "matview_stale", help: "Whether the view is stale (1), also because its age is unknown, or fresh (0)", momentary: true, value: func(v *freshness.View) *float64 { return flag(v.IsStale) }},
	{name: "matview_schedule_enabled", help: "Whether the schedule of the view is enabled (1) or paused (0)", value: func(v *freshness.View) *float64 { return flag(v.Enabled) }},
	{name: "matview_last_refresh_duration_seconds", help: "How long the last recorded refresh took", value: func(v *freshness.View) *float64 { return per(v.RefreshDurationMS, 1000) }},
	{name: "matview_consecutive_failures", help: "Attempts that failed since the last that succeeded", value: func(v *freshness.View) *float64 { return per(&v.ConsecutiveFailures, 1) }},
	{name: "matview_next_refresh_timestamp_seconds", help: "When the next scheduled refresh is due, in Unix time", value: func(v *freshness.View) *float64 { return unix(v.NextRunAt) }},
	{name: "matview_total_jobs", help: "The total_jobs that the last refresh recorded", value: func(v *freshness.View) *float64 { return per(v.TotalJobs, 1) }},
	{name: "matview_total_objects", help: "The total_objects that the last refresh recorded", value: func(v *freshness.View) *float64 { return per(v.TotalObjects, 1) }},
	{name: "matview_size_bytes", help: "Size of the view with its indexes right after the last refresh", value: func(v *freshness.View) *float64 { return per(v.SizeBytes, 1) }},
	{name: "matview_refresh_in_progress", help: "Whether a refresh is running (1), by any exporter", momentary: true, live: true, value: func(v *freshness.View) *float64 { return flag(&v.RefreshInProgress) }},
})

func describe(all []gauge) []gauge {
	for i := range all {
		all[i].desc = prometheus.NewDesc(all[i].name, all[i].help, []string{viewLabel}, nil)
	}
	return all
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func flag(b *bool) *float64 {
	if b == nil {
		return nil
	}
	return new(number(*b))
}

func per(n *int64, unit float64) *float64 {
	if n == nil {
		return nil
	}
	return new(float64(*n) / unit)
}

func unix(t *time.Time) *float64 {
	if t == nil {
		return nil
	}
	return new(float64(t.UnixMicro()) / 1e6)
}

// labelValue is a view's name as a label, which must be UTF-8: a database in
// SQL_ASCII has names that are not. Their bytes are escaped, so that no two become
// one.
func labelValue(view string) string {
	if utf8.ValidString(view) {
		return view
	}
	return strconv.QuoteToASCII(view)
}
