package publish

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics tell how publishing to a sink goes.
type Metrics struct {
	published, failed, dropped prometheus.Counter
	waiting                    prometheus.Gauge
}

// NewMetrics registers the metrics of a sink, such as cloudwatch.
func NewMetrics(reg prometheus.Registerer, sink string) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return promauto.With(reg).NewCounter(prometheus.CounterOpts{Name: "matview_" + sink + "_" + name, Help: help})
	}
	return &Metrics{
		published: counter("publishes_total", "Calls that the service accepted"),
		failed:    counter("publish_failures_total", "Calls that failed after all retries"),
		dropped:   counter("dropped_datums_total", "Data points that were dropped: too many, too old, or refused"),
		waiting: promauto.With(reg).NewGauge(prometheus.GaugeOpts{
			Name: "matview_" + sink + "_backlog_datums", Help: "Data points that wait to be published",
		}),
	}
}
