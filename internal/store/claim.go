package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Waiting says which due views wait for a view that they read, which is due too or
// being refreshed, here or elsewhere.
type Waiting struct {
	// Readers[i] reads Upstreams[i], also through other materialized views.
	Readers, Upstreams []string
	// Longest is for how long after it fell due a view waits.
	Longest time.Duration
	// OnlyRunning: do not wait for views that are only due, as nobody else may be
	// there to refresh them.
	OnlyRunning bool
}

func (w Waiting) args(more pgx.NamedArgs) pgx.NamedArgs {
	args := pgx.NamedArgs{
		// Of a NULL array every view would wait.
		"readers": append([]string{}, w.Readers...), "upstreams": append([]string{}, w.Upstreams...),
		"longest_wait": w.Longest, "only_running": w.OnlyRunning,
	}
	for name, value := range more {
		args[name] = value
	}
	return args
}

// isRunning is the condition that the view of the state st is being refreshed.
const isRunning = `EXISTS (SELECT FROM {history} AS h WHERE h.outcome = 'running' AND h.view_name = st.view_name)`

// isWaiting is the condition that st, which is due, waits for another view. The
// dependencies are joined once a statement, however many views are due.
const isWaiting = `(st.next_run_at > clock_timestamp() - @longest_wait::interval
     AND st.view_name IN (SELECT w.reader FROM ` + waitingPairs + ` AS w))`

// waitingPairs are pairs of a view and one that it waits for, if it is due. It waits
// only if it fell due after the other was last attempted: each reader has its turn
// after one run, however often the view that it reads is due.
const waitingPairs = `(
    SELECT e.reader, e.upstream FROM unnest(@readers::text[], @upstreams::text[]) AS e(reader, upstream)
    JOIN ` + busyViews + ` AS b ON b.view_name = e.upstream
    JOIN {state} AS r ON r.view_name = e.reader AND r.next_run_at > b.attempted_at)`

// busyViews are the views that are due or being refreshed.
const busyViews = `(
    SELECT u.view_name, ` + attemptedAt + ` AS attempted_at
    FROM {state} AS u JOIN {schedule} AS us ON us.view_name = u.schedule_name AND us.enabled
    WHERE NOT @only_running AND u.next_run_at <= clock_timestamp()
    UNION ALL
    SELECT h.view_name, ` + attemptedAt + `
    FROM {history} AS h LEFT JOIN {state} AS u ON u.view_name = h.view_name WHERE h.outcome = 'running')`

// attemptedAt is when the view of the state u was last attempted. An abandoned
// attempt does not count, but the second in a row does.
const attemptedAt = `CASE WHEN u.last_outcome = 'abandoned' AND u.consecutive_failures = 1 THEN '-infinity' ELSE coalesce(u.last_attempt_at, '-infinity') END`

// Outlook is what there is to do for a scheduler.
type Outlook struct {
	HasUnplanned bool          // schedules are new or have changed
	UntilDead    time.Duration // until an attempt counts as dead, if it stays silent; an hour at most
	UntilDue     time.Duration // until the next view is due; an hour at most
	HasWaiting   bool          // a view is due that waits for one that it reads
	IsStandby    bool          // the server takes no writes
}

