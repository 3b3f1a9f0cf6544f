package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Only while the state is what it was when the counters were compared. It is
// written after the history, as everywhere. What a crash of the server takes
// back of it is only a later as-of, hence no wait for the disk.
const skippedSQL = `
WITH attempt AS (
    UPDATE %[2]s AS h SET outcome = 'skipped', reason = $3, data_as_of = $4, finished_at = clock_timestamp(),
        duration_ms = (extract(epoch FROM clock_timestamp() - h.started_at) * 1000)::bigint
    ` + commitLater + `
    WHERE h.id = $2 AND h.outcome = 'running'
      AND EXISTS (SELECT FROM %[1]s AS st WHERE st.view_name = $1 AND st.data_as_of = $5 AND st.view_xmin = $6)
    RETURNING h.started_at, h.finished_at
)
UPDATE %[1]s AS st SET last_attempt_at = attempt.started_at, last_outcome = 'skipped', last_error = NULL, consecutive_failures = 0,
    data_as_of = $4
FROM attempt
WHERE st.view_name = $1 AND st.data_as_of = $5 AND st.view_xmin = $6
RETURNING attempt.started_at, attempt.finished_at`

const unchangedReason = "nothing that it reads has changed since its last refresh"

// recordSkipped records in one statement that the view is as fresh as it was
// found to be. The log stays: it says when the last refresh was.
func (a *attempt) recordSkipped(ctx context.Context, conn *pgx.Conn, s standing, asOf time.Time) (Result, string, error) {
	result := Result{View: a.view, Skipped: true, Reason: unchangedReason, AsOf: &asOf}
	var startedAt time.Time
	sql := fmt.Sprintf(skippedSQL, postgres.QuoteIdent(a.schema, "materialized_view_refresh_state"), a.history())
	err := conn.QueryRow(ctx, sql, a.view, a.id, result.Reason, asOf, *s.asOf, *s.xmin).Scan(&startedAt, &result.FinishedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		// Where the state changed only while its row was locked, the history has it
		// as skipped already.
		_, err := conn.Exec(ctx, "UPDATE "+a.history()+` SET outcome = 'running', reason = NULL, data_as_of = NULL, finished_at = NULL, duration_ms = NULL
WHERE id = $1 AND outcome = 'skipped'`, a.id)
		return Result{}, "it was refreshed meanwhile", err
	}
	if err != nil {
		return Result{}, "", recordError(err)
	}
	result.Duration = result.FinishedAt.Sub(startedAt)
	return result, "", nil
}
