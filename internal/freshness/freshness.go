// Package freshness reads how fresh each materialized view is. Everything that
// shows freshness (data sources, metrics, API, page, command line) shows a [View]
// read here, from the one read model materialized_view_freshness.
package freshness

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// View is one row of materialized_view_freshness. A nil field is unknown.
type View struct {
	Name                string     `db:"view_name"`
	Schema              *string    `db:"schema_name"`
	Relation            *string    `db:"relation_name"`
	IsPopulated         *bool      `db:"is_populated"`
	IsScheduled         bool       `db:"is_scheduled"`
	Enabled             *bool      `db:"enabled"`
	LastRefreshedAt     *time.Time `db:"last_refreshed_at"`
	RefreshDurationMS   *int64     `db:"refresh_duration_ms"`
	DataAsOf            *time.Time `db:"data_as_of"`
	StalenessSeconds    *float64   `db:"staleness_seconds"`
	SecondsSinceRefresh *float64   `db:"seconds_since_refresh"`
	// DataAge is now − last_refreshed_at as PostgreSQL prints an interval.
	DataAge             *string    `db:"data_age"`
	PerformanceRating   *string    `db:"performance_rating"`
	TotalJobs           *int64     `db:"total_jobs"`
	TotalObjects        *int64     `db:"total_objects"`
	MaxStalenessSeconds *float64   `db:"max_staleness_seconds"`
	IsStale             *bool      `db:"is_stale"`
	StaleReason         *string    `db:"stale_reason"`
	LastAttemptAt       *time.Time `db:"last_attempt_at"`
	LastOutcome         *string    `db:"last_outcome"`
	LastError           *string    `db:"last_error"`
	ConsecutiveFailures int64      `db:"consecutive_failures"`
	NextRunAt           *time.Time `db:"next_run_at"`
	RefreshInProgress   bool       `db:"refresh_in_progress"`
	// SizeBytes is the view with its indexes right after its last refresh.
	SizeBytes *int64  `db:"size_bytes"`
	OID       *uint32 `db:"view_oid"`
}

// Asked reports whether anybody asked about the view: it has a schedule or a
// row in the log.
func (v View) Asked() bool { return v.IsStale != nil }

const columns = `f.view_name, f.schema_name, f.relation_name, f.is_populated, f.is_scheduled, f.enabled,
       f.last_refreshed_at, f.refresh_duration_ms, f.data_as_of, f.staleness_seconds, f.seconds_since_refresh,
       f.data_age::text, f.performance_rating, f.total_jobs, f.total_objects, f.max_staleness_seconds, f.is_stale, f.stale_reason,
       f.last_attempt_at, f.last_outcome, f.last_error, f.consecutive_failures, f.next_run_at,
       f.refresh_in_progress, f.size_bytes, f.view_oid`

// All reads every view of the database, and every log or schedule row whose view
// is gone, by name. It takes no lock on any materialized view.
func All(ctx context.Context, db postgres.Querier, schema string) ([]View, error) {
	return collect(ctx, db, "SELECT "+columns+" FROM "+relation(schema)+" AS f ORDER BY f.view_name")
}

// Find reads one view by any of the names that materialized_view_names gives
// it; found is false if there is neither such a view nor a row about one.
func Find(ctx context.Context, db postgres.Querier, schema, name string) (view View, found bool, err error) {
	views, err := collect(ctx, db, `
SELECT `+columns+`
FROM `+relation(schema)+` AS f
WHERE f.view_name = coalesce(
    (SELECT n.view_name FROM `+pgx.Identifier{schema, "materialized_view_names"}.Sanitize()+` AS n
     WHERE n.known_as = $1 ORDER BY n.preference LIMIT 1), $1)`, name)
	if err != nil || len(views) == 0 {
		return View{}, false, err
	}
	return views[0], true, nil
}

// Check is an error if the freshness of views cannot be read: the tables are missing,
// old or closed to this login. Unlike the others it costs the same however many views
// there are.
func Check(ctx context.Context, db postgres.Querier, schema string) error {
	_, err := collect(ctx, db, "SELECT "+columns+" FROM "+relation(schema)+" AS f LIMIT 0")
	return err
}

func relation(schema string) string {
	return pgx.Identifier{schema, "materialized_view_freshness"}.Sanitize()
}

// collect reads twice if a view was changed by somebody else: that may have been a
// refresh which committed after the statement had taken its snapshot.
func collect(ctx context.Context, db postgres.Querier, sql string, args ...any) ([]View, error) {
	views, err := collectOnce(ctx, db, sql, args...)
	if err == nil && slices.ContainsFunc(views, func(v View) bool { return v.StaleReason != nil && *v.StaleReason == "changed_outside" }) {
		return collectOnce(ctx, db, sql, args...)
	}
	return views, err
}

func collectOnce(ctx context.Context, db postgres.Querier, sql string, args ...any) ([]View, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read freshness: %w", err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowToStructByName[View])
	if err != nil {
		return nil, fmt.Errorf("read freshness: %w", err)
	}
	return views, nil
}
