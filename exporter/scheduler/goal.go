package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// usual is what the history and the schedule say about a view: how long its
// refreshes take, and how often they come.
type usual struct {
	View      string
	P95       float64 // s, of attempts from begin to commit; 0: not known
	Interval  float64 // s, the longest between two runs; 0: it has no schedule
	Scheduled bool
	Enabled   bool
}

// The last attempts say what the next one will take; a percentile over months
// would go on expecting a table that has been emptied since.
const usualSQL = `
SELECT v.view_name,
       coalesce((SELECT percentile_disc(0.95) WITHIN GROUP (ORDER BY a.took)
                 FROM (SELECT extract(epoch FROM h.finished_at - h.started_at)::double precision AS took
                       FROM %[3]s AS h WHERE h.view_name = v.view_name AND h.outcome = 'succeeded' AND h.trigger <> 'external'
                       ORDER BY h.started_at DESC LIMIT 50) AS a), 0),
       coalesce(extract(epoch FROM coalesce(s.every, s.target_staleness, s.longest_gap))::double precision, 0),
       s.view_name IS NOT NULL, coalesce(s.enabled, false)
FROM unnest($1::text[]) AS v(view_name)
LEFT JOIN %[1]s AS st ON st.view_name = v.view_name
LEFT JOIN %[2]s AS s ON s.view_name = st.schedule_name`

