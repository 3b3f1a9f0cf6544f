package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kingpin/v2"
	awslambda "github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// lambdaVariable is set where the process is a function of AWS Lambda.
const lambdaVariable = "AWS_LAMBDA_RUNTIME_API"

// addLambda adds the command that a function of AWS Lambda runs, which is called
// without any.
func (a *app) addLambda(cli *kingpin.Application, commands map[string]command) {
	var f publishFlags
	c := cli.Command("lambda", "Serve as a function of AWS Lambda, which runs this command by itself: "+
		`the event {"views": ["NAME"]} refreshes those, any other event what is due.`).Hidden()
	if os.Getenv(lambdaVariable) != "" {
		c.Default()
	}
	f.add(c)
	commands[c.FullCommand()] = func(ctx context.Context) int { return a.lambda(ctx, f) }
}

func (a *app) lambda(ctx context.Context, f publishFlags) int {
	if os.Getenv(lambdaVariable) == "" {
		return a.fail(exitUsage, errors.New("lambda runs in AWS Lambda only, where "+lambdaVariable+" is set; elsewhere it is matview-exporter refresh --due"))
	}
	pool, err := a.openWarm(ctx)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	defer pool.Close()
	kept, err := a.newRefreshing(ctx, pool, lambdaFlags(f))
	if err != nil {
		return a.fail(exitFailed, err)
	}
	fn := &function{kept: kept, stopping: ctx}
	go awslambda.StartWithOptions(fn.invoke) // ends the process if Lambda fails it
	<-ctx.Done()
	fn.mu.Lock() // the invocation under way is cancelled and records that
	return exitOK
}

// lambdaConcurrency is how many views an invocation refreshes at once.
const lambdaConcurrency = 2

func lambdaFlags(f publishFlags) refreshFlags {
	return refreshFlags{publish: f, maxConcurrent: lambdaConcurrency}
}

// pongTimeout is how long a connection that was idle may take to show that it
// still works.
const pongTimeout = 2 * time.Second

// openWarm makes a pool for a process that is frozen between invocations, for
// how long it cannot know: its clock may have stood still. So each connection is
// tried before it is used.
func (a *app) openWarm(ctx context.Context) (*pgxpool.Pool, error) {
	c, err := a.database.config(lambdaFlags(publishFlags{}).connections()).PoolConfig()
	if err != nil {
		return nil, err
	}
	c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	c.PingTimeout = pongTimeout
	return postgres.OpenPool(ctx, c)
}

// function is what lives from one invocation to the next: the connections, and
// what could not be published yet.
type function struct {
	kept     *refreshing
	stopping context.Context //nolint:containedctx // it is the process's
	mu       sync.Mutex      // one invocation at a time
}

// answer is what an invocation that refreshed all it should returns.
type answer struct {
	Refreshed []refreshedView `json:"refreshed"`
}

// refreshedView has the names of the refresh log.
type refreshedView struct {
	ViewName          string     `json:"view_name"`
	LastRefreshedAt   time.Time  `json:"last_refreshed_at"`
	RefreshDurationMS int64      `json:"refresh_duration_ms"`
	TotalJobs         *int64     `json:"total_jobs"`
	TotalObjects      *int64     `json:"total_objects"`
	DataAsOf          *time.Time `json:"data_as_of"`
	Method            string     `json:"method"`
	Warning           string     `json:"warning,omitempty"`
}

// Kinds of errors, by which Lambda's retries and destinations can tell them.
const (
	invalidEvent  = "InvalidEvent"
	refreshFailed = "RefreshFailed"
)

