package matview

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Storage is how a view is stored. Empty fields of a requested storage leave it as it
// is.
type Storage struct {
	Tablespace   string
	AccessMethod string
	// Parameters are those of WITH, such as fillfactor and toast.autovacuum_enabled;
	// nil leaves them as they are.
	Parameters map[string]string
}

// With returns s with the fields that are set in over.
func (s Storage) With(over Storage) Storage {
	if over.Tablespace != "" {
		s.Tablespace = over.Tablespace
	}
	if over.AccessMethod != "" {
		s.AccessMethod = over.AccessMethod
	}
	if over.Parameters != nil {
		s.Parameters = over.Parameters
	}
	return s
}

// createSQL is the part of CREATE MATERIALIZED VIEW between the columns and AS.
func (s Storage) createSQL() string {
	sql := ""
	if s.AccessMethod != "" {
		sql += " USING " + postgres.QuoteIdent(s.AccessMethod)
	}
	if len(s.Parameters) > 0 {
		sql += " WITH (" + parameterList(s.Parameters) + ")"
	}
	if s.Tablespace != "" {
		sql += " TABLESPACE " + postgres.QuoteIdent(s.Tablespace)
	}
	return sql
}

func parameterList(parameters map[string]string) string {
	list := make([]string, 0, len(parameters))
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		list = append(list, parameterName(name)+" = "+literal(parameters[name]))
	}
	return strings.Join(list, ", ")
}

// parameterName quotes `toast.autovacuum_enabled` in its two parts.
func parameterName(name string) string {
	if rest, ok := strings.CutPrefix(name, "toast."); ok {
		return "toast." + postgres.QuoteIdent(rest)
	}
	return postgres.QuoteIdent(name)
}

// literal returns a string constant that means the same under either setting of
// standard_conforming_strings.
func literal(s string) string {
	quoted := strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return ` E'` + strings.ReplaceAll(quoted, `\`, `\\`) + `'`
	}
	return "'" + quoted + "'"
}

// SetStorage changes how a view is stored. A change of tablespace or access method
// rewrites the view under ACCESS EXCLUSIVE.
func SetStorage(ctx context.Context, tx pgx.Tx, view *View, want Storage) error {
	var actions []string
	if want.AccessMethod != "" && want.AccessMethod != view.Storage.AccessMethod {
		if view.Major < accessMethodInPlace {
			return fmt.Errorf("change the storage of materialized view %s: changing the access method in place requires PostgreSQL %d or later, but this is PostgreSQL %d; a new view, as with -replace, can have any access method",
				view.Name, accessMethodInPlace, view.Major)
		}
		actions = append(actions, "SET ACCESS METHOD "+postgres.QuoteIdent(want.AccessMethod))
	}
	if want.Tablespace != "" && want.Tablespace != view.Storage.Tablespace {
		actions = append(actions, "SET TABLESPACE "+postgres.QuoteIdent(want.Tablespace))
	}
	if len(actions) > 0 { // these rewrite the view
		if err := LockAccessExclusive(ctx, tx, view, LockTimeout); err != nil {
			return err
		}
	}
	if want.Parameters != nil {
		var reset []string
		for _, name := range slices.Sorted(maps.Keys(view.Storage.Parameters)) {
			if _, ok := want.Parameters[name]; !ok {
				reset = append(reset, parameterName(name))
			}
		}
		if len(reset) > 0 {
			actions = append(actions, "RESET ("+strings.Join(reset, ", ")+")")
		}
		if len(want.Parameters) > 0 && !maps.Equal(want.Parameters, view.Storage.Parameters) {
			actions = append(actions, "SET ("+parameterList(want.Parameters)+")")
		}
	}
	for _, action := range actions {
		if err := execute(ctx, tx, "ALTER MATERIALIZED VIEW "+view.Name.SQL()+" "+action); err != nil {
			return fmt.Errorf("change the storage of materialized view %s (%s): %w", view.Name, action, err)
		}
	}
	return nil
}