// readGoals are the goals of views with a target, each given by its name: the
// lead is the time that its own refresh takes, and that of those that it has
// refreshed before it.
func (s *Scheduler) readGoals(ctx context.Context, targets map[string]time.Duration) (map[string]schedule.Goal, error) {
	goals := make(map[string]schedule.Goal, len(targets))
	var views []string
	for view := range targets {
		views = append(append(views, s.upstreamsOf(view)...), view)
	}
	if len(views) == 0 {
		return goals, nil
	}
	slices.Sort(views)
	rows, err := s.Pool.Query(ctx, fmt.Sprintf(usualSQL, s.table("state"), s.table("schedule"), s.table("history")), slices.Compact(views))
	if err != nil {
		return nil, fmt.Errorf("read how long refreshes take: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[usual])
	if err != nil {
		return nil, fmt.Errorf("read how long refreshes take: %w", err)
	}
	of := make(map[string]usual, len(found))
	for _, u := range found {
		of[u.View] = u
	}
	for view, target := range targets {
		goal := schedule.Goal{Staleness: target, Lead: seconds(of[view].P95)}
		for _, upstream := range s.upstreamsOf(view) {
			if of[upstream].pulledFor(goal) {
				goal.Lead += seconds(of[upstream].P95)
			}
		}
		goals[view] = goal
	}
	return goals, nil
}

// pulledFor is whether the view's own schedule, if any, is too rare for the goal
// of one that reads it.
func (u usual) pulledFor(goal schedule.Goal) bool {
	if u.Scheduled && !u.Enabled {
		return false
	}
	return u.Interval == 0 || !goal.YoungEnough(seconds(u.Interval))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// pull refreshes the views that the claimed one reads, each after those that it
// reads itself, where their data is too old for the target: they have no schedule,
// or a rarer one. One whose schedule is paused stays as it is.
func (s *Scheduler) pull(ctx context.Context, c claim) *refresh.UpstreamError {
	upstreams := s.upstreamsOf(c.view)
	if len(upstreams) == 0 {
		return nil
	}
	ctx, release := s.Refresher.KeepAlive(ctx, c.attempt)
	defer release()
	goal := schedule.Goal{Staleness: c.row.TargetStaleness}
	for _, upstream := range upstreams {
		if err := s.pullOne(ctx, upstream, c.view, goal); err != nil {
			return refresh.NewUpstreamError(upstream, err)
		}
	}
	return nil
}

func (s *Scheduler) pullOne(ctx context.Context, upstream, reader string, goal schedule.Goal) error {
	due, err := s.awaitOld(ctx, upstream, goal)
	if err != nil || !due {
		return err
	}
	row, scheduled, err := schedule.Of(ctx, s.Pool, s.Schema, upstream)
	if err != nil || scheduled && !row.Enabled {
		return err
	}
	if !scheduled {
		row = schedule.Row{Method: string(refresh.Auto), LockTimeout: schedule.DefaultLockTimeout}
	}
	pulled := claim{row: row, view: upstream}
	began := time.Now()
	result, err := s.Refresher.Refresh(ctx, pulled.request())
	s.report(pulled, began, result, err, "before", reader)
	if err != nil {
		return err
	}
	return s.planNextStart(ctx, pulled)
}

// awaitOld is whether the data of a view is too old for the goal of one that reads
// it, or of unknown age, once no refresh of it is under way.
func (s *Scheduler) awaitOld(ctx context.Context, view string, goal schedule.Goal) (bool, error) {
	for {
		var age *float64
		var running bool
		err := s.Pool.QueryRow(ctx, `
SELECT f.staleness_seconds, f.refresh_in_progress FROM `+postgres.QuoteIdent(s.Schema, "materialized_view_freshness")+` AS f
WHERE f.view_name = $1`, view).Scan(&age, &running)
		if err != nil {
			return false, fmt.Errorf("read how old it is: %w", err)
		}
		if !running {
			return age == nil || !goal.YoungEnough(seconds(*age)), nil
		}
		select {
		case <-time.After(waitingPoll):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// planNextStart sets the next run of a view with a target, now that its data has
// the as-of that it has. A skipped refresh may have left that where it was.
func (s *Scheduler) planNextStart(ctx context.Context, c claim) error {
	if c.row.TargetStaleness == 0 {
		return nil
	}
	goals, err := s.readGoals(ctx, map[string]time.Duration{c.view: c.row.TargetStaleness})
	if err != nil {
		return err
	}
	goal := goals[c.view]
	s.sayReachable(c.view, goal)
	var asOf *time.Time
	var now time.Time
	err = s.Pool.QueryRow(ctx, "SELECT clock_timestamp(), (SELECT data_as_of FROM "+s.table("state")+" WHERE view_name = $1)", c.view).Scan(&now, &asOf)
	if err != nil {
		return fmt.Errorf("read the as-of: %w", err)
	}
	if asOf == nil { // a view that it reads is of unknown age
		asOf = &now
	}
	next := goal.NextStart(c.view, *asOf, now, c.row.Jitter)
	// Unless the schedule has changed meanwhile: the next run is that one's then.
	_, err = s.Pool.Exec(ctx, `
UPDATE `+s.table("state")+` AS st SET next_run_at = $2
FROM `+s.table("schedule")+` AS s
WHERE st.view_name = $1 AND s.view_name = st.schedule_name AND s.target_staleness = $3::bigint * interval '1 microsecond'`,
		c.view, next, c.row.TargetStaleness.Microseconds())
	if err != nil {
		return fmt.Errorf("store the next run: %w", err)
	}
	return nil
}

// sayReachable says once that a target cannot be met, and once that it can again.
func (s *Scheduler) sayReachable(view string, goal schedule.Goal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reachable := goal.Reachable()
	if reachable == !s.unreachable[view] {
		return
	}
	s.unreachable[view] = !reachable
	if reachable {
		s.Logger.Info("the target is within reach again", "view", view, "target_staleness", goal.Staleness, "refresh_takes", goal.Lead)
		return
	}
	s.Logger.Warn("the target cannot be met: "+unreachable(goal), "view", view, "target_staleness", goal.Staleness, "refresh_takes", goal.Lead)
}

// unreachable says why, and what to do.
func unreachable(goal schedule.Goal) string {
	return fmt.Sprintf("refreshes, with those of the views that it reads, take %s at the 95th percentile, and data is twice as old when one follows the other; make them faster or the target longer",
		goal.Lead.Round(time.Millisecond))
}
