package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// ScheduleChannel is where PostgreSQL notifies of every changed schedule, with the
// view_name as payload.
const ScheduleChannel = "matview_schedule"

// Schedule is a row of materialized_view_refresh_schedule. NULL is the zero value.
type Schedule struct {
	ViewName string
	schedule.Spec
	Method           string
	Enabled          bool
	LockTimeout      time.Duration
	StatementTimeout time.Duration // 0: none
	MaxStaleness     time.Duration // 0: the default, from the schedule's longest gap
	SkipUnchanged    bool
	Settings         map[string]string
	TotalJobs        string // SQL expressions over the view; "" is none
	TotalObjects     string
}

// DefaultLockTimeout is the table's default for lock_timeout.
const DefaultLockTimeout = 10 * time.Second

// columnType says how a column, %[1]s, is read from the table's alias s and written
// from the argument of its name.
type columnType struct{ read, write string }

var (
	plain        = columnType{"s.%[1]s", "@%[1]s"}
	nullableText = columnType{"coalesce(s.%[1]s, '') AS %[1]s", "nullif(@%[1]s, '')"}
	interval     = columnType{"coalesce(" + nanoseconds("s.%[1]s") + ", 0) AS %[1]s", "nullif(@%[1]s::interval, '0')"}
	// Values written by hand may be numbers or booleans.
	jsonTexts = columnType{"(SELECT coalesce(jsonb_object_agg(key, coalesce(value, '')), '{}') FROM jsonb_each_text(s.%[1]s)) AS %[1]s", "@%[1]s"}
)

// nanoseconds turns an interval into what scans as a [time.Duration]. pgx would
// count a year as 360 days where PostgreSQL counts 365.25.
func nanoseconds(interval string) string {
	return "(extract(epoch FROM " + interval + ") * 1000000000)::bigint"
}

// scheduleTable is every column of a [Schedule], each with its type.
var scheduleTable = []struct {
	name string
	columnType
}{
	{"view_name", plain},
	{"cron", nullableText},
	{"every", interval},
	{"target_staleness", interval},
	{"time_zone", plain},
	{"jitter", interval},
	{"method", plain},
	{"enabled", plain},
	{"lock_timeout", interval},
	{"statement_timeout", interval},
	{"max_staleness", interval},
	{"skip_unchanged", plain},
	{"settings", jsonTexts},
	{"total_jobs", nullableText},
	{"total_objects", nullableText},
}

// scheduleFields selects the fields of a [Schedule] from an alias s of the table;
// scheduleColumns = scheduleValues writes them from [Schedule.args].
var scheduleFields, scheduleColumns, scheduleValues = func() (fields, columns, values string) {
	var reads, names, writes []string
	for _, c := range scheduleTable {
		reads = append(reads, fmt.Sprintf(c.read, c.name))
		names = append(names, c.name)
		writes = append(writes, fmt.Sprintf(c.write, c.name))
	}
	return strings.Join(reads, ", "), strings.Join(names, ", "), strings.Join(writes, ", ")
}()

func (r Schedule) args() pgx.NamedArgs {
	if r.Settings == nil {
		r.Settings = map[string]string{}
	}
	if r.TimeZone == "" {
		r.TimeZone = "UTC"
	}
	if r.LockTimeout == 0 {
		r.LockTimeout = DefaultLockTimeout
	}
	return pgx.NamedArgs{
		"view_name": r.ViewName, "cron": r.Cron, "every": r.Every, "target_staleness": r.TargetStaleness,
		"time_zone": r.TimeZone, "jitter": r.Jitter, "method": r.Method, "enabled": r.Enabled,
		"lock_timeout": r.LockTimeout, "statement_timeout": r.StatementTimeout, "max_staleness": r.MaxStaleness,
		"skip_unchanged": r.SkipUnchanged, "settings": r.Settings, "total_jobs": r.TotalJobs, "total_objects": r.TotalObjects,
		"longest_gap": r.LongestGap(),
	}
}

