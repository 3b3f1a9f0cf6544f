package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// scheduleVersion is what the schedule s says of when and how its view runs, as
// scheduled_by stores it. Intervals are in seconds, since the text of an interval
// depends on the session. The text of a row distinguishes NULL from any value.
const scheduleVersion = `ROW(s.method, s.cron, extract(epoch FROM s.every), extract(epoch FROM s.target_staleness), s.time_zone, extract(epoch FROM s.jitter), extract(epoch FROM s.created_at))::text`

// unplanned is the condition that the schedule s is new or has changed since its
// next run was computed into the state st, or that this run is [tooLate]. A schedule
// that was ignored as it is now, for the sake of another one that still exists, is not.
const unplanned = `(st.scheduled_by IS DISTINCT FROM ` + scheduleVersion + `
  AND NOT EXISTS (SELECT FROM unnest(@ignored::text[], @ignored_versions::text[], @kept::text[]) AS i(view_name, version, kept)
                  JOIN {schedule} AS k ON k.view_name = i.kept
                  WHERE i.view_name = s.view_name AND i.version = ` + scheduleVersion + `)
  OR ` + tooLate + `)`

// tooLate is the condition that the next run of the state st is later than the schedule
// s ever puts it: it was planned before the clock was set back.
const tooLate = `coalesce(st.next_run_at > clock_timestamp() + coalesce(s.every, s.target_staleness, s.longest_gap)
           + coalesce(s.jitter, interval '0') + interval '1 minute', false)`

// IgnoredSchedule is a second schedule of a view: the one stored as Kept counts.
type IgnoredSchedule struct{ ViewName, Version, Kept string }

func ignoredArgs(ignored []IgnoredSchedule) pgx.NamedArgs {
	names, versions, kept := []string{}, []string{}, []string{} // a NULL array would match nothing
	for _, i := range ignored {
		names, versions, kept = append(names, i.ViewName), append(versions, i.Version), append(kept, i.Kept)
	}
	return pgx.NamedArgs{"ignored": names, "ignored_versions": versions, "kept": kept}
}

// UnplannedSchedule is one that is new or has changed since its next run was computed.
type UnplannedSchedule struct {
	Schedule
	Version       string
	HasLongestGap bool
	TooLate       *time.Time // the next run that was planned before the clock was set back; nil: none
	ReadAt        time.Time  // by the database's clock
}

// UnplannedSchedules reads the schedules to plan, but for those that are ignored.
func (s *Store) UnplannedSchedules(ctx context.Context, db Beginner, ignored []IgnoredSchedule) ([]UnplannedSchedule, error) {
	found, err := queryWithoutNestedLoops(ctx, db, pgx.RowToStructByName[UnplannedSchedule], s.SQL(`
SELECT `+scheduleFields+`, `+scheduleVersion+` AS version, s.longest_gap IS NOT NULL AS has_longest_gap,
       CASE WHEN `+tooLate+` THEN st.next_run_at END AS too_late, clock_timestamp() AS read_at
FROM {schedule} AS s
LEFT JOIN {state} AS st ON st.schedule_name = s.view_name
WHERE `+unplanned), ignoredArgs(ignored))
	if err != nil {
		return nil, fmt.Errorf("read changed schedules: %w", err)
	}
	return found, nil
}

// ScheduledName is a name that a schedule is stored under, and the canonical name
// of its view.
type ScheduledName struct{ KnownAs, ViewName string }

