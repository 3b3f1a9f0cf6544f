// Package scheduler refreshes each scheduled view when it is due. Any number of
// exporters run it side by side: they share the work through PostgreSQL alone,
// by database time, and none of them leads.
//
// [Loop] does so until it is stopped, [OneShot] refreshes once what is due, and
// [Explainer] says why a view runs when it does. The first two share the worker,
// which plans, claims and makes refreshes.
package scheduler

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// Observer is notified of every attempt of this process.
type Observer interface {
	// Init is called with all scheduled views whenever they change.
	Init(views []string)
	// Observe is called once an attempt; outcome is "succeeded", "skipped" or "failed".
	Observe(view, method, outcome string, duration time.Duration)
}

// Options configure a [Loop] or a [OneShot].
type Options struct {
	Pool      *pgxpool.Pool
	Refresher *refresh.Refresher
	Schema    string // of the tables of matview
	// AttemptedBy names this process in the history.
	AttemptedBy   string
	MaxConcurrent int
	// ShutdownTimeout is how long refreshes may go on after the context of Run ends.
	ShutdownTimeout time.Duration
	// UpstreamWait is how long a view that is due waits for those that it reads;
	// 0 means [DefaultUpstreamWait].
	UpstreamWait time.Duration
	Observer     Observer // may be nil
	Logger       *slog.Logger
	// Hint adds to an error of the tables what to do about it; may be nil.
	Hint func(error) error
}

// DefaultUpstreamWait bounds how long a due view waits for those that it reads:
// one that takes hours, or fails again and again, must not block the others for
// ever. After it the view is refreshed from the data that they have.
const DefaultUpstreamWait = 5 * time.Minute

const (
	// maxRetry is the longest pause between two tries of what failed.
	maxRetry = 10 * time.Second
	// waitingPoll is the poll interval while a view waits for another that it reads,
	// which another exporter may be refreshing.
	waitingPoll = 250 * time.Millisecond
)

// worker plans, claims and makes refreshes.
type worker struct {
	Options
	store        *store.Store
	dependencies *dependencies
	planner      *planner
	reachable    sync.Map // of views with a target: whether it can be met, as last seen
}

func newWorker(o Options) *worker {
	if o.UpstreamWait == 0 {
		o.UpstreamWait = DefaultUpstreamWait
	}
	tables := store.New(o.Schema)
	return &worker{
		Options: o, store: tables, dependencies: newDependencies(o.Pool, tables),
		planner: &planner{pool: o.Pool, store: tables, observer: o.Observer, logger: o.Logger},
	}
}

func (w *worker) hint(err error) error {
	if w.Hint == nil {
		return err
	}
	return w.Hint(err)
}

// Validate says why a schedule cannot be run by this version, or nil.
func Validate(row store.Schedule) error {
	if _, err := schedule.Parse(row.Spec); err != nil {
		return err
	}
	if _, err := refresh.ParseMethod(row.Method); err != nil {
		return fmt.Errorf("%w: this version knows no other", err)
	}
	return nil
}
