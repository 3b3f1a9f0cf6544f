package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// goals are the goals of views with a target, each given by its name: the lead is
// the time that its own refresh takes, and that of the upstreams that are refreshed
// before it.
func (d *dependencies) goals(ctx context.Context, targets map[string]time.Duration) (map[string]schedule.Goal, error) {
	goals := make(map[string]schedule.Goal, len(targets))
	var views []string
	for view := range targets {
		views = append(append(views, d.of(view)...), view)
	}
	if len(views) == 0 {
		return goals, nil
	}
	slices.Sort(views)
	expected, err := d.store.Expectations(ctx, d.pool, slices.Compact(views))
	if err != nil {
		return nil, err
	}
	for view, target := range targets {
		goal := schedule.Goal{Staleness: target, Lead: expected[view].Duration}
		for _, upstream := range d.of(view) {
			if refreshedFor(expected[upstream], goal) {
				goal.Lead += expected[upstream].Duration
			}
		}
		goals[view] = goal
	}
	return goals, nil
}

// refreshedFor is whether the own schedule of an upstream, if any, is too rare for
// the goal of a view that reads it.
func refreshedFor(upstream store.Expectation, goal schedule.Goal) bool {
	if upstream.IsScheduled && !upstream.Enabled {
		return false
	}
	return upstream.Interval == 0 || !goal.YoungEnough(upstream.Interval)
}

// refreshUpstreams refreshes the views that the claimed one reads, each after those
// that it reads itself, where their data is too old for the target: they have no
// schedule, or a rarer one. A view whose schedule is paused stays as it is.
func (w *worker) refreshUpstreams(ctx context.Context, c claim) *refresh.UpstreamError {
	upstreams := w.dependencies.of(c.view)
	if len(upstreams) == 0 {
		return nil
	}
	ctx, release := w.Refresher.KeepAlive(ctx, c.attempt)
	defer release()
	goal := schedule.Goal{Staleness: c.row.TargetStaleness}
	for _, upstream := range upstreams {
		if err := w.refreshUpstream(ctx, upstream, c.view, goal); err != nil {
			return refresh.NewUpstreamError(upstream, err)
		}
	}
	return nil
}

func (w *worker) refreshUpstream(ctx context.Context, upstream, reader string, goal schedule.Goal) error {
	tooOld, err := w.awaitTooOld(ctx, upstream, goal)
	if err != nil || !tooOld {
		return err
	}
	row, scheduled, err := w.store.ScheduleOf(ctx, w.Pool, upstream)
	if err != nil || scheduled && !row.Enabled {
		return err
	}
	if !scheduled {
		row = store.Schedule{Method: string(refresh.Auto), LockTimeout: store.DefaultLockTimeout}
	}
	c := claim{row: row, view: upstream}
	began := time.Now()
	result, err := w.Refresher.Refresh(ctx, c.request())
	w.report(c, began, result, err, "before", reader)
	if err != nil {
		return err
	}
	return w.planNextStart(ctx, c)
}

// awaitTooOld waits until no refresh of a view is under way. tooOld is whether its
// data is then too old for the goal of one that reads it, or of unknown age.
func (w *worker) awaitTooOld(ctx context.Context, view string, goal schedule.Goal) (tooOld bool, err error) {
	for {
		v, found, err := freshness.Find(ctx, w.Pool, w.Schema, view)
		if err != nil {
			return false, fmt.Errorf("read how old it is: %w", err)
		}
		if !found {
			return false, errors.New("read how old it is: there is no such view")
		}
		if !v.RefreshInProgress {
			age := v.StalenessSeconds
			return age == nil || !goal.YoungEnough(time.Duration(*age*float64(time.Second))), nil
		}
		select {
		case <-time.After(waitingPoll):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// planNextStart sets the next run of a view with a target, by the as-of that its
// data has now. A skipped refresh may have left that where it was.
func (w *worker) planNextStart(ctx context.Context, c claim) error {
	if c.row.TargetStaleness == 0 {
		return nil
	}
	goals, err := w.dependencies.goals(ctx, map[string]time.Duration{c.view: c.row.TargetStaleness})
	if err != nil {
		return err
	}
	goal := goals[c.view]
	w.logReachable(c.view, goal)
	asOf, now, err := w.store.RecordedAsOf(ctx, w.Pool, c.view)
	if err != nil {
		return err
	}
	if asOf == nil { // a view that it reads is of unknown age
		asOf = &now
	}
	next := goal.NextStart(c.view, *asOf, now, c.row.Jitter)
	return w.store.SetNextRun(ctx, w.Pool, c.view, next, c.row.TargetStaleness)
}

// logReachable logs once that a target cannot be met, and once that it can again.
func (w *worker) logReachable(view string, goal schedule.Goal) {
	reachable := goal.Reachable()
	before, known := w.reachable.Swap(view, reachable)
	if known && before == reachable || !known && reachable {
		return
	}
	if reachable {
		w.Logger.Info("the target is within reach again", "view", view, "target_staleness", goal.Staleness, "refresh_takes", goal.Lead)
		return
	}
	w.Logger.Warn("the target cannot be met: "+unreachable(goal), "view", view, "target_staleness", goal.Staleness, "refresh_takes", goal.Lead)
}

// unreachable says why a target cannot be met, and what to do.
func unreachable(goal schedule.Goal) string {
	return fmt.Sprintf("refreshes, with those of the views that it reads, take %s at the 95th percentile, and data is twice as old when one follows the other; make them faster or the target longer",
		goal.Lead.Round(time.Millisecond))
}