// ScheduledNames reads, of the views of some schedules, all the names that they
// have schedules under, the preferred name first.
func (s *Store) ScheduledNames(ctx context.Context, db Beginner, schedules []string) ([]ScheduledName, error) {
	found, err := queryWithoutNestedLoops(ctx, db, pgx.RowToStructByName[ScheduledName], s.SQL(`
WITH scheduled AS MATERIALIZED (
    SELECT n.known_as, n.view_name, n.view_oid, n.preference FROM {names} AS n JOIN {schedule} AS s ON s.view_name = n.known_as
)
SELECT known_as, view_name FROM scheduled
WHERE view_oid IN (SELECT c.view_oid FROM scheduled AS c JOIN unnest(@schedules::text[]) AS changed(view_name) ON changed.view_name = c.known_as)
ORDER BY preference`), pgx.NamedArgs{"schedules": schedules})
	if err != nil {
		return nil, fmt.Errorf("look up scheduled views: %w", err)
	}
	return found, nil
}

// ScheduledViews lists the views, by canonical names, that have a plan.
func (s *Store) ScheduledViews(ctx context.Context, db Beginner) ([]string, error) {
	views, err := queryWithoutNestedLoops(ctx, db, pgx.RowTo[string], s.SQL(`
SELECT st.view_name FROM {state} AS st JOIN {schedule} AS s ON s.view_name = st.schedule_name`), pgx.NamedArgs{})
	if err != nil {
		return nil, fmt.Errorf("list scheduled views: %w", err)
	}
	return views, nil
}

// LastRefresh is what the read model says of a view's last refresh.
type LastRefresh struct {
	ViewName                  string
	DataAsOf, LastRefreshedAt *time.Time
	RefreshDurationMS         *int64
}

// LastRefreshes reads the last refreshes of views, by canonical names.
func (s *Store) LastRefreshes(ctx context.Context, db DB, views []string) (map[string]LastRefresh, error) {
	// Not without nested loops: {upstreams}, which the read model calls for each view
	// that others refresh, relies on them.
	found, err := collect[LastRefresh](db.Query(ctx, s.SQL(`
SELECT f.view_name, f.data_as_of, f.last_refreshed_at, f.refresh_duration_ms
FROM unnest(@views::text[]) AS c(view_name)
JOIN {freshness} AS f ON f.view_name = c.view_name`), pgx.QueryExecModeCacheDescribe, pgx.NamedArgs{"views": views}))
	if err != nil {
		return nil, fmt.Errorf("read when views were refreshed last: %w", err)
	}
	records := make(map[string]LastRefresh, len(found))
	for _, r := range found {
		records[r.ViewName] = r
	}
	return records, nil
}

// Plan is the next run that a schedule gives its view.
type Plan struct {
	ViewName     string // canonical; the schedule's own while there is no such view
	ScheduleName string
	Version      string
	NextRunAt    *time.Time // nil: it cannot run
	Problem      *string    // why it cannot run
	LongestGap   time.Duration
}

// boundLockWait limits the wait for a row of ours that a session holds which has
// refreshed its view and not committed yet: the event trigger writes the row
// within that transaction, which may be idle for hours.
const boundLockWait = `SELECT set_config('lock_timeout', '200ms', true)`

