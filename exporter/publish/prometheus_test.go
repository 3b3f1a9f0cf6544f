package publish_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

func installed(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "installed", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `CREATE MATERIALIZED VIEW fresh AS SELECT 1 AS x; CREATE MATERIALIZED VIEW never AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW nobody_asked AS SELECT 1 AS x;
INSERT INTO materialized_view_refresh_schedule (view_name, every, enabled) VALUES ('fresh', '1 h', true), ('never', '1 h', false)`)
		return err
	})
}

func refreshed(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), refresh.Request{
		View: "fresh", Trigger: refresh.TriggerManual, LockTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// gather is every sample by its name and view.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			samples[f.GetName()+labels(m)] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return samples
}

func labels(m *dto.Metric) string {
	var s string
	for _, l := range m.GetLabel() {
		s += "/" + l.GetValue()
	}
	return s
}

func scrapes(db postgres.Querier) *publish.Scrapes {
	return &publish.Scrapes{
		Process: prometheus.NewRegistry(), Reader: freshness.NewReader(db, "public", 5*time.Second, time.Now),
		Timeout: 5 * time.Second, Logger: slog.New(slog.DiscardHandler),
	}
}

func collector(t *testing.T, db postgres.Querier) prometheus.Gatherer {
	t.Helper()
	return scrapes(db).Gatherer(t.Context())
}

func TestGauges(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	refreshed(t, pool)
	reg := collector(t, pool)
	got := gather(t, reg)
	now := float64(time.Now().Unix())
	for name, between := range map[string][2]float64{
		"matview_up":                                   {1, 1},
		"matview_stale/fresh":                          {0, 0},
		"matview_stale/never":                          {1, 1},
		"matview_schedule_enabled/fresh":               {1, 1},
		"matview_schedule_enabled/never":               {0, 0},
		"matview_staleness_seconds/fresh":              {0.0001, 60},
		"matview_max_staleness_seconds/fresh":          {7200, 7201},
		"matview_last_refresh_timestamp_seconds/fresh": {now - 60, now + 1},
		"matview_data_as_of_timestamp_seconds/fresh":   {now - 60, now + 1},
		"matview_last_refresh_duration_seconds/fresh":  {0.001, 10},
		"matview_consecutive_failures/never":           {0, 0},
		"matview_refresh_in_progress/fresh":            {0, 0},
		"matview_size_bytes/fresh":                     {1, 1 << 20},
	} {
		if v, found := got[name]; !found || v < between[0] || v > between[1] {
			t.Errorf("%s = %v (found: %v), want it within %v", name, v, found, between)
		}
	}
	for name := range got {
		if strings.HasSuffix(name, "/nobody_asked") || name == "matview_staleness_seconds/never" || name == "matview_total_jobs/fresh" {
			t.Errorf("%s: an unknown value must have no sample", name)
		}
	}
}

func TestNamesAreClean(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	refreshed(t, pool)
	reg := prometheus.NewPedanticRegistry()
	publish.NewCounters(reg).Init([]string{"fresh"})
	publish.NewMetrics(reg, "cloudwatch")
	problems, err := testutil.GatherAndLint(prometheus.Gatherers{reg, collector(t, pool)})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestDroppedViewsLeaveNoSeries(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	reg := collector(t, pool)
	if _, found := gather(t, reg)["matview_stale/never"]; !found {
		t.Fatal("no series at first")
	}
	db.Exec(t, `DROP MATERIALIZED VIEW never; DELETE FROM materialized_view_refresh_schedule WHERE view_name = 'never'`)
	if _, found := gather(t, reg)["matview_stale/never"]; found {
		t.Error("the series of a dropped view stays")
	}
}

func TestDatabaseAway(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	refreshed(t, pool)
	reg := collector(t, pool)
	before := gather(t, reg)
	pool.Close()
	after := gather(t, reg)
	if after["matview_up"] != 0 {
		t.Error("matview_up is not 0")
	}
	stamp := "matview_data_as_of_timestamp_seconds/fresh"
	if before[stamp] == 0 || after[stamp] != before[stamp] {
		t.Errorf("last known as-of: %v before, %v after", before[stamp], after[stamp])
	}
	if age := "matview_staleness_seconds/fresh"; after[age] <= before[age] {
		t.Errorf("staleness does not grow: %v before, %v after", before[age], after[age])
	}
}

func TestDatabaseNeverThere(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/x")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if got := gather(t, collector(t, pool)); len(got) != 1 || got["matview_up"] != 0 {
		t.Errorf("%v", got)
	}
}

