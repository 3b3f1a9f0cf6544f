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

// Storage is how a view is stored. What is empty is not asked for.
type Storage struct {
	Tablespace   string
	AccessMethod string
	// Parameters are those of WITH, such as fillfactor and toast.autovacuum_enabled;
	// nil where they are not asked for.
	Parameters map[string]string
}

// With has what is asked for in over instead.
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

// literal writes a string constant that reads the same under either setting of
// standard_conforming_strings.
func literal(s string) string {
	quoted := strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return ` E'` + strings.ReplaceAll(quoted, `\`, `\\`) + `'`
	}
	return "'" + quoted + "'"
}

// SetStorage stores a view as want asks. A change of tablespace or access method
// writes all of it anew, for which readers wait until tx ends.
func SetStorage(ctx context.Context, tx pgx.Tx, view *View, want Storage) error {
	var actions []string
	if want.AccessMethod != "" && want.AccessMethod != view.Storage.AccessMethod && view.Major < 15 {
		return fmt.Errorf("change how materialized view %s is stored: it takes PostgreSQL 15 or later to change an access method in place, and this is %d; a new view, as with -replace, can have any", view.Name, view.Major)
	}
	if want.AccessMethod != "" && want.AccessMethod != view.Storage.AccessMethod {
		actions = append(actions, "SET ACCESS METHOD "+postgres.QuoteIdent(want.AccessMethod))
	}
	if want.Tablespace != "" && want.Tablespace != view.Storage.Tablespace {
		actions = append(actions, "SET TABLESPACE "+postgres.QuoteIdent(want.Tablespace))
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
	if want.AccessMethod != "" && want.AccessMethod != view.Storage.AccessMethod || want.Tablespace != "" && want.Tablespace != view.Storage.Tablespace {
		if err := LockOutReaders(ctx, tx, view, Patience); err != nil {
			return err
		}
	}
	for _, action := range actions {
		if err := execute(ctx, tx, "ALTER MATERIALIZED VIEW "+view.Name.SQL()+" "+action); err != nil {
			return fmt.Errorf("change how materialized view %s is stored (%s): %w", view.Name, action, err)
		}
	}
	return nil
}

// parameterMap reads what reloptions holds: `fillfactor=70`.
func parameterMap(options []string) map[string]string {
	if len(options) == 0 {
		return nil
	}
	parameters := make(map[string]string, len(options))
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		parameters[name] = value
	}
	return parameters
}
