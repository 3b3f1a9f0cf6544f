package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// planned is a schedule that is new or has changed since its next run was computed.
type planned struct {
	row    schedule.Row
	spec   string // what scheduled_by remembers
	hasGap bool
	now    time.Time // the database's

	view string // canonical; the row's own name while there is no such view
	next *time.Time
	err  error // why it cannot run
}

// As seconds, since the text of an interval depends on the session.
const specSQL = `concat_ws('|', s.method, s.cron, extract(epoch FROM s.every), extract(epoch FROM s.target_staleness), s.time_zone, extract(epoch FROM s.jitter), extract(epoch FROM s.created_at))`

const changedSQL = `
SELECT ` + schedule.Columns + `, ` + specSQL + `, s.longest_gap IS NOT NULL, clock_timestamp()
FROM %s AS s
LEFT JOIN %s AS st ON st.schedule_name = s.view_name
WHERE st.scheduled_by IS DISTINCT FROM ` + specSQL

// outlook is what there is to do.
type outlook struct {
	changed   bool          // schedules that have no next run yet
	abandoned bool          // attempts without a heartbeat
	untilDue  time.Duration // by the database's clock; not positive when a view is due
	waiting   bool          // a view is due that waits for one that it reads
	standby   bool          // the server takes no writes
}

// A view whose attempt is running is not due until that has ended, nor one that
// waits for another.
const lookSQL = `
SELECT EXISTS (SELECT FROM %[2]s AS s LEFT JOIN %[1]s AS st ON st.schedule_name = s.view_name
               WHERE st.scheduled_by IS DISTINCT FROM ` + specSQL + `),
       EXISTS (SELECT FROM %[3]s WHERE outcome = 'running'
               AND coalesce(heartbeat_at, started_at) < clock_timestamp() - $5 * interval '1 second'),
       (SELECT extract(epoch FROM st.next_run_at - clock_timestamp())::double precision
        FROM %[1]s AS st JOIN %[2]s AS s ON s.view_name = st.schedule_name AND s.enabled
        WHERE st.next_run_at IS NOT NULL
          AND NOT EXISTS (SELECT FROM %[3]s AS h WHERE h.outcome = 'running' AND h.view_name = st.view_name)
          AND NOT (st.next_run_at <= clock_timestamp() AND ` + waitsSQL + `)
        ORDER BY st.next_run_at LIMIT 1),
       cardinality($1::text[]) > 0
       AND EXISTS (SELECT FROM %[1]s AS st WHERE st.next_run_at <= clock_timestamp() AND ` + waitsSQL + `),
       pg_is_in_recovery()`

func (s *Scheduler) look(ctx context.Context) (outlook, error) {
	var o outlook
	var seconds *float64
	readers, read := s.pairs()
	err := s.Pool.QueryRow(ctx, fmt.Sprintf(lookSQL, s.table("state"), s.table("schedule"), s.table("history")),
		readers, read, s.UpstreamWait.Seconds(), true, refresh.DeadAfter.Seconds()).Scan(&o.changed, &o.abandoned, &seconds, &o.waiting, &o.standby)
	if err != nil {
		return outlook{}, fmt.Errorf("look for due refreshes: %w", err)
	}
	o.untilDue = time.Hour
	if seconds != nil {
		o.untilDue = time.Duration(*seconds * float64(time.Second))
	}
	return o, nil
}

// reconcile gives each new or changed schedule its next run: at once where the
// view has no verified record.
func (s *Scheduler) reconcile(ctx context.Context) error {
	rows, err := s.Pool.Query(ctx, fmt.Sprintf(changedSQL, s.table("schedule"), s.table("state")))
	if err != nil {
		return fmt.Errorf("read changed schedules: %w", err)
	}
	changed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*planned, error) {
		p := &planned{}
		var err error
		p.row, err = schedule.Scan(row, &p.spec, &p.hasGap, &p.now)
		return p, err
	})
	if err != nil {
		return fmt.Errorf("read changed schedules: %w", err)
	}
	if changed, err = s.resolve(ctx, changed); err != nil || len(changed) == 0 {
		return err
	}
	if err := s.planNext(ctx, changed); err != nil {
		return err
	}
	if err := s.store(ctx, changed); err != nil {
		return err
	}
	return s.announce(ctx)
}

