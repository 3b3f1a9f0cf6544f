package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/cloudwatch"
	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/exporter/metrics"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// cloudwatchFlags say what CloudWatch gets: nothing without a namespace.
type cloudwatchFlags struct {
	namespace, region, endpoint string
	metrics, plainJobCount      string
	dimensions                  map[string]string
	emf                         bool
}

// publishFlags are where a run that ends by itself publishes to.
type publishFlags struct {
	cloudwatch       cloudwatchFlags
	pushURL, pushJob string
}

func (f *publishFlags) add(c *kingpin.CmdClause) {
	c.Flag("push.gateway-url", "Pushgateway to push the freshness of the views to when the run is over.").PlaceHolder("URL").StringVar(&f.pushURL)
	c.Flag("push.job", "Label job of what is pushed.").Default("matview-exporter").StringVar(&f.pushJob)
	f.cloudwatch.add(c)
}

func (f *cloudwatchFlags) add(c *kingpin.CmdClause) {
	c.Flag("cloudwatch.namespace", "Namespace of CloudWatch to publish freshness to, once a minute. Off without it.").PlaceHolder("NAMESPACE").StringVar(&f.namespace)
	c.Flag("cloudwatch.metrics", "Metrics to publish beside the usual ones, with commas between: "+strings.Join(cloudwatch.Optional, ", ")+".").PlaceHolder("METRICS").StringVar(&f.metrics)
	c.Flag("cloudwatch.plain-job-count", "View whose MatViewJobCount is published without any dimension.").PlaceHolder("VIEW").StringVar(&f.plainJobCount)
	f.dimensions = map[string]string{}
	c.Flag("cloudwatch.dimension", "Dimension of every metric beside ViewName, as in Database=app. May be repeated.").PlaceHolder("NAME=VALUE").StringMapVar(&f.dimensions)
	c.Flag("cloudwatch.emf", "Write Embedded Metric Format to standard output and call no API. The default in Lambda.").
		Default(strconv.FormatBool(os.Getenv(lambdaVariable) != "")).BoolVar(&f.emf)
	c.Flag("cloudwatch.region", "Region; by default that of the AWS configuration.").PlaceHolder("REGION").StringVar(&f.region)
	c.Flag("cloudwatch.endpoint-url", "Endpoint to use instead of that of AWS, as of an emulator.").PlaceHolder("URL").StringVar(&f.endpoint)
}

// newPublisher is nil where nothing is to be published.
func (a *app) newPublisher(ctx context.Context, f cloudwatchFlags, reader *freshness.Reader, reg prometheus.Registerer) (*cloudwatch.Publisher, error) {
	if f.namespace == "" {
		if f.emf && os.Getenv(lambdaVariable) == "" {
			return nil, errors.New("--cloudwatch.emf needs --cloudwatch.namespace")
		}
		return nil, nil //nolint:nilnil // none is asked for
	}
	o := cloudwatch.Options{
		Namespace: f.namespace, Dimensions: f.dimensions, PlainJobCountOf: f.plainJobCount,
		Reader: reader, Counts: cloudwatch.NewMetrics(reg), Logger: a.logger, Now: time.Now,
	}
	for metric := range strings.SplitSeq(f.metrics, ",") {
		if metric = strings.TrimSpace(metric); metric != "" {
			o.Metrics = append(o.Metrics, metric)
		}
	}
	if f.emf {
		o.EMF = &cloudwatch.EMF{Writer: a.stdout}
		return cloudwatch.New(o)
	}
	var err error
	if o.API, err = cloudwatch.NewAPI(ctx, f.region, f.endpoint); err != nil {
		return nil, err
	}
	return cloudwatch.New(o)
}

// dimensionsWith are those of the file and of the flags, which win.
func (f *cloudwatchFlags) dimensionsWith(c *config.Config) map[string]string {
	all := map[string]string{}
	maps.Copy(all, c.CloudWatch.Dimensions)
	maps.Copy(all, f.dimensions)
	return all
}

// checkDimensions says what is wrong with those of the file, and where it stands.
func checkDimensions(c *config.Config) error {
	if err := cloudwatch.ValidateDimensions(c.CloudWatch.Dimensions); err != nil {
		return c.CloudWatch.Errorf("dimensions", "%w", err)
	}
	return nil
}

