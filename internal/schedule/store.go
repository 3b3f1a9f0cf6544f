package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// Channel is where PostgreSQL notifies of every changed schedule, with the
// view_name as payload.
const Channel = "matview_schedule"

// Table is the schedule table's name.
const Table = store.ScheduleTable

// Row is one row of materialized_view_refresh_schedule.
type Row struct {
	ViewName string
	Spec
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

// Columns selects the columns of a [Row] from an alias s of the table, for
// [Scan]. Durations travel as microseconds, PostgreSQL's own resolution.
const Columns = `s.view_name, coalesce(s.cron, ''), ` +
	`coalesce(extract(epoch FROM s.every) * 1000000, 0)::bigint, ` +
	`coalesce(extract(epoch FROM s.target_staleness) * 1000000, 0)::bigint, ` +
	`s.time_zone, coalesce(extract(epoch FROM s.jitter) * 1000000, 0)::bigint, ` +
	`s.method, s.enabled, (extract(epoch FROM s.lock_timeout) * 1000000)::bigint, ` +
	`coalesce(extract(epoch FROM s.statement_timeout) * 1000000, 0)::bigint, ` +
	`coalesce(extract(epoch FROM s.max_staleness) * 1000000, 0)::bigint, ` +
	`s.skip_unchanged, ` + settingsSQL + `, coalesce(s.total_jobs, ''), coalesce(s.total_objects, '')`

// Values that somebody wrote by hand may be numbers or booleans.
const settingsSQL = `(SELECT coalesce(jsonb_object_agg(key, coalesce(value, '')), '{}') FROM jsonb_each_text(s.settings))`

// Scan reads what [Columns] selected, and further columns into more.
func Scan(row pgx.Row, more ...any) (Row, error) {
	var r Row
	var every, target, jitter, lock, statement, staleness int64
	err := row.Scan(append([]any{
		&r.ViewName, &r.Cron, &every, &target, &r.TimeZone, &jitter, &r.Method, &r.Enabled,
		&lock, &statement, &staleness, &r.SkipUnchanged, &r.Settings, &r.TotalJobs, &r.TotalObjects,
	}, more...)...)
	if err != nil {
		return Row{}, err
	}
	r.Every, r.TargetStaleness, r.Jitter = micros(every), micros(target), micros(jitter)
	r.LockTimeout, r.StatementTimeout, r.MaxStaleness = micros(lock), micros(statement), micros(staleness)
	return r, nil
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// DB is a connection, a pool or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Get reads the schedule stored under exactly viewName.
func Get(ctx context.Context, db DB, schema, viewName string) (row Row, found bool, err error) {
	row, err = Scan(db.QueryRow(ctx, "SELECT "+Columns+" FROM "+table(schema)+" AS s WHERE s.view_name = $1", viewName))
	if errors.Is(err, pgx.ErrNoRows) {
		return Row{}, false, nil
	}
	if err != nil {
		return Row{}, false, fmt.Errorf("read the schedule of %s: %w", viewName, err)
	}
	return row, true, nil
}

// Of reads the schedule of a view, by its canonical name, under whichever of its
// names it is stored; the one by the better name counts.
func Of(ctx context.Context, db DB, schema, view string) (row Row, found bool, err error) {
	row, err = Scan(db.QueryRow(ctx, `
SELECT `+Columns+`
FROM `+table(schema)+` AS s
JOIN `+postgres.QuoteIdent(schema, "materialized_view_names")+` AS n ON n.known_as = s.view_name
WHERE n.view_name = $1
ORDER BY n.preference LIMIT 1`, view))
	if errors.Is(err, pgx.ErrNoRows) {
		return Row{}, false, nil
	}
	if err != nil {
		return Row{}, false, fmt.Errorf("read the schedule of %s: %w", view, err)
	}
	return row, true, nil
}

// ErrExists is returned by [Insert] where the view has a schedule already.
var ErrExists = errors.New("the view has a schedule already")

// Insert stores a new schedule, with its longest gap.
func Insert(ctx context.Context, db DB, schema string, r Row) error {
	tag, err := db.Exec(ctx, "INSERT INTO "+table(schema)+` AS s (view_name, `+writtenColumns+`)
VALUES ($1, `+writtenValues+`) ON CONFLICT (view_name) DO NOTHING`, r.values(r.ViewName)...)
	if err != nil {
		return fmt.Errorf("store the schedule of %s: %w", r.ViewName, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("store the schedule of %s: %w", r.ViewName, ErrExists)
	}
	return nil
}

// ErrNotFound is returned by [Update] where there is no such row.
var ErrNotFound = errors.New("there is no such schedule")

// Update replaces all of the schedule stored under viewName, whose name becomes
// r.ViewName. It is [ErrExists] if that name has a schedule of its own.
func Update(ctx context.Context, db DB, schema, viewName string, r Row) error {
	args := append(r.values(viewName), r.ViewName)
	tag, err := db.Exec(ctx, "UPDATE "+table(schema)+` SET (view_name, `+writtenColumns+`) =
($17, `+writtenValues+`) WHERE view_name = $1`, args...)
	if postgres.SQLState(err) == pgerrcode.UniqueViolation {
		return fmt.Errorf("change the schedule of %s to one of %s: %w", viewName, r.ViewName, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("change the schedule of %s: %w", viewName, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("change the schedule of %s: %w", viewName, ErrNotFound)
	}
	// The table's trigger takes a gap that stays the same under another cron for
	// one that nobody computed again, and removes it.
	_, err = db.Exec(ctx, "UPDATE "+table(schema)+` SET longest_gap = nullif($2::bigint, 0) * interval '1 microsecond'
WHERE view_name = $1 AND longest_gap IS NULL`, r.ViewName, r.longestGap().Microseconds())
	if err != nil {
		return fmt.Errorf("change the schedule of %s: %w", r.ViewName, err)
	}
	return nil
}

// Delete removes a schedule; one that is gone is no error.
func Delete(ctx context.Context, db DB, schema, viewName string) error {
	if _, err := db.Exec(ctx, "DELETE FROM "+table(schema)+" WHERE view_name = $1", viewName); err != nil {
		return fmt.Errorf("remove the schedule of %s: %w", viewName, err)
	}
	return nil
}

const writtenColumns = `cron, every, target_staleness, time_zone, jitter, method, enabled,
lock_timeout, statement_timeout, max_staleness, skip_unchanged, settings, total_jobs, total_objects, longest_gap`

const writtenValues = `nullif($2, ''), nullif($3::bigint, 0) * interval '1 microsecond',
nullif($4::bigint, 0) * interval '1 microsecond', $5, nullif($6::bigint, 0) * interval '1 microsecond', $7, $8,
$9::bigint * interval '1 microsecond', nullif($10::bigint, 0) * interval '1 microsecond',
nullif($11::bigint, 0) * interval '1 microsecond', $12, $13, nullif($14, ''), nullif($15, ''),
nullif($16::bigint, 0) * interval '1 microsecond'`

// values are the parameters of writtenValues, after the name to look for.
func (r Row) values(viewName string) []any {
	settings := r.Settings
	if settings == nil {
		settings = map[string]string{}
	}
	zone := r.TimeZone
	if zone == "" {
		zone = "UTC"
	}
	lock := r.LockTimeout
	if lock == 0 {
		lock = DefaultLockTimeout
	}
	return []any{
		viewName, r.Cron, r.Every.Microseconds(), r.TargetStaleness.Microseconds(), zone, r.Jitter.Microseconds(),
		r.Method, r.Enabled, lock.Microseconds(), r.StatementTimeout.Microseconds(), r.MaxStaleness.Microseconds(),
		r.SkipUnchanged, settings, r.TotalJobs, r.TotalObjects, r.longestGap().Microseconds(),
	}
}

// longestGap is 0 where the schedule does not parse or is not cron: the read
// model takes the interval itself then.
func (r Row) longestGap() time.Duration {
	if r.Cron == "" {
		return 0
	}
	parsed, err := Parse(r.Spec)
	if err != nil {
		return 0
	}
	return parsed.LongestGap()
}

func table(schema string) string { return postgres.QuoteIdent(schema, Table) }
