package freshness

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Attempt is one row of materialized_view_refresh_history. A nil field is
// unknown, or does not apply.
type Attempt struct {
	View         string     `db:"view_name"`
	Trigger      string     `db:"trigger"`
	Method       *string    `db:"method"`
	Outcome      string     `db:"outcome"`
	StartedAt    time.Time  `db:"started_at"`
	DataAsOf     *time.Time `db:"data_as_of"`
	FinishedAt   *time.Time `db:"finished_at"`
	LockWaitMS   *int64     `db:"lock_wait_ms"`
	DurationMS   *int64     `db:"duration_ms"`
	RowsInserted *int64     `db:"rows_inserted"`
	RowsDeleted  *int64     `db:"rows_deleted"`
	Error        *string    `db:"error"`
	SQLState     *string    `db:"sqlstate"`
	Reason       *string    `db:"reason"`
	Warning      *string    `db:"warning"`
}

// History reads the last attempts of each of the views, which are called by
// their canonical names, the latest first. It takes no lock on any of them.
func History(ctx context.Context, db postgres.Querier, schema string, views []string, limit int) (map[string][]Attempt, error) {
	rows, err := db.Query(ctx, `
SELECT h.*
FROM unnest($1::text[]) AS v(view_name)
CROSS JOIN LATERAL (
    SELECT h.view_name, h.trigger, h.method, h.outcome, h.started_at, h.data_as_of, h.finished_at, h.lock_wait_ms, h.duration_ms,
           h.rows_inserted, h.rows_deleted, h.error, h.sqlstate, h.reason, h.warning
    FROM `+pgx.Identifier{schema, "materialized_view_refresh_history"}.Sanitize()+` AS h
    WHERE h.view_name = v.view_name
    ORDER BY h.started_at DESC, h.id DESC LIMIT $2) AS h`, views, limit)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	attempts, err := pgx.CollectRows(rows, pgx.RowToStructByName[Attempt])
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	of := make(map[string][]Attempt, len(views))
	for _, a := range attempts {
		of[a.View] = append(of[a.View], a)
	}
	return of, nil
}
