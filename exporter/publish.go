package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// cloudwatchFlags say what is published to CloudWatch: nothing without a namespace.
type cloudwatchFlags struct {
	namespace, region, endpoint string
	metrics, plainJobCount      string
	dimensions                  map[string]string
	emf                         bool
}

// publishFlags say where a run that ends by itself publishes to.
type publishFlags struct {
	cloudwatch       cloudwatchFlags
	pushURL, pushJob string
}

func (f *publishFlags) add(c *kingpin.CmdClause) {
	c.Flag("push.gateway-url", "Pushgateway to push the freshness of the views to when the run is over.").PlaceHolder("URL").StringVar(&f.pushURL)
	c.Flag("push.job", "Value of the label job of what is pushed.").Default("matview-exporter").StringVar(&f.pushJob)
	f.cloudwatch.add(c)
}

func (f *cloudwatchFlags) add(c *kingpin.CmdClause) {
	c.Flag("cloudwatch.namespace", "Namespace of CloudWatch to publish freshness to, once a minute. Default: none, which publishes nothing.").PlaceHolder("NAMESPACE").StringVar(&f.namespace)
	c.Flag("cloudwatch.metrics", "Metrics to publish beside the default ones, separated by commas: "+strings.Join(publish.OptionalCloudWatchMetrics, ", ")+".").PlaceHolder("METRICS").StringVar(&f.metrics)
	c.Flag("cloudwatch.plain-job-count", "View whose MatViewJobCount is published without any dimension.").PlaceHolder("VIEW").StringVar(&f.plainJobCount)
	f.dimensions = map[string]string{}
	c.Flag("cloudwatch.dimension", "Dimension of every metric beside ViewName, such as Database=app. May be repeated.").PlaceHolder("NAME=VALUE").StringMapVar(&f.dimensions)
	c.Flag("cloudwatch.emf", "Write Embedded Metric Format to standard output instead of calling the API. The default in Lambda.").
		Default(strconv.FormatBool(os.Getenv(lambdaVariable) != "")).BoolVar(&f.emf)
	c.Flag("cloudwatch.region", "Region of CloudWatch. Default: that of the AWS configuration.").PlaceHolder("REGION").StringVar(&f.region)
	c.Flag("cloudwatch.endpoint-url", "Endpoint to call instead of that of AWS, such as an emulator.").PlaceHolder("URL").StringVar(&f.endpoint)
}

// publishing is where this process publishes to.
type publishing struct {
	publishers []*publish.Publisher
	cloudwatch *publish.CloudWatchMetrics // nil: not to CloudWatch
}

// newPublishing makes a publisher for each sink that the flags name.
func (a *app) newPublishing(ctx context.Context, f publishFlags, pool *pgxpool.Pool, reader *freshness.Reader, reg prometheus.Registerer) (all publishing, err error) {
	add := func(name string, sink publish.Sink, claims publish.Claims) {
		all.publishers = append(all.publishers, publish.New(publish.Options{
			Sink: sink, Reader: reader, Claims: claims, Metrics: publish.NewMetrics(reg, name), Logger: a.logger, Now: time.Now,
		}))
	}
	if f.cloudwatch.namespace != "" {
		var sink publish.Sink
		if all.cloudwatch, sink, err = f.cloudwatch.sink(ctx, a.stdout); err != nil {
			return all, err
		}
		add("cloudwatch", sink, store.New(a.schema).Publication(pool))
	} else if f.cloudwatch.emf && os.Getenv(lambdaVariable) == "" {
		return all, errors.New("--cloudwatch.emf requires --cloudwatch.namespace")
	}
	if f.pushURL != "" {
		sink, err := publish.NewPushgateway(f.pushURL, f.pushJob)
		if err != nil {
			return all, err
		}
		add("pushgateway", sink, nil)
	}
	return all, nil
}