// LongestGap is 0 where the schedule does not parse or is not cron: the read
// model uses the interval itself then.
func (r Schedule) LongestGap() time.Duration {
	if r.Cron == "" {
		return 0
	}
	parsed, err := schedule.Parse(r.Spec)
	if err != nil {
		return 0
	}
	return parsed.LongestGap()
}

// Schedule reads the schedule stored under exactly viewName.
func (s *Store) Schedule(ctx context.Context, db DB, viewName string) (row Schedule, found bool, err error) {
	return s.oneSchedule(ctx, db, `SELECT `+scheduleFields+` FROM {schedule} AS s WHERE s.view_name = @view`, viewName)
}

// ScheduleOf reads the schedule of a view, by its canonical name, under whichever of
// its names it is stored. Of several schedules the one with the preferred name counts.
func (s *Store) ScheduleOf(ctx context.Context, db DB, view string) (row Schedule, found bool, err error) {
	return s.oneSchedule(ctx, db, `
SELECT `+scheduleFields+`
FROM {schedule} AS s
JOIN {names} AS n ON n.known_as = s.view_name
WHERE n.view_name = @view
ORDER BY n.preference LIMIT 1`, view)
}

func (s *Store) oneSchedule(ctx context.Context, db DB, sql, view string) (row Schedule, found bool, err error) {
	row, err = collectOne[Schedule](db.Query(ctx, s.SQL(sql), pgx.NamedArgs{"view": view}))
	if errors.Is(err, pgx.ErrNoRows) {
		return Schedule{}, false, nil
	}
	if err != nil {
		return Schedule{}, false, fmt.Errorf("read the schedule of %s: %w", view, err)
	}
	return row, true, nil
}

// ErrScheduleExists is returned where the view has a schedule already.
var ErrScheduleExists = errors.New("the view has a schedule already")

