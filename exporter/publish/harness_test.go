package publish_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/cloudwatchtest"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

// clock is a clock that tests move.
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

// database is what the publisher reads and claims from; a test sets how it answers.
type database struct {
	*postgrestest.Database
	postgres.Querier
	away     bool
	taken    bool // the minute, by another replica
	attempts []publish.Attempt
}

func (d *database) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if d.away {
		return nil, errAway
	}
	return d.Querier.Query(ctx, sql, args...)
}

// Register implements [publish.Claims].
func (d *database) Register(context.Context, string) error { return nil }

// Claim implements [publish.Claims]: the attempts stay until they are confirmed.
func (d *database) Claim(context.Context, string, bool) (*store.PublicationClaim, time.Duration, error) {
	if d.away {
		return nil, 0, errAway
	}
	if d.taken {
		return nil, 0, nil
	}
	return &store.PublicationClaim{Attempts: d.attempts, Until: time.Now().Add(time.Minute)}, 0, nil
}

// Confirm implements [publish.Claims].
func (d *database) Confirm(_ context.Context, claim *store.PublicationClaim) error {
	d.attempts = d.attempts[len(claim.Attempts):]
	return nil
}

// claimFunc are claims by a function.
type claimFunc func() (*store.PublicationClaim, time.Duration, error)

func (f claimFunc) Register(context.Context, string) error { return nil }

func (f claimFunc) Claim(context.Context, string, bool) (*store.PublicationClaim, time.Duration, error) {
	return f()
}

// options are what a test wants different about a publisher to CloudWatch.
type options struct {
	dimensions     map[string]string
	optional       []string
	plainJobsFor   string
	emf            io.Writer // in place of the API
	withoutRetries bool
	claims         publish.Claims
	sink           publish.Sink // in place of CloudWatch
	maxWaiting     int
}

// published is a publisher with all that it talks to.
type published struct {
	*publish.Publisher
	metrics *publish.CloudWatchMetrics
	service *cloudwatchtest.Service
	clock   *clock
	db      *database
	reg     *prometheus.Registry
}

// recorded is a database with a view whose refresh is in the log, and one that was
// never refreshed.
func recorded(tb testing.TB) *postgrestest.Database {
	tb.Helper()
	return postgrestest.NewFrom(tb, "recorded", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; CREATE MATERIALIZED VIEW never AS SELECT 1 AS x;
INSERT INTO materialized_view_refresh_schedule (view_name, every, max_staleness) VALUES ('v', '1 min', '5 min'), ('never', '1 min', '5 min');
INSERT INTO materialized_view_refresh_log VALUES ('v', now(), 1000, 150, 1250000)`)
		return err
	})
}

func newPublisher(tb testing.TB, o options) *published {
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
	db := recorded(tb)
	p.db = &database{Database: db, Querier: db.Pool(tb)}
	var err error
	if p.metrics, err = publish.NewCloudWatchMetrics("S3Scanner", o.dimensions, o.optional, o.plainJobsFor); err != nil {
		tb.Fatal(err)
	}
	api, err := publish.NewCloudWatchAPI(tb.Context(), "eu-central-1", server.URL)
	if err != nil {
		tb.Fatal(err)
	}
	if o.withoutRetries {
		api = publish.WithoutRetries(api)
	}
	if o.claims == nil {
		o.claims = p.db
	}
	switch {
	case o.emf != nil:
		o.sink = &publish.EMF{CloudWatchMetrics: p.metrics, Writer: o.emf}
	case o.sink == nil:
		o.sink = &publish.CloudWatch{CloudWatchMetrics: p.metrics, API: api}
	}
	p.Publisher = publish.New(publish.Options{
		Sink: o.sink, Metrics: publish.NewMetrics(p.reg, "cloudwatch"), Logger: slog.New(slog.DiscardHandler), Now: p.clock.Now,
		Reader: freshness.NewReader(p.db, "public", 5*time.Second, p.clock.Now), Claims: o.claims, MaxWaiting: o.maxWaiting,
	})
	return p
}

// add queues how the views are now.
func (p *published) add(views []freshness.View) {
	p.Add(publish.Update{At: p.clock.Now(), Views: views})
}

// addAttempts queues attempts of a run that is over.
func (p *published) addAttempts(attempts []publish.Attempt) {
	p.Add(publish.Update{At: p.clock.Now(), Attempts: attempts, Final: true})
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

// short formats a datum on one line.
func short(d cloudwatchtest.Datum) string {
	return fmt.Sprintf("%s %s{%s}=%v %s", d.At.Format("15:04"), d.Metric, d.Dimensions["ViewName"], d.Values, d.Unit)
}

// Confirm implements [publish.Claims]. No test has such a claim confirmed.
func (f claimFunc) Confirm(context.Context, *store.PublicationClaim) error { panic("confirmed") }
