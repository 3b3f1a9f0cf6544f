package publish_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// benchViews is the number of views of the target; benchScrapes is how often each side
// is scraped, in turn, so that both see the same load.
const (
	benchViews   = 1000
	benchScrapes = 100
)

// thousandViews is a database of so many views, each scheduled and with the
// record of a refresh.
func thousandViews(tb testing.TB) *postgrestest.Database {
	tb.Helper()
	return postgrestest.NewFrom(tb, "thousand", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, fmt.Sprintf(`
DO $$ BEGIN FOR i IN 1..%d LOOP EXECUTE format('CREATE MATERIALIZED VIEW view_%%s AS SELECT 1 AS x', i); END LOOP; END $$;
INSERT INTO materialized_view_refresh_schedule (view_name, every) SELECT relname, '1 min' FROM pg_class WHERE relkind = 'm';
INSERT INTO materialized_view_refresh_log SELECT relname, date_trunc('milliseconds', clock_timestamp()), 42, 150, 1250000 FROM pg_class WHERE relkind = 'm';
INSERT INTO materialized_view_refresh_state (view_name, schedule_name, next_run_at, data_as_of, last_outcome, last_attempt_at, view_oid, view_filenode, view_xmin, logged_refreshed_at, logged_duration_ms, size_bytes)
SELECT c.relname, c.relname, now() + interval '1 min', l.last_refreshed_at - interval '42 ms', 'succeeded', l.last_refreshed_at, c.oid, c.relfilenode, c.xmin, l.last_refreshed_at, l.refresh_duration_ms, 8192
FROM pg_class AS c JOIN materialized_view_refresh_log AS l ON l.view_name = c.relname WHERE c.relkind = 'm';
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, started_at, data_as_of, finished_at, duration_ms)
SELECT view_name, 'schedule', 'succeeded', now() - g * interval '1 min', now() - g * interval '1 min', now() - g * interval '1 min', 42
FROM materialized_view_refresh_log, generate_series(1, 20) AS g;
ANALYZE`, benchViews))
		return err
	})
}

// counted counts the statements of a scrape.
type counted struct {
	*pgxpool.Pool
	statements atomic.Int32
}

func (c *counted) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.statements.Add(1)
	return c.Pool.Query(ctx, sql, args...)
}

// BenchmarkScrape compares a scrape of a thousand views, the statement counted,
// with one of as many series from a registry of fixed gauges, both over HTTP as
// Prometheus does it.
func BenchmarkScrape(b *testing.B) {
	db := thousandViews(b)
	pool := &counted{Pool: db.Pool(b)}
	views := scrapes(pool)
	static, series := fixed(b, views.Gatherer(b.Context()))
	ours := serve(b, views)
	reference := serve(b, promhttp.HandlerFor(static, promhttp.HandlerOpts{}))
	exporter := postgresExporter(b, db)
	for range b.N {
		var took [3][]time.Duration
		scrape(b, ours)
		scrape(b, reference)
		pool.statements.Store(0)
		for range benchScrapes {
			took[0] = append(took[0], scrape(b, ours))
			took[1] = append(took[1], scrape(b, reference))
			if exporter != "" {
				took[2] = append(took[2], scrape(b, exporter))
			}
		}
		o, r := median(took[0]), median(took[1])
		fmt.Printf("\nbench: scrape-%d-views ours=%s reference=%s ratio=%.2f series=%d statements=%.2f\n", benchViews, o, r,
			float64(o)/float64(r), series, float64(pool.statements.Load())/benchScrapes)
		if exporter != "" {
			e := median(took[2])
			fmt.Printf("bench: scrape-%d-views-postgres-exporter ours=%s reference=%s ratio=%.2f\n", benchViews, o, e, float64(o)/float64(e))
		}
	}
}

// fixed is a registry with the current gauges of from.
func fixed(b *testing.B, from prometheus.Gatherer) (reg *prometheus.Registry, series int) {
	b.Helper()
	families, err := from.Gather()
	if err != nil {
		b.Fatal(err)
	}
	reg = prometheus.NewRegistry()
	for _, f := range families {
		var names []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			names = append(names, l.GetName())
		}
		vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: f.GetName(), Help: f.GetHelp()}, names)
		reg.MustRegister(vec)
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			vec.WithLabelValues(values...).Set(m.GetGauge().GetValue())
			series++
		}
	}
	return reg, series
}

func serve(b *testing.B, handler http.Handler) string {
	b.Helper()
	server := httptest.NewServer(handler)
	b.Cleanup(server.Close)
	return server.URL
}

// scrape requests compressed text, as Prometheus 2 does.
func scrape(b *testing.B, url string) time.Duration {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4;q=1,*/*;q=0.1")
	req.Header.Set("Accept-Encoding", "gzip")
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < 1000 || resp.StatusCode != http.StatusOK {
		b.Fatalf("status %d, %d bytes, %v", resp.StatusCode, n, err)
	}
	return time.Since(start)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(10 * time.Microsecond)
}

// comparisonQueries have prometheus-postgres-exporter expose the same figures.
const comparisonQueries = `matview:
  query: >-
    SELECT view_name AS view, extract(epoch FROM last_refreshed_at) AS last_refresh_timestamp_seconds,
    extract(epoch FROM data_as_of) AS data_as_of_timestamp_seconds, staleness_seconds, max_staleness_seconds, is_stale::int AS stale,
    enabled::int AS schedule_enabled, refresh_duration_ms / 1000.0 AS last_refresh_duration_seconds, consecutive_failures,
    refresh_in_progress::int AS refresh_in_progress, extract(epoch FROM next_run_at) AS next_refresh_timestamp_seconds,
    total_jobs, total_objects, size_bytes
    FROM materialized_view_freshness WHERE is_stale IS NOT NULL
  metrics:
    - view: {usage: LABEL}
`

var comparisonGauges = []string{
	"last_refresh_timestamp_seconds", "data_as_of_timestamp_seconds", "staleness_seconds", "max_staleness_seconds", "stale",
	"schedule_enabled", "last_refresh_duration_seconds", "consecutive_failures", "refresh_in_progress", "next_refresh_timestamp_seconds",
	"total_jobs", "total_objects", "size_bytes",
}

// postgresExporter starts Debian's exporter beside ours; "" if it is not installed.
func postgresExporter(b *testing.B, db *postgrestest.Database) (url string) {
	b.Helper()
	program, err := exec.LookPath("prometheus-postgres-exporter")
	if err != nil {
		b.Log("prometheus-postgres-exporter is not installed: no comparison with it")
		return ""
	}
	queries := comparisonQueries
	for _, name := range comparisonGauges {
		queries += "    - " + name + ": {usage: GAUGE, description: as ours}\n"
	}
	file := filepath.Join(b.TempDir(), "queries.yml")
	if err := os.WriteFile(file, []byte(queries), 0o600); err != nil {
		b.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	cmd := exec.CommandContext(b.Context(), program, "--web.listen-address="+address, "--extend.query-path="+file,
		"--disable-default-metrics", "--disable-settings-metrics")
	cmd.Env = append(os.Environ(), "DATA_SOURCE_NAME="+db.URL())
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	url = "http://" + address + "/metrics"
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		body := get(b, url)
		if strings.Count(body, "\nmatview_staleness_seconds{") == benchViews {
			return url
		}
		if time.Now().After(deadline) {
			b.Fatalf("prometheus-postgres-exporter has not the %d views: %.2000s", benchViews, body)
		}
	}
}

func get(b *testing.B, url string) string {
	b.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}
