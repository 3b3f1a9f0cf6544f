package publish_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// scrapeWithin scrapes as Prometheus does, naming its timeout, and fails the test if
// the answer takes longer.
func scrapeWithin(t *testing.T, url string, timeout time.Duration) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(timeout.Seconds(), 'f', -1, 64))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("the scrape failed: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the scrape failed: %d %v", resp.StatusCode, err)
	}
	samples := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		if i := strings.LastIndexByte(line, ' '); !strings.HasPrefix(line, "#") && i > 0 {
			samples[line[:i]], _ = strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
		}
	}
	return samples
}

// exposing serves /metrics from db; its reader alone would wait for an hour.
func exposing(t *testing.T, db postgres.Querier) (url string) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	reader := freshness.NewReader(db, "public", time.Hour, time.Now)
	server := httptest.NewServer(&publish.Scrapes{Process: prometheus.NewRegistry(), Reader: reader, Timeout: time.Hour, Logger: logger})
	t.Cleanup(server.Close)
	return server.URL
}

// TestScrapeDuringRefresh: a scrape does not wait for the lock that a blocking refresh
// has on the view, though another session does.
func TestScrapeDuringRefresh(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	refreshed(t, pool)
	url := exposing(t, pool)
	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW fresh"); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, heartbeat_at) VALUES ('fresh', 'manual', 'running', clock_timestamp())")
	reading := make(chan error, 1)
	reader := db.Connect(t)
	go func() {
		_, err := reader.Exec(context.WithoutCancel(t.Context()), "SELECT * FROM fresh")
		reading <- err
	}()
	got := scrapeWithin(t, url, 10*time.Second)
	if got["matview_up"] != 1 || got[`matview_refresh_in_progress{view="fresh"}`] != 1 || got[`matview_data_as_of_timestamp_seconds{view="fresh"}`] == 0 {
		t.Errorf("during a refresh: %v", got)
	}
	select {
	case err := <-reading:
		t.Errorf("the view is not locked: %v", err)
	default:
	}
	if _, err := holder.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := <-reading; err != nil {
		t.Error(err)
	}
}

// hanging is a database that does not answer while hangs is set.
type hanging struct {
	*pgxpool.Pool
	hangs atomic.Pointer[chan struct{}] // nil: it answers
}

func (h *hanging) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if hangs := h.hangs.Load(); hangs != nil {
		select {
		case <-*hangs:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return h.Pool.Query(ctx, sql, args...)
}

// TestScrapeTimeout: if the database hangs, matview_up is 0 within the timeout that
// Prometheus names, and the staleness of what was known keeps growing.
func TestScrapeTimeout(t *testing.T) {
	db := &hanging{Pool: installed(t).Pool(t)}
	refreshed(t, db.Pool)
	url := exposing(t, db)
	const asOf, age = `matview_data_as_of_timestamp_seconds{view="fresh"}`, `matview_staleness_seconds{view="fresh"}`
	before := scrapeWithin(t, url, 10*time.Second)
	if before["matview_up"] != 1 || before[asOf] == 0 {
		t.Fatalf("%v", before)
	}
	hangs := make(chan struct{})
	db.hangs.Store(&hangs)
	first := scrapeWithin(t, url, 2*time.Second)
	second := scrapeWithin(t, url, 2*time.Second)
	for _, got := range []map[string]float64{first, second} {
		if got["matview_up"] != 0 || got[asOf] != before[asOf] {
			t.Errorf("while it hangs: %v", got)
		}
	}
	if !(before[age] < first[age] && first[age] < second[age]) {
		t.Errorf("staleness %v, %v, %v does not grow", before[age], first[age], second[age])
	}
	if _, found := first[`matview_refresh_in_progress{view="fresh"}`]; found {
		t.Error("nobody can know whether a refresh is in progress")
	}
	close(hangs)
	deadline := time.Now().Add(30 * time.Second)
	for scrapeWithin(t, url, 5*time.Second)["matview_up"] != 1 {
		if time.Now().After(deadline) {
			t.Fatal("the database answers again, and matview_up stays 0")
		}
	}
}