// sink is CloudWatch or, in its place, Embedded Metric Format.
func (f *cloudwatchFlags) sink(ctx context.Context, stdout io.Writer) (*publish.CloudWatchMetrics, publish.Sink, error) {
	var optional []string
	for metric := range strings.SplitSeq(f.metrics, ",") {
		if metric = strings.TrimSpace(metric); metric != "" {
			optional = append(optional, metric)
		}
	}
	metrics, err := publish.NewCloudWatchMetrics(f.namespace, f.dimensions, optional, f.plainJobCount)
	if err != nil {
		return nil, nil, err
	}
	if f.emf {
		return metrics, &publish.EMF{CloudWatchMetrics: metrics, Writer: stdout}, nil
	}
	api, err := publish.NewCloudWatchAPI(ctx, f.region, f.endpoint)
	if err != nil {
		return nil, nil, err
	}
	return metrics, &publish.CloudWatch{CloudWatchMetrics: metrics, API: api}, nil
}

// dimensionsWith are those of the file and of the flags, which win.
func (f *cloudwatchFlags) dimensionsWith(c *config.Config) map[string]string {
	all := map[string]string{}
	maps.Copy(all, c.CloudWatch.Dimensions)
	maps.Copy(all, f.dimensions)
	return all
}

// checkDimensions reports what is wrong with those of the file, and where.
func checkDimensions(c *config.Config) error {
	if err := publish.ValidateDimensions(c.CloudWatch.Dimensions); err != nil {
		return c.CloudWatch.Errorf("dimensions", "%w", err)
	}
	return nil
}

// publishWith publishes with the dimensions of a configuration from now on.
func (d *daemon) publishWith(c *config.Config) error {
	if d.cloudwatch == nil {
		return nil
	}
	if err := d.cloudwatch.SetDimensions(d.flags.cloudwatch.dimensionsWith(c)); err != nil {
		return c.CloudWatch.Errorf("dimensions", "with those of --cloudwatch.dimension: %w", err)
	}
	d.logger.Info("publishing every minute", "destination", d.cloudwatch.Destination())
	return nil
}

const (
	// announceTimeout is how long a run waits to know how old the views are, only if
	// it publishes that.
	announceTimeout = 5 * time.Second
	// publishTimeout bounds what a run waits for each sink at its end.
	publishTimeout = 10 * time.Second
)

// announce publishes how old the views are before the refreshes, which would reset
// that. They do not wait for the services; sending is the context of what is sent
// meanwhile.
func (r *refreshing) announce(ctx, sending context.Context) {
	if len(r.publishers) == 0 {
		return
	}
	views, err := r.reader.Read(ctx)
	for _, p := range r.publishers {
		p.Begin(ctx, sending, publish.Update{At: time.Now(), Views: views, Away: err != nil})
		if r.flags.publish.cloudwatch.emf { // shares standard output with us
			p.Wait()
		}
	}
}

// attempted is what is published of one refresh if the database cannot be asked.
func attempted(view string, result refresh.Result, err error) publish.Attempt {
	switch {
	case err != nil:
		return publish.Attempt{View: view, Outcome: "failed", FinishedAt: time.Now()}
	case result.Skipped:
		return publish.Attempt{View: result.View, Outcome: "skipped", FinishedAt: result.FinishedAt}
	}
	return publish.Attempt{View: result.View, Outcome: "succeeded", FinishedAt: result.FinishedAt, Duration: time.Duration(result.DurationMS()) * time.Millisecond}
}

// publish publishes once, whatever came of the refreshes. Its failure is logged,
// and is no failure of a refresh.
func (r *refreshing) publish(ctx context.Context) {
	if len(r.publishers) == 0 {
		return
	}
	views, err := r.reader.Read(ctx)
	u := publish.Update{At: time.Now(), Views: views, Away: err != nil, Attempts: r.attempts, Final: true}
	for _, p := range r.publishers {
		r.finish(ctx, p, u)
	}
}

func (r *refreshing) finish(ctx context.Context, p *publish.Publisher, u publish.Update) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	p.Finish(ctx, u)
}
