package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/cloudwatch"
	"github.com/matview/terraform-provider-matview/exporter/scheduler"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

type refreshFlags struct {
	views    []string
	all, due bool
	method   string

	maxConcurrent int
	output        string
	pushURL       string
	pushJob       string

	cloudwatch cloudwatchFlags
}

func (a *app) addRefresh(cli *kingpin.Application, commands map[string]command) {
	var f refreshFlags
	c := cli.Command("refresh", "Refresh views now, in the order of their dependencies, and record it. Exits with 1 if any failed.")
	c.Flag("all", "Refresh every materialized view of the database.").BoolVar(&f.all)
	c.Flag("due", "Refresh the scheduled views that are due.").BoolVar(&f.due)
	c.Flag("method", "auto, blocking or concurrently; by default what the view's schedule says, else auto.").EnumVar(&f.method, "auto", "blocking", "concurrently")
	c.Flag("max-concurrent", "How many views may be refreshed at once, those apart that one reads.").Default("2").IntVar(&f.maxConcurrent)
	c.Flag("output", "text, with progress on a terminal, or json: one line of JSON for each view as it is done, on standard output.").Default("text").EnumVar(&f.output, "text", "json")
	c.Flag("push.gateway-url", "Pushgateway to push the freshness of the views to when the run is over.").PlaceHolder("URL").StringVar(&f.pushURL)
	c.Flag("push.job", "Label job of what is pushed.").Default("matview-exporter").StringVar(&f.pushJob)
	f.cloudwatch.add(c)
	c.Arg("view", "Views to refresh.").StringsVar(&f.views)
	commands[c.FullCommand()] = func(ctx context.Context) int { return a.refresh(ctx, f) }
}

func (f refreshFlags) validate() error {
	if f.maxConcurrent < 1 {
		return errors.New("--max-concurrent must be at least 1")
	}
	given := 0
	for _, set := range []bool{len(f.views) > 0, f.all, f.due} {
		if set {
			given++
		}
	}
	if given != 1 {
		return errors.New("refresh what? Name views, or give one of --all and --due")
	}
	return nil
}

func (a *app) refresh(ctx context.Context, f refreshFlags) int {
	if err := f.validate(); err != nil {
		return a.fail(exitUsage, err)
	}
	// One connection for each refresh, one says that this process lives,
	// one asks what they wait for.
	pool, err := a.open(ctx, f.maxConcurrent+3)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	defer pool.Close()
	r := &refreshing{app: a, pool: pool, flags: f, refresher: refresh.New(pool, a.schema, attemptedBy()), progress: newProgress(a, pool)}
	r.scheduler = scheduler.New(scheduler.Options{
		Pool: pool, Refresher: r.refresher, Schema: a.schema, AttemptedBy: attemptedBy(), MaxConcurrent: f.maxConcurrent, Logger: a.logger,
	})
	if err := r.announce(ctx); err != nil {
		return a.fail(exitFailed, err)
	}
	defer r.publish(ctx)
	views, err := r.wanted(ctx)
	var reads refresh.Reads
	if err == nil && len(views) > 1 {
		reads, err = refresh.ReadReads(ctx, pool)
	}
	if err != nil {
		return a.fail(exitFailed, a.hint(err))
	}
	if len(views) == 0 && f.output == "text" {
		fmt.Fprintln(a.stdout, "Nothing to refresh.")
	}
	if f.output == "json" {
		r.progress.terminal = nil
	}
	stop := r.progress.watch(ctx, views)
	begun := 0
	reads.Each(ctx, views, f.maxConcurrent, func(ctx context.Context, view string, upstream *refresh.UpstreamError) error {
		r.mu.Lock()
		begun++
		r.mu.Unlock()
		return r.one(ctx, view, upstream)
	})
	stop()
	if begun < len(views) {
		return a.fail(exitFailed, errors.New("interrupted; the views not named above were not refreshed"))
	}
	return r.code
}

// refreshing is one run of the refresh command.
type refreshing struct {
	*app
	pool      *pgxpool.Pool
	flags     refreshFlags
	refresher *refresh.Refresher
	scheduler *scheduler.Scheduler
	progress  *progress
	before    map[string]freshness.View

	mu       sync.Mutex // guards what follows
	attempts []cloudwatch.Attempt
	code     int // of the exit

	publisher *cloudwatch.Publisher // nil: not published to CloudWatch
	announced chan struct{}
}

