package migrations

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// tracking is whether to record refreshes by others. If it is not set, nothing changes.
type tracking struct{ set, on bool }

func (t tracking) sql() string {
	if !t.set {
		return ""
	}
	return fmt.Sprintf("SET LOCAL matview.track_external_refreshes = %t;\n", t.on)
}

// Track is [Apply], and creates or drops the event trigger that records every REFRESH
// by others. That requires a superuser, or a member of rds_superuser on Amazon RDS. Any
// other role gets an error that says so, and nothing changes.
func Track(ctx context.Context, conn *pgx.Conn, schema string, on bool) error {
	return exclusively(ctx, conn, func(tx pgx.Tx) error {
		return current.apply(ctx, tx, schema, tracking{set: true, on: on})
	})
}

const (
	trackedFunction        = "materialized_view_refresh_tracked"
	recordExternalFunction = "materialized_view_refresh_record_external"
)

// Tracking reports whether refreshes by others are recorded: the event trigger exists
// as we create it, is enabled ALWAYS, and so do the functions that it calls.
func Tracking(ctx context.Context, db postgres.Querier, schema string) (tracks bool, err error) {
	err = db.QueryRow(ctx, `
SELECT EXISTS (SELECT FROM pg_event_trigger
               WHERE evtfoid = to_regproc($1) AND evtenabled = 'A'
                 AND evtevent = 'ddl_command_end' AND evttags = ARRAY['REFRESH MATERIALIZED VIEW'])
   AND to_regproc($2) IS NOT NULL`,
		pgx.Identifier{schema}.Sanitize()+"."+trackedFunction, pgx.Identifier{schema}.Sanitize()+"."+recordExternalFunction).Scan(&tracks)
	if err != nil {
		return false, fmt.Errorf("look for the event trigger of matview in schema %q: %w", schema, err)
	}
	return tracks, nil
}

// dropTriggers drops the event triggers that call our function.
func dropTriggers(ctx context.Context, tx pgx.Tx, schema string) error {
	rows, err := tx.Query(ctx, "SELECT evtname::text FROM pg_event_trigger WHERE evtfoid = to_regproc($1)",
		pgx.Identifier{schema}.Sanitize()+"."+trackedFunction)
	if err != nil {
		return fmt.Errorf("look for the event trigger of matview in schema %q: %w", schema, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for the event trigger of matview in schema %q: %w", schema, err)
	}
	for _, name := range names {
		if _, err := tx.Exec(ctx, "DROP EVENT TRIGGER "+pgx.Identifier{name}.Sanitize()); err != nil {
			return fmt.Errorf("remove the event trigger %s of matview, which only its owner, a superuser, may drop: %w", name, err)
		}
	}
	return nil
}
