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

// Counted, since for EXISTS the planner expects to find one soon, and takes a plan
// that compares every schedule with every state where there is none.
const anyChangedSQL = `(
    SELECT count(*) > 0 FROM %[2]s AS s LEFT JOIN %[1]s AS st ON st.schedule_name = s.view_name
    WHERE st.scheduled_by IS DISTINCT FROM ` + specSQL + `)`

// outlook is what there is to do.
type outlook struct {
	changed   bool          // schedules that have no next run yet
	untilDead time.Duration // when an attempt is dead unless its heartbeat goes on; not positive when one is
	untilDue  time.Duration // by the database's clock; not positive when a view is due
	waiting   bool          // a view is due that waits for one that it reads
	standby   bool          // the server takes no writes
}

// A view whose attempt is running is not due until that has ended, nor one that
// waits for another.
const lookSQL = `
SELECT CASE WHEN $6 THEN ` + anyChangedSQL + ` ELSE false END,
       (SELECT extract(epoch FROM min(coalesce(heartbeat_at, started_at)) - clock_timestamp())::double precision + $5
        FROM %[3]s WHERE outcome = 'running'),
       (SELECT extract(epoch FROM st.next_run_at - clock_timestamp())::double precision
        FROM %[1]s AS st JOIN %[2]s AS s ON s.view_name = st.schedule_name AND s.enabled
        WHERE st.next_run_at IS NOT NULL
          AND NOT EXISTS (SELECT FROM %[3]s AS h WHERE h.outcome = 'running' AND h.view_name = st.view_name)
          AND NOT (st.next_run_at <= clock_timestamp() AND ` + waitsSQL + `)
        ORDER BY st.next_run_at LIMIT 1),
       cardinality($1::text[]) > 0
       AND EXISTS (SELECT FROM %[1]s AS st WHERE st.next_run_at <= clock_timestamp() AND ` + waitsSQL + `),
       pg_is_in_recovery()`

// look asks the database what there is to do; whether schedules have changed, which
// it has to compare one by one, only if told to.
func (s *Scheduler) look(ctx context.Context, compare bool) (outlook, error) {
	var o outlook
	var untilDue, untilDead *float64
	readers, read := s.pairs()
	sql := fmt.Sprintf(lookSQL, s.table("state"), s.table("schedule"), s.table("history"))
	args := []any{readers, read, s.upstreamWait(), true, refresh.DeadAfter.Seconds(), compare}
	if compare {
		// A plan that was made when there were few schedules could compare for seconds.
		args = append([]any{pgx.QueryExecModeCacheDescribe}, args...)
	}
	err := s.Pool.QueryRow(ctx, sql, args...).Scan(&o.changed, &untilDead, &untilDue, &o.waiting, &o.standby)
	if err != nil {
		return outlook{}, fmt.Errorf("look for due refreshes: %w", err)
	}
	o.untilDue, o.untilDead = orNever(untilDue), orNever(untilDead)
	return o, nil
}

func orNever(s *float64) time.Duration {
	if s == nil {
		return time.Hour
	}
	return seconds(*s)
}

