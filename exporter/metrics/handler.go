package metrics

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// timeoutHeader is where Prometheus says how long it waits for a scrape.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// answerTime is kept of the scrape's timeout for sending what was read.
const answerTime = 500 * time.Millisecond

// Handler serves the views of the collector and the metrics of the process,
// which have no name in common. It answers within the timeout of the scrape: a
// database that is too slow for it shows as matview_up 0, not as a failed scrape.
func Handler(process *prometheus.Registry, views *Collector, logger *slog.Logger) http.Handler {
	options := promhttp.HandlerOpts{Registry: process, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelError)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scrape := views.Within(scrapeTimeout(r.Header.Get(timeoutHeader)))
		promhttp.HandlerFor(both(process, scrape), options).ServeHTTP(w, r)
	})
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

// both gathers from two sources. prometheus.Gatherers would check each metric
// once more.
func both(a, b prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := a.Gather()
		more, moreErr := b.Gather()
		families = append(families, more...)
		slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
		return families, errors.Join(err, moreErr)
	})
}
