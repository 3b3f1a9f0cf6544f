package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// Explanation says why a view runs when it does and as it does, in sentences; ""
// where there is nothing to say.
type Explanation struct {
	NextRun string
	// Method is that of the last attempt that chose one, and MethodReason why it was chosen.
	Method, MethodReason string
	Warning              string // of that attempt
}

// String is all of the explanation in one line, "" if there is none.
func (e Explanation) String() string {
	var parts []string
	if e.NextRun != "" {
		parts = append(parts, e.NextRun)
	}
	if e.Method != "" {
		last := "last method " + e.Method
		if e.MethodReason != "" {
			last += ": " + e.MethodReason
		}
		parts = append(parts, last)
	}
	if e.Warning != "" {
		parts = append(parts, "warning: "+e.Warning)
	}
	return strings.Join(parts, "; ")
}

// Explainer explains the next run and the last method of views, as the command line
// and the status page show it. It is safe for concurrent use.
type Explainer struct {
	pool         *pgxpool.Pool
	schema       string
	store        *store.Store
	dependencies *dependencies
}

// NewExplainer explains the views whose schedules are in schema.
func NewExplainer(pool *pgxpool.Pool, schema string) *Explainer {
	tables := store.New(schema)
	return &Explainer{pool: pool, schema: schema, store: tables, dependencies: newDependencies(pool, tables)}
}

// Explain explains the views, by canonical name. It locks none of them.
func (e *Explainer) Explain(ctx context.Context, views []freshness.View) (map[string]Explanation, error) {
	f, err := e.readFacts(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(views))
	for i, v := range views {
		names[i] = v.Name
	}
	// Of a view that is being refreshed the attempt before that counts.
	history, err := freshness.History(ctx, e.pool, e.schema, names, 2)
	if err != nil {
		return nil, err
	}
	explanations := make(map[string]Explanation, len(views))
	for _, v := range views {
		explanation := Explanation{NextRun: f.nextRun(v)}
		for _, a := range slices.Backward(history[v.Name]) {
			if a.Method != nil {
				explanation.Method, explanation.MethodReason, explanation.Warning = *a.Method, orEmpty(a.Reason), orEmpty(a.Warning)
			}
		}
		explanations[v.Name] = explanation
	}
	return explanations, nil
}

// NextRun explains the next run of one view, by any of its names, for the status
// page. It leaves the error of the last attempt out, which may quote data.
func (e *Explainer) NextRun(ctx context.Context, view string) (string, error) {
	v, found, err := freshness.Find(ctx, e.pool, e.schema, view)
	if err != nil || !found {
		return "", err
	}
	f, err := e.readFacts(ctx)
	if err != nil {
		return "", err
	}
	v.LastError = nil
	return f.nextRun(v), nil
}

// facts are what the explanations are made of, by canonical names.
type facts struct {
	now       time.Time // the database's
	schedules map[string]store.Schedule
	ignored   map[string][]string // the names of further schedules of a view
	running   map[string]store.RunningAttempt
	waitsFor  map[string]string
	goals     map[string]schedule.Goal
	readOnly  string // why nothing can be refreshed; "": the database takes writes
}

func (e *Explainer) readFacts(ctx context.Context) (f facts, err error) {
	if _, err := e.dependencies.refresh(ctx); err != nil {
		return f, err
	}
	schedules, err := e.store.Schedules(ctx, e.pool)
	if err != nil {
		return f, err
	}
	if f.readOnly, err = e.store.ReadOnly(ctx, e.pool); err != nil {
		return f, err
	}
	f.schedules, f.ignored = map[string]store.Schedule{}, map[string][]string{}
	targets := map[string]time.Duration{}
	for _, s := range schedules {
		f.now = s.ReadAt
		if _, known := f.schedules[s.CanonicalName]; known {
			f.ignored[s.CanonicalName] = append(f.ignored[s.CanonicalName], s.ViewName)
			continue
		}
		f.schedules[s.CanonicalName] = s.Schedule
		if s.TargetStaleness > 0 {
			targets[s.CanonicalName] = s.TargetStaleness
		}
	}
	running, err := e.store.RunningAttempts(ctx, e.pool)
	if err != nil {
		return f, err
	}
	f.running = make(map[string]store.RunningAttempt, len(running))
	for _, r := range running {
		f.running[r.ViewName] = r
	}
	if f.waitsFor, err = e.store.WaitsFor(ctx, e.pool, e.dependencies.waiting(DefaultUpstreamWait)); err != nil {
		return f, err
	}
	f.goals, err = e.dependencies.goals(ctx, targets)
	return f, err
}

