// Package cloudwatch publishes freshness to Amazon CloudWatch, by its API or as
// Embedded Metric Format on standard output.
package cloudwatch

import "github.com/prometheus/client_golang/prometheus"

// Metrics tell how publishing itself goes.
type Metrics struct {
	published, failed, dropped prometheus.Counter
	backlog                    prometheus.Gauge
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "matview_cloudwatch_" + name, Help: help})
	}
	m := &Metrics{
		published: counter("publishes_total", "Calls of PutMetricData that CloudWatch took"),
		failed:    counter("publish_failures_total", "Calls of PutMetricData that failed, each after its retries"),
		dropped:   counter("dropped_datums_total", "Datums that were given up: too many, too old, or refused"),
		backlog: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "matview_cloudwatch_backlog_datums", Help: "Datums that wait to be published",
		}),
	}
	reg.MustRegister(m.published, m.failed, m.dropped, m.backlog)
	return m
}
