package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// planner gives each new or changed schedule its next run. It is safe for
// concurrent use.
type planner struct {
	pool     *pgxpool.Pool
	store    *store.Store
	observer Observer // may be nil
	logger   *slog.Logger

	mu        sync.Mutex
	ignored   []store.IgnoredSchedule // further schedules of views that have one
	ignoredAt time.Time
}

// ignoredTTL is how long a further schedule stays ignored: the names of views may
// change while no schedule does.
const ignoredTTL = time.Minute

// plan plans the schedules that are new or have changed: at once where the view
// has no verified record.
func (p *planner) plan(ctx context.Context) error {
	changed, err := p.store.UnplannedSchedules(ctx, p.pool, p.ignoredNow())
	if err != nil || len(changed) == 0 {
		return err
	}
	canonical, err := p.resolve(ctx, changed)
	if err != nil || len(canonical) == 0 {
		return err
	}
	plans, err := p.plans(ctx, changed, canonical)
	if err != nil {
		return err
	}
	if err := p.storePlans(ctx, plans); err != nil {
		return err
	}
	if p.observer == nil {
		return nil
	}
	views, err := p.store.ScheduledViews(ctx, p.pool)
	if err != nil {
		return err
	}
	p.observer.Init(views)
	return nil
}

// ignoredNow are the schedules that are known to be ignored.
func (p *planner) ignoredNow() []store.IgnoredSchedule {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.ignoredAt) > ignoredTTL {
		return nil
	}
	return p.ignored
}

// resolve finds the canonical name of each scheduled view, by the name of the
// schedule. Where two rows schedule one view under two of its names, the preferred
// name counts and the other row is left out.
func (p *planner) resolve(ctx context.Context, changed []store.UnplannedSchedule) (map[string]string, error) {
	names := make([]string, len(changed))
	for i, c := range changed {
		names[i] = c.ViewName
	}
	found, err := p.store.ScheduledNames(ctx, p.pool, names)
	if err != nil {
		return nil, err
	}
	views, preferred := map[string]string{}, map[string]string{}
	for _, n := range found {
		if _, known := views[n.KnownAs]; !known {
			views[n.KnownAs] = n.ViewName
		}
		if _, known := preferred[n.ViewName]; !known {
			preferred[n.ViewName] = n.KnownAs
		}
	}
	canonical := make(map[string]string, len(changed))
	for _, c := range changed {
		view, exists := views[c.ViewName]
		switch {
		case !exists:
			canonical[c.ViewName] = c.ViewName
		case preferred[view] == c.ViewName:
			canonical[c.ViewName] = view
		default:
			p.ignore(store.IgnoredSchedule{ViewName: c.ViewName, Version: c.Version, Kept: preferred[view]}, view)
		}
	}
	return canonical, nil
}

// ignore remembers that a schedule is ignored, and logs it once.
func (p *planner) ignore(ignored store.IgnoredSchedule, view string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := slices.ContainsFunc(p.ignored, func(i store.IgnoredSchedule) bool { return i.ViewName == ignored.ViewName && i.Kept == ignored.Kept })
	if !known {
		p.logger.Warn("a second schedule for one view is ignored", "view", view, "ignored", ignored.ViewName, "kept", ignored.Kept)
	}
	p.ignored = slices.DeleteFunc(slices.Clone(p.ignored), func(i store.IgnoredSchedule) bool { return i.ViewName == ignored.ViewName })
	p.ignored, p.ignoredAt = append(p.ignored, ignored), time.Now()
}

// plans computes the next runs of the schedules that have a canonical name.
func (p *planner) plans(ctx context.Context, changed []store.UnplannedSchedule, canonical map[string]string) ([]store.Plan, error) {
	var views []string
	for _, view := range canonical {
		views = append(views, view)
	}
	records, err := p.store.LastRefreshes(ctx, p.pool, views)
	if err != nil {
		return nil, err
	}
	var plans []store.Plan
	for _, c := range changed {
		view, counts := canonical[c.ViewName]
		if !counts {
			continue
		}
		if c.TooLate != nil {
			p.logger.Warn("the clock of the database was set back: the next run is planned anew", "view", c.ViewName, "was", c.TooLate)
		}
		plan := store.Plan{ViewName: view, ScheduleName: c.ViewName, Version: c.Version}
		if err := Validate(c.Schedule); err != nil {
			p.logger.Error("this schedule cannot run", "view", c.ViewName, "err", err)
			problem := "schedule: " + err.Error()
			plan.Problem = &problem
		} else {
			next := firstRun(c.Schedule, view, records[view], c.ReadAt)
			plan.NextRunAt = &next
			if !c.HasLongestGap {
				plan.LongestGap = c.LongestGap()
			}
		}
		plans = append(plans, plan)
	}
	return plans, nil
}

// firstRun is now for a view without a verified record, and for one whose
// interval or target has passed.
func firstRun(row store.Schedule, view string, last store.LastRefresh, now time.Time) time.Time {
	parsed, err := schedule.Parse(row.Spec)
	if err != nil || last.DataAsOf == nil || last.LastRefreshedAt == nil {
		return now
	}
	var took time.Duration
	if last.RefreshDurationMS != nil {
		took = time.Duration(*last.RefreshDurationMS) * time.Millisecond
	}
	if row.TargetStaleness > 0 {
		goal := schedule.Goal{Staleness: row.TargetStaleness, Lead: took}
		if next := goal.NextStart(view, *last.DataAsOf, time.Time{}, row.Jitter); next.After(now) {
			return next
		}
		return now
	}
	var lastStart time.Time
	if row.Every > 0 {
		lastStart = last.LastRefreshedAt.Add(-took)
		if !lastStart.Add(row.Every).After(now) {
			return now
		}
	}
	if next := parsed.NextRun(view, now, lastStart); !next.IsZero() {
		return next
	}
	return now
}

// plansPerTransaction bounds a transaction that stores plans: after each, views may
// be claimed, and its plans stay if the rest fails.
const plansPerTransaction = 500

// storePlans stores plans. A view whose state is locked is left for the next round.
func (p *planner) storePlans(ctx context.Context, plans []store.Plan) error {
	slices.SortFunc(plans, func(a, b store.Plan) int { return cmp.Compare(a.ViewName, b.ViewName) })
	for chunk := range slices.Chunk(plans, plansPerTransaction) {
		if err := p.storeUnlocked(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

// storeUnlocked stores the plans whose state is not locked, by halving them until
// the locked ones are alone.
func (p *planner) storeUnlocked(ctx context.Context, plans []store.Plan) error {
	err := p.store.StorePlans(ctx, p.pool, plans)
	if postgres.SQLState(err) == pgerrcode.LockNotAvailable {
		if len(plans) == 1 {
			p.logger.Debug("the next run is not stored yet: another session has not committed its refresh", "view", plans[0].ViewName)
			return nil
		}
		half := len(plans) / 2
		if err := p.storeUnlocked(ctx, plans[:half]); err != nil {
			return err
		}
		return p.storeUnlocked(ctx, plans[half:])
	}
	if err != nil {
		return fmt.Errorf("store the next runs of %s and those after it: %w", plans[0].ViewName, err)
	}
	return nil
}
