package migrations

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// tracking is whether refreshes by others are to be recorded; not set, it stays
// as it is.
type tracking struct{ set, on bool }

func (t tracking) sql() string {
	if !t.set {
		return ""
	}
	return fmt.Sprintf("SET LOCAL matview.track_external_refreshes = %t;\n", t.on)
}

// Track is [Apply], and from then on an event trigger records every REFRESH by
// anyone, or none does. To make or remove that trigger takes a superuser, or on
// Amazon RDS a member of rds_superuser; a role that may not gets an error that
// says so, and nothing has changed.
func Track(ctx context.Context, conn *pgx.Conn, schema string, on bool) error {
	return exclusively(ctx, conn, func(tx pgx.Tx) error {
		return apply(ctx, tx, schema, tracking{set: true, on: on})
	})
}

const (
	trackedFunction        = "materialized_view_refresh_tracked()"
	recordExternalFunction = "materialized_view_refresh_record_external(oid, oid, jsonb)"
	markUnrecordedFunction = "materialized_view_refresh_mark_unrecorded()"
)

// Tracking reports whether refreshes by others are recorded: the event trigger
// is there, as it was made, and enabled ALWAYS, and what it calls is there.
func Tracking(ctx context.Context, db Querier, schema string) (tracks bool, err error) {
	err = db.QueryRow(ctx, `
SELECT EXISTS (SELECT FROM pg_event_trigger
               WHERE evtfoid = to_regprocedure($1) AND evtenabled = 'A'
                 AND evtevent = 'ddl_command_end' AND evttags = ARRAY['REFRESH MATERIALIZED VIEW'])
   AND to_regprocedure($2) IS NOT NULL`,
		pgx.Identifier{schema}.Sanitize()+"."+trackedFunction, pgx.Identifier{schema}.Sanitize()+"."+recordExternalFunction).Scan(&tracks)
	if err != nil {
		return false, fmt.Errorf("look for the event trigger of matview in schema %q: %w", schema, err)
	}
	return tracks, nil
}

// dropTriggers drops the event triggers that call our function.
func dropTriggers(ctx context.Context, tx pgx.Tx, schema string) error {
	rows, err := tx.Query(ctx, "SELECT evtname::text FROM pg_event_trigger WHERE evtfoid = to_regprocedure($1)",
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
			return fmt.Errorf("remove the event trigger %s of matview, which takes the superuser that made it: %w", name, err)
		}
	}
	return nil
}
