package cloudwatch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/cloudwatch"
	"github.com/matview/terraform-provider-matview/internal/cloudwatchtest"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// clock is one that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 30, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var errAway = errors.New("the database is away")

// database is what the publisher asks; a test says how it answers.
type database struct {
	*postgrestest.Database
	freshness.Querier
	away     bool
	taken    bool // the minute, by another replica
	attempts []cloudwatch.Attempt
}

func (d *database) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if d.away {
		return nil, errAway
	}
	return d.Querier.Query(ctx, sql, args...)
}

// claim leaves the attempts where they are until they are confirmed.
func (d *database) claim(context.Context, string) (*cloudwatch.Claimed, time.Duration, error) {
	if d.away {
		return nil, 0, errAway
	}
	if d.taken {
		return nil, 0, nil
	}
	attempts := d.attempts
	return &cloudwatch.Claimed{Attempts: attempts, Until: time.Now().Add(time.Minute), Confirm: func(context.Context) error {
		d.attempts = d.attempts[len(attempts):]
		return nil
	}}, 0, nil
}

// published is a publisher with all that it talks to.
type published struct {
	*cloudwatch.Publisher
	service *cloudwatchtest.Service
	clock   *clock
	db      *database
	reg     *prometheus.Registry
}

func installed(tb testing.TB) *postgrestest.Database {
	tb.Helper()
	return postgrestest.NewFrom(tb, "installed", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; CREATE MATERIALIZED VIEW never AS SELECT 1 AS x;
INSERT INTO materialized_view_refresh_schedule (view_name, every, max_staleness) VALUES ('v', '1 min', '5 min'), ('never', '1 min', '5 min');
INSERT INTO materialized_view_refresh_log VALUES ('v', now(), 1000, 150, 1250000)`)
		return err
	})
}

func newPublisher(tb testing.TB, change func(*cloudwatch.Options)) *published {
	tb.Helper()
	tb.Setenv("AWS_ACCESS_KEY_ID", "test")
	tb.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	tb.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	tb.Setenv("AWS_CONFIG_FILE", "/dev/null")
	tb.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	p := &published{clock: newClock(), reg: prometheus.NewRegistry()}
	p.service = &cloudwatchtest.Service{Now: p.clock.Now}
	server := httptest.NewServer(p.service)
	tb.Cleanup(server.Close)
	tb.Cleanup(server.CloseClientConnections)
	db := installed(tb)
	p.db = &database{Database: db, Querier: db.Pool(tb)}
	api, err := cloudwatch.NewAPI(tb.Context(), "eu-central-1", server.URL)
	if err != nil {
		tb.Fatal(err)
	}
	o := cloudwatch.Options{
		Namespace: "S3Scanner", API: api, Counts: cloudwatch.NewMetrics(p.reg), Logger: slog.New(slog.DiscardHandler), Now: p.clock.Now,
		Reader: freshness.NewReader(p.db, "public", 5*time.Second, p.clock.Now), Claim: p.db.claim,
	}
	if change != nil {
		change(&o)
	}
	if p.Publisher, err = cloudwatch.New(o); err != nil {
		tb.Fatal(err)
	}
	return p
}

// minute is one round of the publisher, and then a minute passes.
func (p *published) minute(tb testing.TB) {
	tb.Helper()
	p.Collect(tb.Context())
	p.Flush(tb.Context())
	p.clock.pass(time.Minute)
}

func (p *published) counter(tb testing.TB, name string) float64 {
	tb.Helper()
	families, err := p.reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "matview_cloudwatch_"+name {
			return f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	tb.Fatalf("no metric %s", name)
	return 0
}

// short is a datum in a line.
func short(d cloudwatchtest.Datum) string {
	return fmt.Sprintf("%s %s{%s}=%v %s", d.At.Format("15:04"), d.Metric, d.Dimensions["ViewName"], d.Values, d.Unit)
}
