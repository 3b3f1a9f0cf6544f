package migrations

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Installation is what there is to say about the tables beside their version.
type Installation struct {
	// HistoryRetention is how long attempts are kept, to the microsecond.
	HistoryRetention time.Duration
	// TrackExternal is whether refreshes by others are recorded; see [Track].
	TrackExternal bool
	Roles
}

// Install is [Apply] with settings and grants, in the same transaction. Roles of
// before that are not in want lose their grants. adopted says that the log
// table was there already.
func Install(ctx context.Context, conn *pgx.Conn, schema string, want Installation, before Roles) (adopted bool, err error) {
	err = exclusively(ctx, conn, func(tx pgx.Tx) error {
		adopted, err = logExists(ctx, tx, schema)
		if err != nil {
			return err
		}
		if err := apply(ctx, tx, schema, tracking{set: true, on: want.TrackExternal}); err != nil {
			return err
		}
		if err := setRetention(ctx, tx, schema, want.HistoryRetention); err != nil {
			return err
		}
		if err := Revoke(ctx, tx, schema, before.lost(want.Roles)); err != nil {
			return err
		}
		return Grant(ctx, tx, schema, want.Roles)
	})
	return adopted, err
}

// lost are the roles that had more than they are to have. One that turns from
// writer to reader is among them: Grant gives back what it keeps.
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

func logExists(ctx context.Context, db Querier, schema string) (exists bool, err error) {
	err = db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2)`, schema, LogTable).Scan(&exists)
	if err != nil {
		return false, fmt.Errorf("look for the log table in schema %q: %w", schema, err)
	}
	return exists, nil
}

func setRetention(ctx context.Context, tx pgx.Tx, schema string, retention time.Duration) error {
	_, err := tx.Exec(ctx, `INSERT INTO `+settingsTable(schema)+` (history_retention)
VALUES ($1::bigint * interval '1 microsecond')
ON CONFLICT (only_row) DO UPDATE SET history_retention = EXCLUDED.history_retention`, retention.Microseconds())
	if err != nil {
		return fmt.Errorf("set the retention of the refresh history in schema %q: %w", schema, err)
	}
	return nil
}

// HistoryRetention is how long attempts are kept. It wants a complete
// installation, see [Installed].
func HistoryRetention(ctx context.Context, db Querier, schema string) (time.Duration, error) {
	var micros int64
	err := db.QueryRow(ctx, `SELECT coalesce((SELECT (extract(epoch FROM history_retention) * 1000000)::bigint FROM `+settingsTable(schema)+`), 0)`).Scan(&micros)
	if err != nil {
		return 0, fmt.Errorf("read the retention of the refresh history in schema %q: %w", schema, err)
	}
	return time.Duration(micros) * time.Microsecond, nil
}

func settingsTable(schema string) string {
	return pgx.Identifier{schema, "materialized_view_refresh_settings"}.Sanitize()
}

// ours drops what the files make, dependents first. The schema stays.
var ours = []struct{ kind, name string }{
	{"FUNCTION", freshnessOfFunction},
	{"VIEW", "materialized_view_freshness"},
	{"FUNCTION", freshnessRowFunction},
	{"FUNCTION", replicatedFunction},
	{"FUNCTION", oidFunction},
	{"VIEW", "materialized_view_names"},
	{"FUNCTION", knownAsFunction},
	{"FUNCTION", logRowsFunction},
	{"FUNCTION", upstreamsFunction},
	{"FUNCTION", nameFunction},
	{"FUNCTION", timeoutFunction},
	{"FUNCTION", trackedFunction},
	{"FUNCTION", recordExternalFunction},
	{"TABLE", "materialized_view_refresh_schedule"},
	{"FUNCTION", "materialized_view_refresh_schedule_changed()"},
	{"TABLE", "materialized_view_refresh_state"},
	{"TABLE", "materialized_view_refresh_history"},
	{"TABLE", "materialized_view_refresh_settings"},
	{"TABLE", "materialized_view_refresh_publication"},
	{"TABLE", VersionTable},
}

// Uninstall drops all that is ours in schema, and the log too if dropLog says
// so; the roles lose what [Grant] gave them. Objects of others that depend on
// ours are an error that names them, and nothing has changed then.
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
		objects := ours
		if dropLog {
			objects = append(slices.Clone(ours), struct{ kind, name string }{"TABLE", LogTable})
		}
		for _, o := range objects {
			statement := fmt.Sprintf("DROP %s IF EXISTS %s.%s RESTRICT", o.kind, pgx.Identifier{schema}.Sanitize(), o.name)
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("remove the tables of matview from schema %q: %w", schema, err)
			}
		}
		return nil
	})
}