// wanted are the canonical names of the views to refresh.
func (r *refreshing) wanted(ctx context.Context) ([]string, error) {
	if r.flags.due {
		return r.scheduler.Due(ctx)
	}
	var views []freshness.View
	var err error
	if r.flags.all {
		views, err = freshness.All(ctx, r.pool, r.schema)
	} else {
		views, err = r.find(ctx, r.pool, r.flags.views)
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, v := range views {
		if v.OID != nil || !r.flags.all {
			names = append(names, v.Name)
		}
	}
	return names, nil
}

// one refreshes one view and prints what came of it.
func (r *refreshing) one(ctx context.Context, view string, upstream *refresh.UpstreamError) (err error) {
	var result refresh.Result
	claimed := true
	r.progress.begin(view)
	if r.flags.due {
		result, claimed, err = r.scheduler.RefreshDue(ctx, view)
	} else {
		result, err = r.named(ctx, view, upstream)
	}
	r.mu.Lock()
	if claimed || err != nil {
		r.attempts = append(r.attempts, r.attempt(view, result, err))
	}
	if err != nil {
		r.code = exitFailed
	}
	r.mu.Unlock()
	to, line := r.said(view, result, claimed, err)
	r.progress.end(view, to, line)
	return err
}

// said is what is printed about a view, and where.
func (r *refreshing) said(view string, result refresh.Result, claimed bool, err error) (to io.Writer, line string) {
	switch {
	case r.flags.output == "json":
		return r.stdout, newRefreshed(view, result, claimed, err).line()
	case err != nil:
		return r.stderr, fmt.Sprintf("%s: FAILED: %s", view, postgres.Message(err))
	case !claimed:
		return r.stdout, view + ": taken by another exporter meanwhile"
	}
	line = fmt.Sprintf("%s: refreshed in %s, %s: %s", result.View, seconds(result.Duration.Seconds()), result.Method, result.Reason)
	if result.Warning != "" {
		r.progress.print(r.stderr, fmt.Sprintf("%s: warning: %s", result.View, result.Warning))
	}
	return r.stdout, line
}

// named refreshes as the view's schedule says, if it has one; where a view that
// it reads has just failed, it records that instead: the data would be no younger.
func (r *refreshing) named(ctx context.Context, view string, upstream *refresh.UpstreamError) (refresh.Result, error) {
	req := refresh.Request{View: view, Trigger: refresh.TriggerManual, LockTimeout: schedule.DefaultLockTimeout}
	if upstream != nil {
		return refresh.Result{}, r.refresher.RecordUpstream(ctx, req, upstream)
	}
	row, found, err := schedule.Of(ctx, r.pool, r.schema, view)
	if err != nil {
		return refresh.Result{}, err
	}
	if found {
		req.Method, req.LockTimeout, req.StatementTimeout = refresh.Method(row.Method), row.LockTimeout, row.StatementTimeout
		req.Settings, req.TotalJobs, req.TotalObjects = row.Settings, row.TotalJobs, row.TotalObjects
	}
	if r.flags.method != "" {
		req.Method = refresh.Method(r.flags.method)
	}
	return r.refresher.Refresh(ctx, req)
}

// refreshed is a line of --output=json.
type refreshed struct {
	View       string     `json:"view_name"`
	Outcome    string     `json:"outcome"` // succeeded, failed, or taken by another exporter
	Method     *string    `json:"method"`
	Reason     *string    `json:"reason"`
	DataAsOf   *time.Time `json:"data_as_of"`
	FinishedAt *time.Time `json:"finished_at"`
	LockWaitMS *int64     `json:"lock_wait_ms"`
	DurationMS *int64     `json:"duration_ms"`
	TotalJobs  *int64     `json:"total_jobs"`
	Objects    *int64     `json:"total_objects"`
	Warning    *string    `json:"warning"`
	Error      *string    `json:"error"`
	SQLState   *string    `json:"sqlstate"`
}

func newRefreshed(view string, result refresh.Result, claimed bool, err error) refreshed {
	switch {
	case err != nil:
		return refreshed{View: view, Outcome: "failed", Error: orNil(postgres.Message(err)), SQLState: orNil(postgres.SQLState(err))}
	case !claimed:
		return refreshed{View: view, Outcome: "taken"}
	}
	wait, duration, finished := result.LockWait.Milliseconds(), result.Duration.Milliseconds(), result.FinishedAt.UTC()
	line := refreshed{
		View: result.View, Outcome: "succeeded", Method: orNil(string(result.Method)), Reason: orNil(result.Reason),
		FinishedAt: &finished, LockWaitMS: &wait, DurationMS: &duration,
		TotalJobs: result.TotalJobs, Objects: result.TotalObjects, Warning: orNil(result.Warning),
	}
	if result.AsOf != nil {
		asOf := result.AsOf.UTC()
		line.DataAsOf = &asOf
	}
	return line
}

func (r refreshed) line() string {
	text, err := json.Marshal(r)
	if err != nil { // plain fields
		return err.Error()
	}
	return string(text)
}
