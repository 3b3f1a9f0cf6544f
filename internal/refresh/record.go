package refresh

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// outcome is what is recorded of a successful refresh beside what the database
// said about it.
type outcome struct {
	attempt                 int64 // 0: there is no running row, write one
	trigger                 string
	method                  Method
	reason, warning         string
	lockWait, duration      time.Duration
	totalJobs, totalObjects *int64
	attemptedBy             string
	counted                 *counted // nil: unknown, so that the next refresh is not skipped
}

// The state remembers the log row as the log has it: a table that was adopted
// may round what it is given, or have triggers. It is written after the history,
// as by whoever finds an attempt abandoned, or the two could deadlock.
const recordSQL = `
WITH logged AS (
    INSERT INTO %[1]s (view_name, last_refreshed_at, refresh_duration_ms, total_jobs, total_objects)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (view_name) DO UPDATE SET
        last_refreshed_at = EXCLUDED.last_refreshed_at, refresh_duration_ms = EXCLUDED.refresh_duration_ms,
        total_jobs = EXCLUDED.total_jobs, total_objects = EXCLUDED.total_objects
    RETURNING last_refreshed_at, refresh_duration_ms
), attempt AS (
    UPDATE %[3]s SET outcome = 'succeeded', method = $6, reason = nullif($7, ''), warning = nullif($8, ''),
        data_as_of = $9, finished_at = $2, lock_wait_ms = $10, duration_ms = $11, rows_inserted = $20, rows_deleted = $21
    WHERE id = $12
    RETURNING id
), unannounced AS (
    INSERT INTO %[3]s (view_name, trigger, method, outcome, started_at, data_as_of, finished_at, lock_wait_ms, duration_ms, reason, warning, attempted_by)
    SELECT $1, $13, $6, 'succeeded', $14, $9, $2, $10, $11, nullif($7, ''), nullif($8, ''), $15 WHERE $12 = 0
)
INSERT INTO %[2]s AS s (view_name, last_attempt_at, last_outcome, data_as_of, view_oid, view_filenode, view_xmin,
                        logged_refreshed_at, logged_duration_ms, size_bytes, change_counters)
SELECT $1, $14, 'succeeded', $9, $16, $17, $18, logged.last_refreshed_at, logged.refresh_duration_ms, $19, $22
FROM (SELECT) AS one
LEFT JOIN attempt ON true
LEFT JOIN logged ON true
ON CONFLICT (view_name) DO UPDATE SET
    consecutive_failures = 0, last_attempt_at = EXCLUDED.last_attempt_at, last_outcome = EXCLUDED.last_outcome, last_error = NULL,
    data_as_of = EXCLUDED.data_as_of, view_oid = EXCLUDED.view_oid, view_filenode = EXCLUDED.view_filenode, view_xmin = EXCLUDED.view_xmin,
    logged_refreshed_at = EXCLUDED.logged_refreshed_at, logged_duration_ms = EXCLUDED.logged_duration_ms, size_bytes = EXCLUDED.size_bytes,
    change_counters = EXCLUDED.change_counters`

// record writes log, state and history, in the transaction that filled the view.
// The log's duration includes the wait for a lock, as its readers take what it
// leaves of last_refreshed_at for the as-of.
func record(batch *pgx.Batch, schema, view string, done refreshed, o outcome) {
	duration := new(int64)
	*duration = min(ceilMillis(done.finishedAt.Sub(done.startedAt)), math.MaxInt32)
	if done.partial { // so that nobody makes an as-of of it
		duration = nil
	}
	sql := fmt.Sprintf(recordSQL,
		postgres.QuoteIdent(schema, "materialized_view_refresh_log"),
		postgres.QuoteIdent(schema, "materialized_view_refresh_state"),
		postgres.QuoteIdent(schema, "materialized_view_refresh_history"))
	batch.Queue(sql, view, done.finishedAt, duration, o.totalJobs, o.totalObjects,
		string(o.method), o.reason, o.warning, done.asOf, o.lockWait.Milliseconds(), ceilMillis(o.duration), o.attempt,
		o.trigger, done.startedAt, o.attemptedBy, done.oid, done.filenode, done.xmin, done.sizeBytes,
		done.rowsInserted, done.rowsDeleted, o.counted)
}

// ceilMillis rounds up: the log's readers take last_refreshed_at less the
// duration for the as-of, which must not be too late.
func ceilMillis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

func recordError(err error) error {
	switch postgres.SQLState(err) {
	case pgerrcode.UndefinedTable, pgerrcode.InsufficientPrivilege:
		return fmt.Errorf("record it: %w; run `matview-exporter migrate` or apply matview_refresh_log with this role among writer_roles", err)
	}
	return fmt.Errorf("record it: %w", err)
}

const failedSQL = `
WITH attempt AS (
    UPDATE %[2]s SET outcome = 'failed', finished_at = clock_timestamp(), error = $2, sqlstate = nullif($3, ''),
        method = nullif($4, ''), reason = nullif($5, ''),
        duration_ms = (extract(epoch FROM clock_timestamp() - started_at) * 1000)::bigint
    WHERE id = $1 AND outcome = 'running'
    RETURNING view_name, started_at
)
INSERT INTO %[1]s AS s (view_name, last_attempt_at, last_outcome, last_error, consecutive_failures)
SELECT view_name, started_at, 'failed', $2, 1 FROM attempt
ON CONFLICT (view_name) DO UPDATE SET
    last_attempt_at = EXCLUDED.last_attempt_at, last_outcome = EXCLUDED.last_outcome, last_error = EXCLUDED.last_error,
    consecutive_failures = s.consecutive_failures + 1`

// ErrTakenOver says that the failed attempt had been recorded before: its commit
// succeeded although the answer was lost, or it was found abandoned and another
// exporter has the view.
var ErrTakenOver = errors.New("the attempt was recorded otherwise meanwhile")

// recordPause is between two tries to record a failure.
const recordPause = 200 * time.Millisecond

// recordFailure records in a transaction of its own, on any connection. Until ctx
// ends it tries again where the server cannot be reached or has no connection to
// spare, which is often why the refresh failed: unrecorded, its error is lost.
func (r *Refresher) recordFailure(ctx context.Context, a *attempt, cause error) error {
	sql := fmt.Sprintf(failedSQL, postgres.QuoteIdent(r.schema, "materialized_view_refresh_state"), r.history())
	tag, err := r.pool.Exec(ctx, sql, a.id, postgres.Message(cause), sqlState(cause), string(a.chosen.method), a.chosen.reason)
	for isAway(err) && pause(ctx, recordPause) == nil {
		tag, err = r.pool.Exec(ctx, sql, a.id, postgres.Message(cause), sqlState(cause), string(a.chosen.method), a.chosen.reason)
	}
	if err != nil {
		return fmt.Errorf("the failure could not be recorded: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrTakenOver
	}
	return nil
}

// isAway says that no session could be had, or that it ended.
func isAway(err error) bool {
	state := postgres.SQLState(err)
	return err != nil && (state == "" || slices.ContainsFunc(awayClasses, func(class string) bool { return strings.HasPrefix(state, class) }))
}

// awayClasses are connection exceptions, too few resources, and shutdowns.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
var awayClasses = []string{"08", "53", "57P"}
