package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// storedTogether bounds a transaction that stores plans: after each, views may be
// claimed, and what is stored stays if the rest fails.
const storedTogether = 500

// store writes the plans, each unless another exporter was first: its run may
// have begun already. A view whose state is locked is left for the next round.
func (s *Scheduler) store(ctx context.Context, changed []*planned) error {
	// In one order, or two exporters could deadlock.
	slices.SortFunc(changed, func(a, b *planned) int { return cmp.Compare(a.view, b.view) })
	for plans := range slices.Chunk(changed, storedTogether) {
		if err := s.storeFree(ctx, plans); err != nil {
			return err
		}
	}
	return nil
}

// storeFree stores those plans whose state is not locked, by halving them until
// the locked ones are alone.
func (s *Scheduler) storeFree(ctx context.Context, plans []*planned) error {
	err := s.storePlans(ctx, plans)
	if postgres.SQLState(err) == pgerrcode.LockNotAvailable {
		if len(plans) == 1 {
			s.Logger.Debug("the next run is not stored yet: another session has not committed its refresh", "view", plans[0].view)
			return nil
		}
		half := len(plans) / 2
		if err := s.storeFree(ctx, plans[:half]); err != nil {
			return err
		}
		return s.storeFree(ctx, plans[half:])
	}
	if err != nil {
		return fmt.Errorf("store the next runs of %s and those after it: %w", plans[0].view, err)
	}
	return nil
}

// impatience bounds the wait for a row of ours that a session holds which has
// refreshed its view and not committed yet: the event trigger records within
// that transaction, which may be idle for hours.
const impatience = `SELECT set_config('lock_timeout', '200ms', true)`

func (s *Scheduler) storePlans(ctx context.Context, plans []*planned) error {
	var views, rows, specs, withGap []string
	var next []*time.Time
	var problems []*string
	var gaps []int64 // µs
	for _, p := range plans {
		var problem *string
		if p.err != nil {
			text := "schedule: " + p.err.Error()
			problem = &text
		}
		views, rows, specs = append(views, p.view), append(rows, p.row.ViewName), append(specs, p.spec)
		next, problems = append(next, p.next), append(problems, problem)
		if gap := longestGap(p); gap > 0 {
			withGap, gaps = append(withGap, p.row.ViewName), append(gaps, gap.Microseconds())
		}
	}
	batch := &pgx.Batch{} // one transaction
	batch.Queue(impatience)
	batch.Queue(`
UPDATE `+s.table("state")+` AS st SET schedule_name = NULL, next_run_at = NULL
FROM unnest($1::text[], $2::text[]) AS p(schedule_name, view_name)
WHERE st.schedule_name = p.schedule_name AND st.view_name <> p.view_name`, rows, views)
	batch.Queue(`
INSERT INTO `+s.table("state")+` AS st (view_name, schedule_name, scheduled_by, next_run_at, last_error)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[])
ON CONFLICT (view_name) DO UPDATE SET schedule_name = EXCLUDED.schedule_name, scheduled_by = EXCLUDED.scheduled_by,
    next_run_at = EXCLUDED.next_run_at, last_error = coalesce(EXCLUDED.last_error, st.last_error)
WHERE (st.schedule_name, st.scheduled_by) IS DISTINCT FROM (EXCLUDED.schedule_name, EXCLUDED.scheduled_by)`,
		views, rows, specs, next, problems)
	if len(gaps) > 0 {
		batch.Queue(`
UPDATE `+s.table("schedule")+` AS s SET longest_gap = g.micros * interval '1 microsecond'
FROM unnest($1::text[], $2::bigint[]) AS g(view_name, micros)
WHERE s.view_name = g.view_name AND s.longest_gap IS NULL`, withGap, gaps)
	}
	return s.Pool.SendBatch(ctx, batch).Close()
}

// longestGap is 0 where it is known already, or not needed.
func longestGap(p *planned) time.Duration {
	if p.err != nil || p.hasGap || p.row.Cron == "" {
		return 0
	}
	parsed, err := schedule.Parse(p.row.Spec)
	if err != nil {
		return 0
	}
	return parsed.LongestGap()
}