// slow counts statements and blocks each until the test releases it.
type slow struct {
	*pgxpool.Pool
	statements atomic.Int32
	begun, let chan struct{}
}

func (s *slow) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	s.statements.Add(1)
	s.begun <- struct{}{}
	<-s.let
	return s.Pool.Query(ctx, sql, args...)
}

func TestOverlappingScrapesShareAStatement(t *testing.T) {
	db := &slow{Pool: installed(t).Pool(t), begun: make(chan struct{}, 10), let: make(chan struct{})}
	c := collector(t, db)
	var scrapes sync.WaitGroup
	scrape := func() {
		scrapes.Go(func() {
			if n, err := testutil.GatherAndCount(c, "matview_up"); n != 1 || err != nil {
				t.Errorf("%d samples of matview_up, %v", n, err)
			}
		})
	}
	scrape()
	<-db.begun
	for range 4 {
		scrape()
	}
	close(db.let)
	scrapes.Wait()
	if n := db.statements.Load(); n > 5 || n < 1 {
		t.Errorf("%d statements", n)
	}
}

func TestCounters(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	c := publish.NewCounters(reg)
	c.Init([]string{"caf\xe9"})
	c.Init([]string{"a", "b"})
	c.Observe("a", "concurrently", "succeeded", time.Second)
	c.Observe("a", "auto", "failed", time.Second)
	c.Observe("gone", "auto", "failed", time.Second)
	got := gather(t, reg)
	for name, want := range map[string]float64{
		"matview_refreshes_total/a": 1, "matview_refresh_failures_total/a": 1, "matview_refreshes_total/b": 0, "matview_refreshes_skipped_total/b": 0,
		"matview_refresh_duration_seconds/concurrently": 1,
	} {
		if v, found := got[name]; !found || v != want {
			t.Errorf("%s = %v (found: %v), want %v", name, v, found, want)
		}
	}
	c.Init([]string{"b"})
	for name := range gather(t, reg) {
		if strings.HasSuffix(name, "/a") {
			t.Errorf("after a's schedule is gone: %s", name)
		}
	}
}

// TestDurationHistogram: the histogram is both native and classic, with the label
// method only.
func TestDurationHistogram(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	c := publish.NewCounters(reg)
	c.Init([]string{"a", "b"})
	c.Observe("a", "blocking", "succeeded", 70*time.Millisecond)
	c.Observe("b", "blocking", "succeeded", 40*time.Second)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "matview_refresh_duration_seconds" {
			continue
		}
		if len(f.Metric) != 1 || len(f.Metric[0].Label) != 1 || f.Metric[0].Label[0].GetName() != "method" {
			t.Fatalf("series: %v", f.Metric)
		}
		h := f.Metric[0].GetHistogram()
		if len(h.GetPositiveSpan()) == 0 || h.GetSampleCount() != 2 {
			t.Errorf("no native histogram: %v", h)
		}
		for _, b := range h.GetBucket() {
			want := uint64(0)
			if b.GetUpperBound() >= 0.07 {
				want = 1
			}
			if b.GetUpperBound() >= 40 {
				want = 2
			}
			if b.GetCumulativeCount() != want {
				t.Errorf("bucket %v has %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
			}
		}
		if len(h.GetBucket()) == 0 {
			t.Error("no classic buckets")
		}
		return
	}
	t.Error("no histogram")
}
