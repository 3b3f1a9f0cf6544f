package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/cloudwatch"
	"github.com/matview/terraform-provider-matview/exporter/metrics"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// cloudwatchFlags say what CloudWatch gets: nothing without a namespace.
type cloudwatchFlags struct {
	namespace, region, endpoint string
	metrics, plainJobCount      string
	dimensions                  map[string]string
	emf                         bool
}

// lambdaVariable is set where the process is a function of AWS Lambda.
const lambdaVariable = "AWS_LAMBDA_RUNTIME_API"

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
		o.EMF = &cloudwatch.EMF{Writer: a.stdout, Namespace: f.namespace, Dimensions: f.dimensions}
		return cloudwatch.New(o)
	}
	var err error
	if o.API, err = cloudwatch.NewAPI(ctx, f.region, f.endpoint); err != nil {
		return nil, err
	}
	return cloudwatch.New(o)
}

func (a *app) claims(pool *pgxpool.Pool, o cloudwatch.Options) *cloudwatch.Claims {
	return &cloudwatch.Claims{Pool: pool, Schema: a.schema, Destination: o.DestinationName()}
}

// announceTimeout is how long a run waits to know how old the views are: only
// where somebody is to be told.
const announceTimeout = 5 * time.Second

// announce publishes to CloudWatch how old the views are before the refreshes,
// which do not wait for that: afterwards all would look fresh.
func (r *refreshing) announce(ctx context.Context) (err error) {
	reader := freshness.NewReader(r.pool, r.schema, announceTimeout, time.Now)
	if r.publisher, err = r.newPublisher(ctx, r.flags.cloudwatch, reader, prometheus.NewRegistry()); err != nil || r.publisher == nil {
		return err
	}
	views, readErr := reader.Read(ctx)
	r.before = map[string]freshness.View{}
	for _, v := range views {
		r.before[v.Name] = v
	}
	r.publisher.Add(nil, views, readErr != nil)
	r.announced = make(chan struct{})
	if r.flags.cloudwatch.emf { // shares standard output with us
		r.publisher.Flush(ctx)
		close(r.announced)
		return nil
	}
	go func() {
		defer close(r.announced)
		r.publisher.Flush(context.WithoutCancel(ctx))
	}()
	return nil
}

// attempt is what CloudWatch is told of one refresh.
func (r *refreshing) attempt(view string, result refresh.Result, err error) cloudwatch.Attempt {
	if err != nil {
		return cloudwatch.Attempt{View: view, Outcome: "failed", FinishedAt: time.Now()}
	}
	a := cloudwatch.Attempt{View: result.View, Outcome: "succeeded", FinishedAt: result.FinishedAt, Duration: result.Duration}
	if result.Skipped {
		a.Outcome = "skipped"
	}
	if before := r.before[result.View]; before.DataAsOf != nil {
		age := result.FinishedAt.Sub(*before.DataAsOf).Seconds()
		a.StalenessBefore = &age
	}
	return a
}

// publish publishes once, whatever came of the refreshes, also when the run was
// interrupted. That it fails is said, and is no failure of a refresh.
func (r *refreshing) publish(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	if r.publisher != nil {
		r.publishAttempts(ctx)
	}
	if r.flags.pushURL != "" {
		if err := r.push(ctx); err != nil {
			fmt.Fprintf(r.stderr, "matview-exporter: warning: %v\n", err)
		}
	}
}

func (r *refreshing) publishAttempts(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, metrics.PushTimeout)
	defer cancel()
	select {
	case <-r.announced:
		r.publisher.AddRefreshed(r.attempts)
		r.publisher.Flush(ctx)
	case <-ctx.Done():
		fmt.Fprintln(r.stderr, "matview-exporter: warning: CloudWatch does not answer; the refreshes of this run are not published")
	}
}

func (r *refreshing) push(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, metrics.PushTimeout)
	defer cancel()
	pusher := &metrics.Pusher{URL: r.flags.pushURL, Job: r.flags.pushJob}
	views, err := freshness.NewReader(r.pool, r.schema, metrics.PushTimeout/2, time.Now).Read(ctx)
	if err != nil {
		return pusher.Away(ctx)
	}
	return pusher.Push(ctx, views)
}