// Outlook reads what there is to do. Only if compare is set does it compare every
// schedule with its plan, unless that is ignored.
func (s *Store) Outlook(ctx context.Context, db DB, waiting Waiting, compare bool, ignored []IgnoredSchedule) (Outlook, error) {
	args, more := waiting.args(ignoredArgs(ignored)), []any{}
	hasUnplanned := "false"
	if compare {
		// Counted, since for EXISTS the planner expects to find one soon, and picks a plan
		// that compares every schedule with every state where there is none.
		hasUnplanned = `(SELECT count(*) > 0 FROM {schedule} AS s LEFT JOIN {state} AS st ON st.schedule_name = s.view_name WHERE ` + unplanned + `)`
		// A plan that was made when there were few schedules could compare for seconds.
		more = append(more, pgx.QueryExecModeCacheDescribe)
	}
	// A view whose attempt is running is not due until that has ended, nor is one that
	// waits for another.
	outlook, err := collectOne[Outlook](db.Query(ctx, s.SQL(`
SELECT `+hasUnplanned+` AS has_unplanned,
       least((SELECT min(CASE WHEN `+beatsLater+` THEN interval '0'
                              ELSE coalesce(heartbeat_at, started_at) + {attempt_timeout}() - clock_timestamp() END)
              FROM {history} WHERE outcome = 'running'), interval '1 hour') AS until_dead,
       least((SELECT st.next_run_at - clock_timestamp()
              FROM {state} AS st JOIN {schedule} AS s ON s.view_name = st.schedule_name AND s.enabled
              WHERE st.next_run_at IS NOT NULL AND NOT `+isRunning+`
                AND NOT (st.next_run_at <= clock_timestamp() AND `+isWaiting+`)
              ORDER BY st.next_run_at LIMIT 1), interval '1 hour') AS until_due,
       cardinality(@readers::text[]) > 0
       AND EXISTS (SELECT FROM {state} AS st WHERE st.next_run_at <= clock_timestamp() AND `+isWaiting+`) AS has_waiting,
       pg_is_in_recovery() AS is_standby`), append(more, args)...))
	if err != nil {
		return Outlook{}, fmt.Errorf("look for due refreshes: %w", err)
	}
	return outlook, nil
}

// DueViews lists the views that are due, by canonical names.
func (s *Store) DueViews(ctx context.Context, db DB) ([]string, error) {
	rows, err := db.Query(ctx, s.SQL(`
SELECT st.view_name FROM {state} AS st
JOIN {schedule} AS s ON s.view_name = st.schedule_name AND s.enabled
WHERE st.next_run_at <= clock_timestamp() ORDER BY st.next_run_at`))
	if err != nil {
		return nil, fmt.Errorf("list due refreshes: %w", err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list due refreshes: %w", err)
	}
	return views, nil
}

// IsWaiting is whether a view is due, not being refreshed, and waits for another.
func (s *Store) IsWaiting(ctx context.Context, db DB, waiting Waiting, view string) (is bool, err error) {
	err = db.QueryRow(ctx, s.SQL(`
SELECT EXISTS (SELECT FROM {state} AS st
               WHERE st.view_name = @view AND st.next_run_at <= clock_timestamp() AND `+isWaiting+` AND NOT `+isRunning+`)`),
		waiting.args(pgx.NamedArgs{"view": view})).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("read whether %s waits: %w", view, err)
	}
	return is, nil
}

// WaitsFor reads, for each due view that waits, what it waits for, separated by commas.
func (s *Store) WaitsFor(ctx context.Context, db DB, waiting Waiting) (map[string]string, error) {
	type wait struct{ Reader, Upstreams string }
	waits, err := collect[wait](db.Query(ctx, s.SQL(`
SELECT w.reader, string_agg(DISTINCT w.upstream, ', ' ORDER BY w.upstream) AS upstreams
FROM `+waitingPairs+` AS w
JOIN {state} AS st ON st.view_name = w.reader AND st.next_run_at <= clock_timestamp()
                  AND st.next_run_at > clock_timestamp() - @longest_wait::interval
GROUP BY w.reader`), waiting.args(nil)))
	if err != nil {
		return nil, fmt.Errorf("read what views wait for: %w", err)
	}
	upstreams := make(map[string]string, len(waits))
	for _, w := range waits {
		upstreams[w.Reader] = w.Upstreams
	}
	return upstreams, nil
}

// DueSchedule is a due view, whose state is locked.
type DueSchedule struct {
	Schedule
	CanonicalName string
	Version       string
	DueAt         time.Time
	ReadAt        time.Time // by the database's clock
}

// LockDue locks the states of up to limit due views, or only of the one named by
// view, until the transaction ends; it skips those that another session has locked.
// A view whose attempt is still running is not due: its missed runs become one.
func (s *Store) LockDue(ctx context.Context, tx pgx.Tx, waiting Waiting, limit int, view string) ([]DueSchedule, error) {
	return collect[DueSchedule](tx.Query(ctx, s.SQL(`
SELECT `+scheduleFields+`, st.view_name AS canonical_name, `+scheduleVersion+` AS version, st.next_run_at AS due_at, clock_timestamp() AS read_at
FROM {state} AS st
JOIN {schedule} AS s ON s.view_name = st.schedule_name AND s.enabled
WHERE st.next_run_at <= clock_timestamp() AND (@view = '' OR st.view_name = @view)
  AND NOT `+isRunning+`
  AND NOT `+isWaiting+`
ORDER BY st.next_run_at
LIMIT @limit
FOR UPDATE OF st SKIP LOCKED`), waiting.args(pgx.NamedArgs{"view": view, "limit": limit})))
}