// StorePlans writes plans in one transaction, each unless another exporter has
// written it meanwhile: that run may have begun already. It fails with
// [pgerrcode.LockNotAvailable] where a view's state is locked. Sort plans by
// ViewName, or two exporters could deadlock.
func (s *Store) StorePlans(ctx context.Context, db BatchSender, plans []Plan) error {
	var views, schedules, versions, withGap []string
	var next []*time.Time
	var problems []*string
	var gaps []time.Duration
	for _, p := range plans {
		views, schedules, versions = append(views, p.ViewName), append(schedules, p.ScheduleName), append(versions, p.Version)
		next, problems = append(next, p.NextRunAt), append(problems, p.Problem)
		if p.LongestGap > 0 {
			withGap, gaps = append(withGap, p.ScheduleName), append(gaps, p.LongestGap)
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(boundLockWait)
	batch.Queue(s.SQL(`
UPDATE {state} AS st SET schedule_name = NULL, next_run_at = NULL
FROM unnest(@schedules::text[], @views::text[]) AS p(schedule_name, view_name)
WHERE st.schedule_name = p.schedule_name AND st.view_name <> p.view_name`), pgx.NamedArgs{"schedules": schedules, "views": views})
	// Where the schedule could not run before, last_error may say why: replace it by
	// the error of the last attempt.
	batch.Queue(s.SQL(`
INSERT INTO {state} AS st (view_name, schedule_name, scheduled_by, next_run_at, last_error)
SELECT * FROM unnest(@views::text[], @schedules::text[], @versions::text[], @next::timestamptz[], @problems::text[])
ON CONFLICT (view_name) DO UPDATE SET schedule_name = EXCLUDED.schedule_name, scheduled_by = EXCLUDED.scheduled_by,
    next_run_at = EXCLUDED.next_run_at,
    last_error = CASE WHEN EXCLUDED.last_error IS NOT NULL THEN EXCLUDED.last_error
                      WHEN st.next_run_at IS NOT NULL THEN st.last_error
                      WHEN st.consecutive_failures > 0
                      THEN (SELECT h.error FROM {history} AS h WHERE h.view_name = st.view_name AND h.outcome IN ('failed', 'abandoned')
                            ORDER BY h.started_at DESC LIMIT 1)
                 END
WHERE (st.schedule_name, st.scheduled_by) IS DISTINCT FROM (EXCLUDED.schedule_name, EXCLUDED.scheduled_by)
   OR (SELECT `+tooLate+` FROM {schedule} AS s WHERE s.view_name = EXCLUDED.schedule_name)`),
		pgx.NamedArgs{"views": views, "schedules": schedules, "versions": versions, "next": next, "problems": problems})
	if len(gaps) > 0 {
		batch.Queue(s.SQL(`
UPDATE {schedule} AS s SET longest_gap = g.gap
FROM unnest(@schedules::text[], @gaps::interval[]) AS g(view_name, gap)
WHERE s.view_name = g.view_name AND s.longest_gap IS NULL`), pgx.NamedArgs{"schedules": withGap, "gaps": gaps})
	}
	return db.SendBatch(ctx, batch).Close()
}

// RecordedAsOf reads the as-of of a view's data, nil if it is not known, and the
// database's clock.
func (s *Store) RecordedAsOf(ctx context.Context, db DB, view string) (asOf *time.Time, now time.Time, err error) {
	err = db.QueryRow(ctx, s.SQL(`SELECT clock_timestamp(), (SELECT data_as_of FROM {state} WHERE view_name = @view)`),
		pgx.NamedArgs{"view": view}).Scan(&now, &asOf)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the as-of: %w", err)
	}
	return asOf, now, nil
}

// SetNextRun sets the next run of a view, unless its schedule has got another
// target_staleness meanwhile: that one's plan stands then.
func (s *Store) SetNextRun(ctx context.Context, db DB, view string, next time.Time, target time.Duration) error {
	_, err := db.Exec(ctx, s.SQL(`
UPDATE {state} AS st SET next_run_at = @next
FROM {schedule} AS s
WHERE st.view_name = @view AND s.view_name = st.schedule_name AND s.target_staleness = @target`),
		pgx.NamedArgs{"view": view, "next": next, "target": target})
	if err != nil {
		return fmt.Errorf("store the next run: %w", err)
	}
	return nil
}

// BackOff brings a failed view's next run forward to a retry: after first, after
// twice that at the next failure in a row, and so on up to longest, but never past
// its next regular run. A view whose schedule cannot run is not tried again.
func (s *Store) BackOff(ctx context.Context, db DB, view string, first, longest time.Duration) error {
	_, err := db.Exec(ctx, s.SQL(`
UPDATE {state}
SET next_run_at = least(next_run_at, clock_timestamp()
                        + least(power(2, least(greatest(consecutive_failures, 1), 20) - 1) * @first::interval, @longest::interval))
WHERE view_name = @view AND next_run_at IS NOT NULL`), pgx.NamedArgs{"view": view, "first": first, "longest": longest})
	return err
}
