package store

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Success is a refresh that succeeded, with what is recorded of it in the log, the
// state and the history.
type Success struct {
	Attempt int64 // its running row in the history; 0 inserts one
	View    string
	// Trigger and AttemptedBy are for the row that is inserted.
	Trigger, AttemptedBy string

	Method, Reason, Warning string
	// SwapRefused and ConcurrentlyRefused are that the method was chosen first, and that
	// it could not be used.
	SwapRefused, ConcurrentlyRefused bool
	StartedAt, FinishedAt            time.Time
	DataAsOf                         *time.Time // nil: unknown
	// NoLogDuration leaves the duration in the log null: its readers take
	// FinishedAt less the duration for the as-of.
	NoLogDuration             bool
	LockWait, Duration        time.Duration
	RowsInserted, RowsDeleted *int64
	TotalJobs, TotalObjects   *int64

	ViewOID, ViewFilenode, ViewXmin uint32 // the pg_class row of the view; see {state}
	SizeBytes                       int64
	ChangeCounters                  any // JSON; nil: unknown, so that the next refresh is not skipped
}

// CeilMilliseconds rounds up: the log's readers take last_refreshed_at less the
// duration for the as-of, which must not be too late.
func CeilMilliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

func (r Success) args() pgx.NamedArgs {
	duration := new(int64)
	*duration = min(CeilMilliseconds(r.FinishedAt.Sub(r.StartedAt)), math.MaxInt32)
	if r.NoLogDuration {
		duration = nil
	}
	return pgx.NamedArgs{
		"attempt": r.Attempt, "view_name": r.View, "trigger": r.Trigger, "attempted_by": r.AttemptedBy,
		"method": r.Method, "reason": nullable(r.Reason), "warning": nullable(r.Warning), "swap_refused": r.SwapRefused, "concurrently_refused": r.ConcurrentlyRefused,
		"started_at": r.StartedAt, "finished_at": r.FinishedAt, "data_as_of": r.DataAsOf,
		"lock_wait_ms": r.LockWait.Milliseconds(), "duration_ms": CeilMilliseconds(r.Duration),
		"rows_inserted": r.RowsInserted, "rows_deleted": r.RowsDeleted,
		"last_refreshed_at": r.FinishedAt, "refresh_duration_ms": duration, "total_jobs": r.TotalJobs, "total_objects": r.TotalObjects,
		"view_oid": r.ViewOID, "view_filenode": r.ViewFilenode, "view_xmin": r.ViewXmin, "size_bytes": r.SizeBytes,
		"change_counters": r.ChangeCounters, "last_attempt_at": r.StartedAt,
	}
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// Columns that each is written from the argument of its name.
var (
	logColumns = []string{"last_refreshed_at", "refresh_duration_ms", "total_jobs", "total_objects"}
	// historyColumns are those of a refresh that succeeded.
	historyColumns = []string{
		"method", "reason", "warning", "swap_refused", "concurrently_refused", "data_as_of", "finished_at", "lock_wait_ms", "duration_ms", "rows_inserted", "rows_deleted",
	}
	stateColumns = []string{"last_attempt_at", "data_as_of", "view_oid", "view_filenode", "view_xmin", "size_bytes", "change_counters"}
)

// list is the columns with format's $ replaced by each.
func list(columns []string, format string) string {
	items := make([]string, len(columns))
	for i, column := range columns {
		items[i] = strings.ReplaceAll(format, "$", column)
	}
	return strings.Join(items, ", ")
}

// The state keeps the log row as the log returns it: an adopted table may round
// what it is given, or have triggers.
var (
	successSQL = `
WITH logged AS (
    INSERT INTO {log} (view_name, ` + list(logColumns, "$") + `)
    VALUES (@view_name, ` + list(logColumns, "@$") + `)
    ON CONFLICT (view_name) DO UPDATE SET ` + list(logColumns, "$ = EXCLUDED.$") + `
    RETURNING last_refreshed_at, refresh_duration_ms
), attempt AS (%ATTEMPT%)
INSERT INTO {state} (view_name, last_outcome, ` + list(stateColumns, "$") + `, logged_refreshed_at, logged_duration_ms)
SELECT @view_name, 'succeeded', ` + list(stateColumns, "@$") + `, logged.last_refreshed_at, logged.refresh_duration_ms
FROM (SELECT) AS one LEFT JOIN attempt ON true LEFT JOIN logged ON true
ON CONFLICT (view_name) DO UPDATE SET
    consecutive_failures = 0, last_outcome = EXCLUDED.last_outcome, last_error = NULL, ` + list(stateColumns, "$ = EXCLUDED.$") + `,
    logged_refreshed_at = EXCLUDED.logged_refreshed_at, logged_duration_ms = EXCLUDED.logged_duration_ms`

	finishAttemptSQL = strings.Replace(successSQL, "%ATTEMPT%", `
    UPDATE {history} SET outcome = 'succeeded', `+list(historyColumns, "$ = @$")+` WHERE id = @attempt RETURNING id`, 1)
	unannouncedSQL = strings.Replace(successSQL, "%ATTEMPT%", `
    INSERT INTO {history} (view_name, trigger, attempted_by, started_at, outcome, `+list(historyColumns, "$")+`)
    VALUES (@view_name, @trigger, @attempted_by, @started_at, 'succeeded', `+list(historyColumns, "@$")+`) RETURNING id`, 1)
)

// QueueSuccess writes log, history and state, in the transaction that filled the
// view. It locks the rows of [Store.QueueRecordLocks].
func (s *Store) QueueSuccess(batch *pgx.Batch, r Success) {
	sql := finishAttemptSQL
	if r.Attempt == 0 {
		sql = unannouncedSQL
	}
	batch.Queue(s.SQL(sql), r.args())
}

// QueueRecordLocks locks the rows that recording an attempt writes. Everybody locks
// them in this order: the history first, then the state.
func (s *Store) QueueRecordLocks(batch *pgx.Batch, attempt int64, view string) {
	args := pgx.NamedArgs{"attempt": attempt, "view": view}
	batch.Queue(s.SQL("SELECT FROM {history} WHERE id = @attempt FOR UPDATE"), args)
	batch.Queue(s.SQL("SELECT FROM {log} WHERE view_name = @view FOR UPDATE"), args)
	batch.Queue(s.SQL("SELECT FROM {state} WHERE view_name = @view FOR UPDATE"), args)
}

// Failure is why an attempt failed.
type Failure struct {
	Attempt         int64
	Error, SQLState string
	Method, Reason  string // "" if not known
	// FailedUpstream is the view whose refresh failed, so that this one was not
	// made; "" for any other failure.
	FailedUpstream string
}

const failureSQL = `
WITH attempt AS (
    UPDATE {history} SET outcome = 'failed', finished_at = clock_timestamp(), error = @error, sqlstate = @sqlstate,
        method = @method, reason = @reason, failed_upstream = @failed_upstream,
        duration_ms = (extract(epoch FROM clock_timestamp() - started_at) * 1000)::bigint
    WHERE id = @attempt AND outcome = 'running'
    RETURNING view_name, started_at
)
INSERT INTO {state} AS s (view_name, last_attempt_at, last_outcome, last_error, consecutive_failures)
SELECT view_name, started_at, 'failed', @error, 1 FROM attempt
ON CONFLICT (view_name) DO UPDATE SET
    last_attempt_at = EXCLUDED.last_attempt_at, last_outcome = EXCLUDED.last_outcome, last_error = EXCLUDED.last_error,
    consecutive_failures = s.consecutive_failures + 1`

// RecordFailure ends a running attempt as failed and returns the outcome that the
// history has then: another than [Failed] if the attempt had ended before. It waits
// for a transaction that is about to record the attempt. db must not be in a
// transaction.
func (s *Store) RecordFailure(ctx context.Context, db DB, f Failure) (outcome string, err error) {
	tag, err := db.Exec(ctx, s.SQL(failureSQL), pgx.NamedArgs{
		"attempt": f.Attempt, "error": f.Error, "sqlstate": nullable(f.SQLState), "method": nullable(f.Method), "reason": nullable(f.Reason),
		"failed_upstream": nullable(f.FailedUpstream),
	})
	if err != nil {
		return "", err
	}
	if tag.RowsAffected() > 0 {
		return Failed, nil
	}
	err = db.QueryRow(ctx, s.SQL("SELECT coalesce((SELECT outcome FROM {history} WHERE id = @attempt), 'abandoned')"),
		pgx.NamedArgs{"attempt": f.Attempt}).Scan(&outcome)
	return outcome, err
}

// Skip is an attempt that refreshed nothing, as nothing had changed.
type Skip struct {
	Attempt      int64
	View, Reason string
	DataAsOf     time.Time
	// The state as it was when the view was found unchanged.
	WasAsOf time.Time
	WasXmin uint32
}

// Losing it in a crash of the server loses only a later as-of.
const skipSQL = `
WITH attempt AS (
    UPDATE {history} AS h SET outcome = 'skipped', reason = @reason, data_as_of = @data_as_of, finished_at = clock_timestamp(),
        duration_ms = (extract(epoch FROM clock_timestamp() - h.started_at) * 1000)::bigint
    ` + asynchronously + `
    WHERE h.id = @attempt AND h.outcome = 'running'
      AND EXISTS (SELECT FROM {state} WHERE view_name = @view AND data_as_of = @was_as_of AND view_xmin = @was_xmin)
    RETURNING h.started_at, h.finished_at
)
UPDATE {state} AS st SET last_attempt_at = attempt.started_at, last_outcome = 'skipped', last_error = NULL, consecutive_failures = 0,
    data_as_of = @data_as_of
FROM attempt
WHERE st.view_name = @view
RETURNING attempt.started_at, attempt.finished_at`

// RecordSkip records that the view is as fresh as it was found to be. The error is
// [pgx.ErrNoRows] if its state has changed since. The log stays: it tells when the
// last refresh was. db must not be in a transaction.
func (s *Store) RecordSkip(ctx context.Context, db BatchSender, skip Skip) (startedAt, finishedAt time.Time, err error) {
	batch := &pgx.Batch{} // one transaction; locked first, the state is not changed under it
	s.QueueRecordLocks(batch, skip.Attempt, skip.View)
	batch.Queue(s.SQL(skipSQL), pgx.NamedArgs{
		"attempt": skip.Attempt, "view": skip.View, "reason": skip.Reason, "data_as_of": skip.DataAsOf,
		"was_as_of": skip.WasAsOf, "was_xmin": skip.WasXmin,
	}).QueryRow(func(row pgx.Row) error { return row.Scan(&startedAt, &finishedAt) })
	err = db.SendBatch(ctx, batch).Close()
	return startedAt, finishedAt, err
}