// Claim is a due view to be claimed, with its next run.
type Claim struct {
	ViewName  string
	Version   string     // of the schedule that NextRunAt was computed from
	NextRunAt *time.Time // nil: never
}

// Claim sets the next run of each view and inserts its running attempt, whose ID it
// returns by the view's name. Both in one transaction: of an exporter that dies
// right after it, an attempt remains whose heartbeat stops.
//
// Under load the snapshot that a view was found due in may predate another
// exporter's claim or a change of the schedule. So this rechecks on the locked row,
// and leaves such views out.
func (s *Store) Claim(ctx context.Context, tx pgx.Tx, claims []Claim, attemptedBy string) (map[string]int64, error) {
	var views, versions []string
	var next []*time.Time
	for _, c := range claims {
		views, versions, next = append(views, c.ViewName), append(versions, c.Version), append(next, c.NextRunAt)
	}
	type attempt struct {
		ViewName string
		ID       int64
	}
	attempts, err := collect[attempt](tx.Query(ctx, s.SQL(`
WITH claimed AS (
    UPDATE {state} AS st SET next_run_at = c.next_run_at
    FROM unnest(@views::text[], @next::timestamptz[], @versions::text[]) AS c(view_name, next_run_at, version)
    WHERE st.view_name = c.view_name AND st.scheduled_by = c.version AND NOT `+isRunning+`
    RETURNING st.view_name
)
INSERT INTO {history} AS h (view_name, trigger, outcome, attempted_by, heartbeat_at)
SELECT c.view_name, 'schedule', 'running', @attempted_by, clock_timestamp() FROM claimed AS c
RETURNING h.view_name, h.id`), pgx.NamedArgs{"views": views, "next": next, "versions": versions, "attempted_by": attemptedBy}))
	if err != nil {
		return nil, err
	}
	ids := make(map[string]int64, len(attempts))
	for _, a := range attempts {
		ids[a.ViewName] = a.ID
	}
	return ids, nil
}

// FailedUpstream is a view that a claimed one reads, waited for, and that failed.
type FailedUpstream struct{ ViewName, Upstream, Cause string }

// FailedUpstreams finds the claimed views, due at some time, that waited for one
// that failed; of several, the one that failed first. It reports this once: the next
// attempt of a view is made whatever became of the other, or a view that also reads
// tables would never see their changes again.
func (s *Store) FailedUpstreams(ctx context.Context, tx pgx.Tx, waiting Waiting, dueAt map[string]time.Time) ([]FailedUpstream, error) {
	var views []string
	var due []time.Time
	for view, at := range dueAt {
		views, due = append(views, view), append(due, at)
	}
	return collect[FailedUpstream](tx.Query(ctx, s.SQL(`
SELECT DISTINCT ON (c.view_name) c.view_name, h.view_name AS upstream, coalesce(h.error, 'nobody knows why') AS cause
FROM unnest(@readers::text[], @upstreams::text[]) AS e(reader, upstream)
JOIN unnest(@views::text[], @due::timestamptz[]) AS c(view_name, due_at) ON c.view_name = e.reader
JOIN {state} AS st ON st.view_name = c.view_name
 AND (SELECT l.failed_upstream FROM {history} AS l
      WHERE l.view_name = c.view_name AND l.outcome <> 'running' ORDER BY l.started_at DESC LIMIT 1) IS NULL
JOIN LATERAL (SELECT l.view_name, l.outcome, l.finished_at, l.error, l.failed_upstream FROM {history} AS l
              WHERE l.view_name = e.upstream ORDER BY l.started_at DESC LIMIT 1) AS h
  ON h.outcome IN ('failed', 'abandoned') AND h.finished_at >= c.due_at
ORDER BY c.view_name, h.failed_upstream IS NOT NULL, h.finished_at`), pgx.NamedArgs{
		"readers": waiting.Readers, "upstreams": waiting.Upstreams, "views": views, "due": due,
	}))
}