// publishWith publishes with the dimensions of a configuration from now on.
func (d *daemon) publishWith(c *config.Config) error {
	if d.publisher == nil {
		return nil
	}
	if err := d.publisher.SetDimensions(d.flags.cloudwatch.dimensionsWith(c)); err != nil {
		return c.CloudWatch.Errorf("dimensions", "with those of --cloudwatch.dimension: %w", err)
	}
	d.logger.Info("publishing every minute", "destination", d.publisher.Destination())
	return nil
}

func (a *app) claims(pool *pgxpool.Pool) *cloudwatch.Claims {
	return &cloudwatch.Claims{Pool: pool, Schema: a.schema}
}

// announceTimeout is how long a run waits to know how old the views are: only
// where somebody is to be told.
const announceTimeout = 5 * time.Second

// announce publishes to CloudWatch how old the views are before the refreshes,
// which do not wait for that: afterwards all would look fresh. publishing bounds
// what is sent meanwhile.
func (r *refreshing) announce(ctx, publishing context.Context) {
	if r.publisher == nil {
		return
	}
	views, err := r.reader.Read(ctx)
	r.before = map[string]freshness.View{}
	for _, v := range views {
		r.before[v.Name] = v
	}
	r.publisher.Add(views, err != nil)
	if err := r.claims(r.pool).Begin(ctx, r.publisher.Destination()); err != nil {
		r.logger.Debug("the refreshes of this run are published by what it knows of them itself", "err", postgres.Message(err))
	}
	r.announced = make(chan struct{})
	if r.flags.publish.cloudwatch.emf { // shares standard output with us
		r.publisher.Flush(ctx)
		close(r.announced)
		return
	}
	go func() {
		defer close(r.announced)
		r.publisher.Flush(publishing)
	}()
}

// attempted is what CloudWatch is told of one refresh.
func (r *refreshing) attempted(view string, result refresh.Result, err error) cloudwatch.Attempt {
	if err != nil {
		return cloudwatch.Attempt{View: view, Outcome: "failed", FinishedAt: time.Now()}
	}
	a := cloudwatch.Attempt{View: result.View, Outcome: "succeeded", FinishedAt: result.FinishedAt, Duration: time.Duration(result.DurationMS()) * time.Millisecond}
	if result.Skipped {
		a.Outcome = "skipped"
	}
	if before := r.before[result.View]; before.DataAsOf != nil {
		age := result.FinishedAt.Sub(*before.DataAsOf).Seconds()
		a.StalenessBefore = &age
	}
	return a
}

// publish publishes once, whatever came of the refreshes. That it fails is said,
// and is no failure of a refresh.
func (r *refreshing) publish(ctx context.Context) {
	if r.publisher != nil {
		r.publishAttempts(ctx)
	}
	if r.pusher != nil {
		if err := r.push(ctx); err != nil {
			fmt.Fprintf(r.stderr, "matview-exporter: warning: %v\n", err)
		}
	}
}

// publishAttempts publishes every attempt that is recorded and not published
// yet, also those of runs that were killed. If the database cannot say, it is
// what this run knows.
func (r *refreshing) publishAttempts(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, metrics.PushTimeout)
	defer cancel()
	counted := r.counted(ctx)
	claimed, err := r.claims(r.pool).Attempts(ctx, r.publisher.Destination())
	switch {
	case err != nil:
		r.publisher.AddRefreshed(r.attempts, counted)
	case claimed != nil:
		r.publisher.AddClaimed(claimed, counted)
	default: // another exporter is at it
		r.publisher.AddRefreshed(nil, counted)
	}
	select {
	case <-r.announced:
		r.publisher.Flush(ctx)
	case <-ctx.Done():
		fmt.Fprintln(r.stderr, "matview-exporter: warning: CloudWatch does not answer; the refreshes of this run are not published yet")
	}
}

// counted are the views that were refreshed, as they are now, if anybody is to
// be told what their refreshes counted.
func (r *refreshing) counted(ctx context.Context) []freshness.View {
	if !r.publisher.WantsCounts() {
		return nil
	}
	views, err := r.reader.Read(ctx)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(views, func(v freshness.View) bool {
		return !slices.ContainsFunc(r.attempts, func(a cloudwatch.Attempt) bool { return a.View == v.Name && a.Outcome == "succeeded" })
	})
}

func (r *refreshing) push(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, metrics.PushTimeout)
	defer cancel()
	views, err := freshness.NewReader(r.pool, r.schema, metrics.PushTimeout/2, time.Now).Read(ctx)
	if err != nil {
		return r.pusher.Away(ctx)
	}
	return r.pusher.Push(ctx, views)
}