// InsertSchedule stores a new schedule, with its longest gap.
func (s *Store) InsertSchedule(ctx context.Context, db DB, r Schedule) error {
	tag, err := db.Exec(ctx, s.SQL(`
INSERT INTO {schedule} (`+scheduleColumns+`, longest_gap)
VALUES (`+scheduleValues+`, nullif(@longest_gap::interval, '0')) ON CONFLICT (view_name) DO NOTHING`), r.args())
	if err != nil {
		return fmt.Errorf("store the schedule of %s: %w", r.ViewName, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("store the schedule of %s: %w", r.ViewName, ErrScheduleExists)
	}
	return nil
}

// ErrScheduleNotFound is returned by [Store.UpdateSchedule] where there is no such row.
var ErrScheduleNotFound = errors.New("there is no such schedule")

// UpdateSchedule replaces all of the schedule stored under viewName, whose name
// becomes r.ViewName. It returns [ErrScheduleExists] if that name has a schedule of its own.
func (s *Store) UpdateSchedule(ctx context.Context, db DB, viewName string, r Schedule) error {
	args := r.args()
	args["stored_as"] = viewName
	tag, err := db.Exec(ctx, s.SQL(`
UPDATE {schedule} SET (`+scheduleColumns+`, longest_gap) = (`+scheduleValues+`, nullif(@longest_gap::interval, '0'))
WHERE view_name = @stored_as`), args)
	if postgres.SQLState(err) == pgerrcode.UniqueViolation {
		return fmt.Errorf("change the schedule of %s to one of %s: %w", viewName, r.ViewName, ErrScheduleExists)
	}
	if err != nil {
		return fmt.Errorf("change the schedule of %s: %w", viewName, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("change the schedule of %s: %w", viewName, ErrScheduleNotFound)
	}
	// The table's trigger removes a gap that stays the same while cron changes, since
	// a statement by hand leaves it so.
	_, err = db.Exec(ctx, s.SQL(`
UPDATE {schedule} SET longest_gap = nullif(@longest_gap::interval, '0')
WHERE view_name = @view AND longest_gap IS NULL`), pgx.NamedArgs{"view": r.ViewName, "longest_gap": r.LongestGap()})
	if err != nil {
		return fmt.Errorf("change the schedule of %s: %w", r.ViewName, err)
	}
	return nil
}

// DeleteSchedule removes a schedule; one that is gone is no error.
func (s *Store) DeleteSchedule(ctx context.Context, db DB, viewName string) error {
	_, err := db.Exec(ctx, s.SQL(`DELETE FROM {schedule} WHERE view_name = @view`), pgx.NamedArgs{"view": viewName})
	if err != nil {
		return fmt.Errorf("remove the schedule of %s: %w", viewName, err)
	}
	return nil
}

// ScheduleCount counts the schedules.
type ScheduleCount struct{ Enabled, Paused int }

// CountSchedules counts all schedules.
func (s *Store) CountSchedules(ctx context.Context, db DB) (ScheduleCount, error) {
	return collectOne[ScheduleCount](db.Query(ctx, s.SQL(`
SELECT count(*) FILTER (WHERE enabled) AS enabled, count(*) FILTER (WHERE NOT enabled) AS paused FROM {schedule}`)))
}

// NamedSchedule is a schedule and the view that it is for.
type NamedSchedule struct {
	Schedule
	// CanonicalName is that of the view, or of the row where there is no such view.
	CanonicalName string
	Preference    int       // of the row's name; the least counts
	ReadAt        time.Time // by the database's clock
}

// Schedules reads all schedules, in the order in which they count for their views.
func (s *Store) Schedules(ctx context.Context, db DB) ([]NamedSchedule, error) {
	schedules, err := collect[NamedSchedule](db.Query(ctx, s.SQL(`
SELECT * FROM (
    SELECT DISTINCT ON (s.view_name) `+scheduleFields+`,
           coalesce(n.view_name, s.view_name) AS canonical_name, coalesce(n.preference, 0) AS preference,
           clock_timestamp() AS read_at
    FROM {schedule} AS s LEFT JOIN {names} AS n ON n.known_as = s.view_name
    ORDER BY s.view_name, n.preference
) AS s ORDER BY preference, view_name`)))
	if err != nil {
		return nil, fmt.Errorf("read the schedules: %w", err)
	}
	return schedules, nil
}

// ScheduleTarget is the materialized view that a schedule is for.
type ScheduleTarget struct {
	ViewName         string // canonical
	OID              uint32 `db:"view_oid"`
	Schema, Relation string // unquoted
	// StoredAs is the view_name of the view's schedule, "" if it has none. Rows
	// written by hand may use another of the view's names.
	StoredAs string
}

// ResolveTarget finds a view by any of the names that materialized_view_names gives
// it. It reads catalogs and waits for no refresh.
func (s *Store) ResolveTarget(ctx context.Context, db DB, knownAs string) (target ScheduleTarget, found bool, err error) {
	// OFFSET 0 makes the planner find the rows that bear a name of the view first,
	// instead of computing the names once for each schedule, which takes seconds for
	// a thousand views.
	target, err = collectOne[ScheduleTarget](db.Query(ctx, s.SQL(`
SELECT n.view_name, n.view_oid, n.schema_name AS schema, n.relation_name AS relation,
       coalesce((SELECT s.view_name FROM (SELECT s.view_name FROM {names} AS o JOIN {schedule} AS s ON s.view_name = o.known_as
                                          WHERE o.view_oid = n.view_oid OFFSET 0) AS s
                 WHERE n.view_oid = (SELECT k.view_oid FROM {names} AS k WHERE k.known_as = s.view_name ORDER BY k.preference LIMIT 1)
                 ORDER BY s.view_name <> n.view_name LIMIT 1), '') AS stored_as
FROM {names} AS n
WHERE n.known_as = @name
ORDER BY n.preference
LIMIT 1`), pgx.NamedArgs{"name": knownAs}))
	if errors.Is(err, pgx.ErrNoRows) {
		return ScheduleTarget{}, false, nil
	}
	if err != nil {
		return ScheduleTarget{}, false, fmt.Errorf("look for the materialized view %s: %w", knownAs, err)
	}
	return target, true, nil
}