// nextRun says first what keeps the view from running as its schedule says.
func (f facts) nextRun(v freshness.View) string {
	var parts []string
	row, scheduled := f.schedules[v.Name]
	if scheduled && f.readOnly != "" {
		parts = append(parts, "the database is read-only, so that nothing is refreshed: "+f.readOnly)
	}
	running, isRunning := f.running[v.Name]
	if isRunning {
		parts = append(parts, describeRunning(running))
		isRunning = !running.Dead
	}
	switch {
	case !scheduled:
	case !row.Enabled:
		parts = append(parts, "paused: its schedule is disabled")
	case v.NextRunAt == nil:
		parts = append(parts, neverRuns(row))
	default:
		if waitsFor := f.waitsFor[v.Name]; waitsFor != "" && v.NextRunAt.Before(f.now) {
			parts = append(parts, "due, waits for "+waitsFor)
		} else if v.NextRunAt.Before(f.now) && !isRunning {
			parts = append(parts, "due, to be taken by the next exporter that is free")
		}
		rule := f.rule(v.Name, row)
		if v.ConsecutiveFailures > 0 {
			rule = "backing off, no later than its schedule says (" + rule + ")"
		}
		parts = append(parts, rule)
	}
	if v.ConsecutiveFailures > 0 {
		failures := "1 failure"
		if v.ConsecutiveFailures > 1 {
			failures = fmt.Sprintf("%d failures in a row", v.ConsecutiveFailures)
		}
		if v.LastError != nil {
			failures += ", the last: " + *v.LastError
		}
		parts = append(parts, failures)
	}
	for _, name := range f.ignored[v.Name] {
		parts = append(parts, "ignored: a second schedule, of "+name)
	}
	return strings.Join(parts, "; ")
}

func describeRunning(r store.RunningAttempt) string {
	attemptedBy := "an exporter"
	if r.AttemptedBy != nil {
		attemptedBy = *r.AttemptedBy
	}
	if r.Dead {
		return fmt.Sprintf("not running any more, it seems: %s began to refresh it and has shown no sign of life for %.0f s", attemptedBy, r.SilentFor.Seconds())
	}
	return fmt.Sprintf("running for %.0f s, by %s", r.RunningFor.Seconds(), attemptedBy)
}

func neverRuns(row store.Schedule) string {
	if err := Validate(row); err != nil {
		return "never: " + err.Error()
	}
	return "not planned yet: no exporter has seen this schedule"
}

// rule is the schedule in words.
func (f facts) rule(view string, row store.Schedule) string {
	var rule string
	switch {
	case row.Cron != "":
		rule = "cron " + row.Cron
		if row.TimeZone != "" && row.TimeZone != "UTC" {
			rule += " in " + row.TimeZone
		}
	case row.Every > 0:
		rule = "every " + row.Every.String()
	default:
		goal := f.goals[view]
		rule = fmt.Sprintf("target %s, less %s that refreshes take at the 95th percentile", goal.Staleness, goal.Lead.Round(time.Millisecond))
		if !goal.Reachable() {
			rule = fmt.Sprintf("target %s cannot be met: %s", goal.Staleness, unreachable(goal))
		}
	}
	if row.Jitter > 0 {
		rule += ", spread over " + row.Jitter.String()
	}
	return rule
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
