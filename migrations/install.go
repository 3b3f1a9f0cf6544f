package migrations

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// Installation is how the tables are installed.
type Installation struct {
	// HistoryRetention is how long attempts are kept, to the microsecond.
	HistoryRetention time.Duration
	// TrackExternal records refreshes by others; see [Track].
	TrackExternal bool
	Roles
}

// Install is [Apply] with settings and grants, in the same transaction. It revokes the
// grants of roles in before that are not in want. adopted tells whether the log table
// existed already.
func Install(ctx context.Context, conn *pgx.Conn, schema string, want Installation, before Roles) (adopted bool, err error) {
	err = exclusively(ctx, conn, func(tx pgx.Tx) error {
		adopted, err = logExists(ctx, tx, schema)
		if err != nil {
			return err
		}
		if err := current.apply(ctx, tx, schema, tracking{set: true, on: want.TrackExternal}); err != nil {
			return err
		}
		if err := store.New(schema).SetHistoryRetention(ctx, tx, want.HistoryRetention); err != nil {
			return err
		}
		if err := Revoke(ctx, tx, schema, before.lost(want.Roles)); err != nil {
			return err
		}
		return Grant(ctx, tx, schema, want.Roles)
	})
	return adopted, err
}

// lost returns the roles that are to have less than before. A writer that becomes a
// reader is one of them: Grant grants again what it keeps.
func (r Roles) lost(want Roles) []string {
	var roles []string
	for _, role := range r.Writers {
		if !slices.Contains(want.Writers, role) {
			roles = append(roles, role)
		}
	}
	for _, role := range r.Readers {
		if !slices.Contains(want.Readers, role) && !slices.Contains(want.Writers, role) {
			roles = append(roles, role)
		}
	}
	return roles
}

func logExists(ctx context.Context, db postgres.Querier, schema string) (exists bool, err error) {
	err = db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2)`, schema, store.LogTable).Scan(&exists)
	if err != nil {
		return false, fmt.Errorf("look for the log table in schema %q: %w", schema, err)
	}
	return exists, nil
}

// ours is what the files create, apart from the log: dependents first.
var ours = slices.Concat(
	objects("FUNCTION", "materialized_view_freshness_of"),
	objects("VIEW", store.FreshnessView, store.NamesView),
	objects("FUNCTION", readFunctions[1:]...),
	objects("FUNCTION", trackedFunction, recordExternalFunction),
	objects("TABLE", store.ScheduleTable),
	objects("FUNCTION", "materialized_view_refresh_schedule_changed"),
	objects("TABLE", store.StateTable, store.UnpublishedTable, store.HistoryTable),
	objects("FUNCTION", "materialized_view_refresh_attempt_ended"),
	objects("TABLE", store.SettingsTable, store.PublicationTable, VersionTable),
)

// object is a relation or a function, by its name without the schema.
type object struct{ kind, name string }

func objects(kind string, names ...string) []object {
	var all []object
	for _, name := range names {
		all = append(all, object{kind, name})
	}
	return all
}

// Uninstall drops what is ours in schema, with the log if dropLog is set, and revokes
// from the roles what [Grant] granted. The schema stays. If objects of others depend on
// ours, it changes nothing and the error names them.
func Uninstall(ctx context.Context, conn *pgx.Conn, schema string, roles Roles, dropLog bool) error {
	return exclusively(ctx, conn, func(tx pgx.Tx) error {
		exists, err := Exists(ctx, tx, schema)
		if err != nil || !exists {
			return err
		}
		if err := Revoke(ctx, tx, schema, slices.Concat(roles.Writers, roles.Readers)); err != nil {
			return err
		}
		if err := dropTriggers(ctx, tx, schema); err != nil {
			return err
		}
		all := ours
		if dropLog {
			all = append(slices.Clone(ours), object{"TABLE", store.LogTable})
		}
		for _, o := range all {
			statement := fmt.Sprintf("DROP %s IF EXISTS %s.%s RESTRICT", o.kind, pgx.Identifier{schema}.Sanitize(), o.name)
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("remove the tables of matview from schema %q: %w", schema, err)
			}
		}
		return nil
	})
}