// resolve finds the canonical name of each scheduled view. Where two rows
// schedule one view under two of its names, the better name counts.
func (s *Scheduler) resolve(ctx context.Context, changed []*planned) ([]*planned, error) {
	names := make([]string, len(changed))
	for i, p := range changed {
		names[i] = p.row.ViewName
	}
	rows, err := s.Pool.Query(ctx, fmt.Sprintf(`
SELECT n.known_as, n.view_name
FROM %[1]s AS n JOIN %[2]s AS s ON s.view_name = n.known_as
WHERE n.view_oid IN (SELECT view_oid FROM %[1]s WHERE known_as = ANY ($1))
ORDER BY n.preference`, postgres.QuoteIdent(s.Schema, "materialized_view_names"), s.table("schedule")), names)
	if err != nil {
		return nil, fmt.Errorf("look up scheduled views: %w", err)
	}
	canonical, winner := map[string]string{}, map[string]string{}
	var knownAs, view string
	_, err = pgx.ForEachRow(rows, []any{&knownAs, &view}, func() error {
		if _, known := canonical[knownAs]; !known {
			canonical[knownAs] = view
		}
		if _, known := winner[view]; !known {
			winner[view] = knownAs
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up scheduled views: %w", err)
	}
	return slices.DeleteFunc(changed, func(p *planned) bool {
		var known bool
		if p.view, known = canonical[p.row.ViewName]; !known {
			p.view = p.row.ViewName
			return false
		}
		loses := winner[p.view] != p.row.ViewName
		if loses && !s.ignored[p.row.ViewName] {
			s.ignored[p.row.ViewName] = true
			s.Logger.Warn("a second schedule for one view is ignored", "view", p.view, "ignored", p.row.ViewName, "kept", winner[p.view])
		}
		return loses
	}), nil
}

func (s *Scheduler) planNext(ctx context.Context, changed []*planned) error {
	views, err := freshness.All(ctx, s.Pool, s.Schema)
	if err != nil {
		return err
	}
	byName := make(map[string]freshness.View, len(views))
	for _, v := range views {
		byName[v.Name] = v
	}
	for _, p := range changed {
		if p.err = Validate(p.row); p.err != nil {
			s.Logger.Error("this schedule cannot run", "view", p.row.ViewName, "err", p.err)
			continue
		}
		next := firstRun(p.row, p.view, byName[p.view], p.now)
		p.next = &next
	}
	return nil
}

// firstRun is now for a view without a verified record, and for one whose
// interval or target has passed.
func firstRun(row schedule.Row, name string, view freshness.View, now time.Time) time.Time {
	parsed, err := schedule.Parse(row.Spec)
	if err != nil || view.DataAsOf == nil || view.LastRefreshedAt == nil {
		return now
	}
	var took time.Duration
	if view.RefreshDurationMS != nil {
		took = time.Duration(*view.RefreshDurationMS) * time.Millisecond
	}
	if row.TargetStaleness > 0 {
		goal := schedule.Goal{Staleness: row.TargetStaleness, Lead: took}
		if next := goal.NextStart(name, *view.DataAsOf, time.Time{}, row.Jitter); next.After(now) {
			return next
		}
		return now
	}
	var lastStart time.Time
	if row.Every > 0 {
		lastStart = view.LastRefreshedAt.Add(-took)
		if !lastStart.Add(row.Every).After(now) {
			return now
		}
	}
	if next := parsed.NextRun(name, now, lastStart); !next.IsZero() {
		return next
	}
	return now
}

// store writes the plans, each unless another exporter was first: its run may
// have begun already. A view whose state is locked is left for the next round.
func (s *Scheduler) store(ctx context.Context, changed []*planned) error {
	for _, p := range changed {
		err := s.storePlan(ctx, p)
		if postgres.SQLState(err) == postgres.LockNotAvailable {
			s.Logger.Debug("the next run is not stored yet: another session has not committed its refresh", "view", p.view)
			continue
		}
		if err != nil {
			return fmt.Errorf("store the next run of %s: %w", p.view, err)
		}
	}
	return nil
}

// impatience bounds the wait for a row of ours that a session holds which has
// refreshed its view and not committed yet: the event trigger records within
// that transaction, which may be idle for hours.
const impatience = `SELECT set_config('lock_timeout', '200ms', true)`

func (s *Scheduler) storePlan(ctx context.Context, p *planned) error {
	var problem *string
	if p.err != nil {
		text := "schedule: " + p.err.Error()
		problem = &text
	}
	batch := &pgx.Batch{} // one transaction
	batch.Queue(impatience)
	batch.Queue(`UPDATE `+s.table("state")+` SET schedule_name = NULL, next_run_at = NULL WHERE schedule_name = $1 AND view_name <> $2`,
		p.row.ViewName, p.view)
	batch.Queue(`
INSERT INTO `+s.table("state")+` AS st (view_name, schedule_name, scheduled_by, next_run_at, last_error) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (view_name) DO UPDATE SET schedule_name = EXCLUDED.schedule_name, scheduled_by = EXCLUDED.scheduled_by,
    next_run_at = EXCLUDED.next_run_at, last_error = coalesce(EXCLUDED.last_error, st.last_error)
WHERE (st.schedule_name, st.scheduled_by) IS DISTINCT FROM (EXCLUDED.schedule_name, EXCLUDED.scheduled_by)`,
		p.view, p.row.ViewName, p.spec, p.next, problem)
	if gap := longestGap(p); gap > 0 {
		batch.Queue(`UPDATE `+s.table("schedule")+` SET longest_gap = $2::bigint * interval '1 microsecond' WHERE view_name = $1 AND longest_gap IS NULL`,
			p.row.ViewName, gap.Microseconds())
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

// announce tells the observer which views are scheduled now.
func (s *Scheduler) announce(ctx context.Context) error {
	if s.Observer == nil {
		return nil
	}
	rows, err := s.Pool.Query(ctx, `
SELECT st.view_name FROM `+s.table("state")+` AS st JOIN `+s.table("schedule")+` AS s ON s.view_name = st.schedule_name`)
	if err != nil {
		return fmt.Errorf("list scheduled views: %w", err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list scheduled views: %w", err)
	}
	s.Observer.Init(views)
	return nil
}
