package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/exporter/scheduler"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

type runFlags struct {
	web             *web.FlagConfig
	configFile      string
	lifecycle       bool
	scheduler       bool
	maxConcurrent   int
	shutdownTimeout time.Duration
	cloudwatch      cloudwatchFlags
}

func (a *app) addRun(cli *kingpin.Application, commands map[string]command) {
	var f runFlags
	c := cli.Command("run", "Refresh views on schedule and serve metrics and the API, until SIGTERM.")
	f.web = kingpinflag.AddFlags(c, ":9964")
	c.Flag("config.file", "Configuration file: row routes of the API and who may use it, dimensions of CloudWatch.").PlaceHolder("FILE").StringVar(&f.configFile)
	c.Flag("web.enable-lifecycle", "Reload the configuration file and the tokens on POST /-/reload, as on SIGHUP.").BoolVar(&f.lifecycle)
	c.Flag("scheduler", "Refresh what is due; --no-scheduler observes only.").Default("true").BoolVar(&f.scheduler)
	c.Flag("max-concurrent", "How many refreshes may run at once in this process.").Default("2").IntVar(&f.maxConcurrent)
	c.Flag("shutdown-timeout", "How long running refreshes may go on after SIGTERM before they are cancelled.").Default("30s").DurationVar(&f.shutdownTimeout)
	f.cloudwatch.add(c)
	commands[c.FullCommand()] = func(ctx context.Context) int { return a.run(ctx, f) }
}

// spareConnections are for the heartbeat and the scheduler's own statements,
// beside one for each refresh. Readers have a pool of their own, so that many of
// them never hold up a refresh.
const (
	spareConnections = 4
	readConnections  = 10
)

func (a *app) run(ctx context.Context, f runFlags) int {
	if f.maxConcurrent < 1 {
		return a.fail(exitUsage, errors.New("--max-concurrent must be at least 1"))
	}
	// From here on, so that a SIGHUP while we start does not end us.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	d, err := a.newDaemon(ctx, f)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	defer d.close()
	d.hangups = hangups
	d.checkRoutes(ctx, d.current)
	if err := d.serve(ctx); err != nil {
		return a.fail(exitFailed, err)
	}
	a.logger.Info("stopped")
	return exitOK
}

// daemon is the run command at work.
type daemon struct {
	*app
	flags     runFlags
	pool      *pgxpool.Pool // of the scheduler
	readers   *pgxpool.Pool // of metrics and API
	freshness *freshness.Reader
	counters  *publish.Counters
	publishing
	servers []*http.Server // one for each address

	hangups   <-chan os.Signal
	reloading sync.Mutex
	inForce   sync.RWMutex // guards current
	current   *generation
}

// newDaemon reads the configuration and puts the parts together. It makes no
// connection: a database that is away is waited for.
func (a *app) newDaemon(ctx context.Context, f runFlags) (_ *daemon, err error) {
	d := &daemon{app: a, flags: f}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if _, err = readWebConfig(*f.web.WebConfigFile); err != nil {
		return nil, err
	}
	if d.pool, err = a.open(ctx, f.maxConcurrent+spareConnections); err != nil {
		return nil, err
	}
	if d.readers, err = a.openReaders(ctx); err != nil {
		return nil, err
	}
	d.freshness = freshness.NewReader(d.readers, a.schema, scrapeTimeout, time.Now)
	if d.current, err = d.newGeneration(ctx, nil); err != nil {
		return nil, err
	}
	handler, err := d.handler(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.publishWith(d.current.config); err != nil {
		return nil, err
	}
	d.newServers(handler)
	return d, nil
}

// openReaders makes the pool of those who only read.
func (a *app) openReaders(ctx context.Context) (*pgxpool.Pool, error) {
	c, err := a.database.config(readConnections).PoolConfig()
	if err != nil {
		return nil, err
	}
	api.ConfigureSessions(c, api.DefaultTimeout)
	return postgres.OpenPool(ctx, c)
}

// checkRoutes compares the routes with the views, if the database can be
// reached; else the routes are checked when they are first used.
func (d *daemon) checkRoutes(ctx context.Context, g *generation) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if unreachable := g.reads.Check(ctx); unreachable != nil {
		d.logger.Warn("cannot check the routes yet", "err", postgres.Message(unreachable))
	}
}

// scrapeTimeout bounds the statement of a scrape where that names no timeout; it
// is below Prometheus's default of 10 s.
const scrapeTimeout = 8 * time.Second

func (d *daemon) handler(ctx context.Context) (_ http.Handler, err error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("matview_exporter"),
	)
	d.counters = publish.NewCounters(registry)
	if d.publishing, err = d.newPublishing(ctx, publishFlags{cloudwatch: d.flags.cloudwatch}, d.pool, d.freshness, registry); err != nil {
		return nil, err
	}
	scrapes := &publish.Scrapes{Process: registry, Reader: d.freshness, Timeout: scrapeTimeout, Logger: d.logger}
	// No ServeMux: it would answer some paths with a redirect of its own.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			scrapes.ServeHTTP(w, r)
			return
		}
		d.ServeHTTP(w, r)
	}), nil
}

// serve runs the scheduler and the web server until ctx ends or the web server
// fails, and drains both.
func (d *daemon) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go d.reloadOnSignal(ctx)
	scheduled := make(chan struct{})
	go func() {
		defer close(scheduled)
		if d.flags.scheduler {
			d.schedule(ctx)
		}
	}()
	var published sync.WaitGroup
	for _, p := range d.publishers {
		published.Go(func() { p.Run(ctx) })
	}
	served := make(chan error, 1)
	go func() {
		served <- d.listenAndServe()
		cancel()
	}()
	<-ctx.Done()
	d.logger.Info("stopping: no new refreshes, running ones may finish", "timeout", d.flags.shutdownTimeout)
	<-scheduled // metrics and probes answer to the end
	published.Wait()
	d.shutDown(ctx)
	if err := <-served; err != nil {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

func (d *daemon) schedule(ctx context.Context) {
	name := attemptedBy()
	scheduler.NewLoop(scheduler.Options{
		Pool: d.pool, Refresher: refresh.New(d.pool, d.schema, name), Schema: d.schema, AttemptedBy: name,
		MaxConcurrent: d.flags.maxConcurrent, ShutdownTimeout: d.flags.shutdownTimeout, Observer: d.counters, Logger: d.logger, Hint: d.hint,
	}).Run(ctx)
}

func (d *daemon) close() {
	if d.current != nil {
		d.current.close(nil)
	}
	for _, pool := range []*pgxpool.Pool{d.pool, d.readers} {
		if pool != nil {
			pool.Close()
		}
	}
}