func (f *function) invoke(ctx context.Context, event json.RawMessage) (answer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	views, err := viewsOf(event)
	if err != nil {
		return answer{}, messages.InvokeResponse_Error{Type: invalidEvent, Message: err.Error()}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	flags := f.kept.flags
	flags.views, flags.due = views, len(views) == 0
	r := f.kept.again(flags)
	work, stop := beforeDeadline(ctx)
	defer stop(nil)
	defer context.AfterFunc(f.stopping, func() { stop(errStopped) })()
	r.announce(work, ctx)
	done, failures := r.all(work)
	r.publish(ctx)
	cancel()
	for _, p := range r.publishers {
		p.Wait() // nothing may be under way when the process is frozen
	}
	if len(failures) > 0 {
		return answer{}, messages.InvokeResponse_Error{Type: refreshFailed, Message: strings.Join(failures, "; ")}
	}
	return done, nil
}

// viewsOf are the views that an event names; none means what is due.
func viewsOf(event json.RawMessage) ([]string, error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(event, &members) != nil {
		return nil, nil //nolint:nilerr // any other event means what is due
	}
	named, found := members["views"]
	if !found {
		return nil, nil
	}
	var views []string
	if err := json.Unmarshal(named, &views); err != nil || len(views) == 0 {
		return nil, fmt.Errorf(`the event's "views" must be a list of the names of views, as in {"views": ["job_progress"]}, and not %.100s; without "views" what is due is refreshed`, named)
	}
	return views, nil
}

// maxReserve is kept of an invocation's time for recording what had to be
// cancelled and for publishing; of a short one it is a fifth.
const maxReserve = 10 * time.Second

var (
	errDeadline = errors.New("cancelled before the deadline of the Lambda invocation; give the function a longer timeout")
	errStopped  = errors.New("cancelled, since Lambda ends the process")
)

// beforeDeadline is the part of ctx in which to refresh. What is cancelled at its
// end has that as its cause.
func beforeDeadline(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	work, stop := context.WithCancelCause(ctx)
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return work, stop
	}
	left := time.Until(deadline)
	timer := time.AfterFunc(left-min(left/5, maxReserve), func() { stop(errDeadline) })
	return work, func(cause error) { timer.Stop(); stop(cause) }
}

// all refreshes every view that is asked for, and says which of them were not.
func (r *refreshing) all(ctx context.Context) (done answer, failures []string) {
	done.Refreshed = []refreshedView{}
	views, err := r.wanted(ctx)
	var left []string
	var began sync.Map // by view
	if err == nil {
		left, err = r.each(ctx, views, func(view string) { began.Store(view, time.Now()) }, func(view string, result refresh.Result, claimed bool, err error) {
			log := r.logger.With("view", view, "trigger", r.trigger())
			switch {
			case err != nil:
				since, _ := began.Load(view)
				at, _ := since.(time.Time)
				log.Error("refresh failed", "duration", time.Since(at).Round(time.Millisecond), "err", postgres.Message(err))
				failures = append(failures, postgres.Message(err))
			case !claimed:
				log.Info("taken by another exporter meanwhile")
			case result.Skipped:
				log.Info("skipped", "reason", result.Reason, "duration", result.Duration.Round(time.Millisecond))
			default:
				log = log.With("method", string(result.Method), "duration", result.Duration.Round(time.Millisecond), "reason", result.Reason)
				if result.Warning != "" { // one line an attempt
					log.Warn("refreshed with a warning", "warning", result.Warning)
				} else {
					log.Info("refreshed")
				}
				done.Refreshed = append(done.Refreshed, answered(result))
			}
		})
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		r.logger.Error("cannot refresh", "err", postgres.Message(err))
		return done, append(failures, postgres.Message(err))
	}
	if len(left) > 0 {
		names := strings.Join(left, ", ")
		r.logger.Error("not refreshed", "views", names, "err", context.Cause(ctx))
		failures = append(failures, fmt.Sprintf("not refreshed: %s: %v", names, context.Cause(ctx)))
	}
	return done, failures
}

func answered(result refresh.Result) refreshedView {
	v := refreshedView{
		ViewName: result.View, LastRefreshedAt: result.FinishedAt.UTC(), RefreshDurationMS: result.DurationMS(),
		TotalJobs: result.TotalJobs, TotalObjects: result.TotalObjects, Method: string(result.Method), Warning: result.Warning,
	}
	if result.AsOf != nil {
		asOf := result.AsOf.UTC()
		v.DataAsOf = &asOf
	}
	return v
}