// reconcile gives each new or changed schedule its next run: at once where the
// view has no verified record.
func (s *Scheduler) reconcile(ctx context.Context) error {
	changed, err := collectMany(ctx, s.Pool, func(row pgx.CollectableRow) (*planned, error) {
		p := &planned{}
		var err error
		p.row, err = schedule.Scan(row, &p.spec, &p.hasGap, &p.now)
		return p, err
	}, fmt.Sprintf(changedSQL, s.table("schedule"), s.table("state")))
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
	type named struct{ KnownAs, View string }
	found, err := collectMany(ctx, s.Pool, pgx.RowToStructByPos[named], fmt.Sprintf(`
WITH scheduled AS MATERIALIZED (
    SELECT n.known_as, n.view_name, n.view_oid, n.preference FROM %[1]s AS n JOIN %[2]s AS s ON s.view_name = n.known_as
)
SELECT known_as, view_name FROM scheduled
WHERE view_oid IN (SELECT c.view_oid FROM scheduled AS c JOIN unnest($1::text[]) AS changed(view_name) ON changed.view_name = c.known_as)
ORDER BY preference`, postgres.QuoteIdent(s.Schema, "materialized_view_names"), s.table("schedule")), names)
	if err != nil {
		return nil, fmt.Errorf("look up scheduled views: %w", err)
	}
	canonical, winner := map[string]string{}, map[string]string{}
	for _, n := range found {
		if _, known := canonical[n.KnownAs]; !known {
			canonical[n.KnownAs] = n.View
		}
		if _, known := winner[n.View]; !known {
			winner[n.View] = n.KnownAs
		}
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
	records, err := s.readRecords(ctx, changed)
	if err != nil {
		return err
	}
	for _, p := range changed {
		if p.err = Validate(p.row); p.err != nil {
			s.Logger.Error("this schedule cannot run", "view", p.row.ViewName, "err", p.err)
			continue
		}
		next := firstRun(p.row, p.view, records[p.view], p.now)
		p.next = &next
	}
	return nil
}

// record is what the read model says of a view's last refresh.
type record struct {
	View              string
	AsOf, RefreshedAt *time.Time
	DurationMS        *int64
}

func (s *Scheduler) readRecords(ctx context.Context, changed []*planned) (map[string]record, error) {
	views := make([]string, len(changed))
	for i, p := range changed {
		views[i] = p.view
	}
	// Not by collectMany: materialized_view_upstreams, which the read model calls for
	// each view that others refresh, lives on nested loops.
	rows, err := s.Pool.Query(ctx, `
SELECT f.view_name, f.data_as_of, f.last_refreshed_at, f.refresh_duration_ms
FROM unnest($1::text[]) AS c(view_name)
JOIN `+postgres.QuoteIdent(s.Schema, "materialized_view_freshness")+` AS f ON f.view_name = c.view_name`, pgx.QueryExecModeCacheDescribe, views)
	if err != nil {
		return nil, fmt.Errorf("read when views were refreshed last: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[record])
	if err != nil {
		return nil, fmt.Errorf("read when views were refreshed last: %w", err)
	}
	records := make(map[string]record, len(found))
	for _, r := range found {
		records[r.View] = r
	}
	return records, nil
}

// firstRun is now for a view without a verified record, and for one whose
// interval or target has passed.
func firstRun(row schedule.Row, name string, last record, now time.Time) time.Time {
	parsed, err := schedule.Parse(row.Spec)
	if err != nil || last.AsOf == nil || last.RefreshedAt == nil {
		return now
	}
	var took time.Duration
	if last.DurationMS != nil {
		took = time.Duration(*last.DurationMS) * time.Millisecond
	}
	if row.TargetStaleness > 0 {
		goal := schedule.Goal{Staleness: row.TargetStaleness, Lead: took}
		if next := goal.NextStart(name, *last.AsOf, time.Time{}, row.Jitter); next.After(now) {
			return next
		}
		return now
	}
	var lastStart time.Time
	if row.Every > 0 {
		lastStart = last.RefreshedAt.Add(-took)
		if !lastStart.Add(row.Every).After(now) {
			return now
		}
	}
	if next := parsed.NextRun(name, now, lastStart); !next.IsZero() {
		return next
	}
	return now
}

// announce tells the observer which views are scheduled now.
func (s *Scheduler) announce(ctx context.Context) error {
	if s.Observer == nil {
		return nil
	}
	views, err := collectMany(ctx, s.Pool, pgx.RowTo[string], `
SELECT st.view_name FROM `+s.table("state")+` AS st JOIN `+s.table("schedule")+` AS s ON s.view_name = st.schedule_name`)
	if err != nil {
		return fmt.Errorf("list scheduled views: %w", err)
	}
	s.Observer.Init(views)
	return nil
}
