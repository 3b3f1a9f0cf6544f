package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// privilege is one that a role needs. Object is the object's name without its schema.
type privilege struct {
	Kind   string // SCHEMA, TABLE or FUNCTION
	Object string
	Right  string // as in GRANT: SELECT, UPDATE (longest_gap)
}

func (p privilege) sql(verb, schema, toFrom, role string) string {
	object := pgx.Identifier{schema}.Sanitize()
	if p.Kind != "SCHEMA" {
		object += "." + p.Object
	}
	return fmt.Sprintf("%s %s ON %s %s %s %s", verb, p.Right, p.Kind, object, toFrom, pgx.Identifier{role}.Sanitize())
}

// readFunctions are the functions of the read model; no two have the same name.
var readFunctions = []string{
	"materialized_view_freshness_of",
	"materialized_view_freshness_row",
	"materialized_view_replicated",
	"materialized_view_oid",
	"materialized_view_known_as",
	"materialized_view_is_ambiguous",
	"materialized_view_refresh_log_rows",
	"materialized_view_upstreams",
	"materialized_view_name",
	"materialized_view_quote",
	"materialized_view_quote_pinned",
	"materialized_view_attempt_timeout",
	"materialized_view_server_is_tested",
}

// readerPrivileges are what reading freshness requires, and planning. The functions in the
// read model run with the reader's rights, hence EXECUTE on them and SELECT on the log.
var readerPrivileges = slices.Concat(
	[]privilege{{"SCHEMA", "", "USAGE"}},
	tables("SELECT", store.LogTable, store.ScheduleTable, store.StateTable, store.HistoryTable,
		store.NamesView, store.FreshnessView, store.SettingsTable, VersionTable),
	on("FUNCTION", "EXECUTE", readFunctions...),
)

// writerPrivileges are what recording refreshes requires, in addition to reading.
var writerPrivileges = slices.Concat(
	readerPrivileges,
	tables("SELECT", store.PublicationTable),
	writing(store.LogTable, store.StateTable, store.HistoryTable, store.PublicationTable),
	tables("SELECT", store.UnpublishedTable), tables("DELETE", store.UnpublishedTable),
	[]privilege{{"TABLE", store.ScheduleTable, "UPDATE (longest_gap)"}},
)

// recorderPrivileges are what recording one refresh requires at least.
var recorderPrivileges = slices.Concat(
	[]privilege{{"SCHEMA", "", "USAGE"}},
	tables("SELECT", store.FreshnessView, VersionTable),
	on("TABLE", "INSERT", store.LogTable, store.StateTable, store.HistoryTable),
	on("TABLE", "UPDATE", store.LogTable, store.StateTable),
)

func tables(right string, names ...string) []privilege { return on("TABLE", right, names...) }

func on(kind, right string, names ...string) []privilege {
	var all []privilege
	for _, name := range names {
		all = append(all, privilege{kind, name, right})
	}
	return all
}

func writing(names ...string) []privilege {
	var all []privilege
	for _, right := range []string{"INSERT", "UPDATE", "DELETE"} {
		all = append(all, tables(right, names...)...)
	}
	return all
}

// missingSQL returns each role with the privileges that it lacks, numbered from 1. The
// privileges are parallel arrays. A role holds a privilege directly or through another
// role; it holds none on an object that does not exist.
const missingSQL = `
SELECT r.role, p.n
FROM unnest($2::text[]) AS r(role)
JOIN pg_roles AS pr ON pr.rolname = r.role
CROSS JOIN unnest($3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS p(kind, object, right_, n)
WHERE NOT coalesce(CASE p.kind
    WHEN 'SCHEMA' THEN has_schema_privilege(pr.oid, (SELECT oid FROM pg_namespace WHERE nspname = $1), p.right_)
    WHEN 'FUNCTION' THEN has_function_privilege(pr.oid, to_regproc(quote_ident($1) || '.' || p.object)::oid, p.right_)
    ELSE CASE WHEN p.right_ LIKE '% (%)'
        THEN has_column_privilege(pr.oid, to_regclass(quote_ident($1) || '.' || p.object),
                                  substring(p.right_ FROM '\((.*)\)'), split_part(p.right_, ' ', 1))
        ELSE has_table_privilege(pr.oid, to_regclass(quote_ident($1) || '.' || p.object), p.right_) END
    END, false)
ORDER BY r.role, p.n`

// missing returns the privileges that each of the roles lacks. A role that does not
// exist is left out.
func missing(ctx context.Context, db postgres.Querier, schema string, roles []string, want []privilege) (map[string][]privilege, error) {
	var kinds, objects, rights []string
	for _, p := range want {
		kinds, objects, rights = append(kinds, p.Kind), append(objects, p.Object), append(rights, p.Right)
	}
	rows, err := db.Query(ctx, missingSQL, schema, roles, kinds, objects, rights)
	if err != nil {
		return nil, fmt.Errorf("read the privileges in schema %q: %w", schema, err)
	}
	lacks := map[string][]privilege{}
	var role string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&role, &n}, func() error {
		lacks[role] = append(lacks[role], want[n-1])
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the privileges in schema %q: %w", schema, err)
	}
	return lacks, nil
}

// existing returns those of the roles that exist.
func existing(ctx context.Context, db postgres.Querier, roles []string) ([]string, error) {
	rows, err := db.Query(ctx, "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)", roles)
	if err != nil {
		return nil, fmt.Errorf("look for roles: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for roles: %w", err)
	}
	return names, nil
}

// Roles are the roles that may use the tables.
type Roles struct {
	Writers []string // record refreshes: the exporter's login
	Readers []string // read freshness
}

// Unknown returns those of the roles that do not exist.
func Unknown(ctx context.Context, db postgres.Querier, roles []string) ([]string, error) {
	found, err := existing(ctx, db, roles)
	return slices.DeleteFunc(slices.Clone(roles), func(role string) bool { return slices.Contains(found, role) }), err
}

// Equipped returns those of the roles that have all the privileges they need.
func Equipped(ctx context.Context, db postgres.Querier, schema string, roles Roles) (Roles, error) {
	writers, err := equipped(ctx, db, schema, roles.Writers, writerPrivileges)
	if err != nil {
		return Roles{}, err
	}
	readers, err := equipped(ctx, db, schema, roles.Readers, readerPrivileges)
	return Roles{Writers: writers, Readers: readers}, err
}

func equipped(ctx context.Context, db postgres.Querier, schema string, roles []string, want []privilege) ([]string, error) {
	if len(roles) == 0 {
		return nil, nil
	}
	found, err := existing(ctx, db, roles)
	if err != nil {
		return nil, err
	}
	lacks, err := missing(ctx, db, schema, found, want)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(role string) bool { return len(lacks[role]) > 0 }), nil
}

// Grant grants the roles just what they need on the tables in schema and do not have
// yet. A role that does not exist is an error.
func Grant(ctx context.Context, tx pgx.Tx, schema string, roles Roles) error {
	if err := grant(ctx, tx, schema, roles.Writers, writerPrivileges); err != nil {
		return err
	}
	return grant(ctx, tx, schema, roles.Readers, readerPrivileges)
}

func grant(ctx context.Context, tx pgx.Tx, schema string, roles []string, want []privilege) error {
	if len(roles) == 0 {
		return nil
	}
	found, err := existing(ctx, tx, roles)
	if err != nil {
		return err
	}
	for _, role := range roles {
		if !slices.Contains(found, role) {
			return fmt.Errorf("grant privileges in schema %q: role %q does not exist; create it first", schema, role)
		}
	}
	lacks, err := missing(ctx, tx, schema, roles, want)
	if err != nil {
		return err
	}
	for role, privileges := range lacks {
		for _, p := range privileges {
			statement := p.sql("GRANT", schema, "TO", role)
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
	}
	return verify(ctx, tx, schema, roles, want)
}

// verify checks the privileges after GRANT, which only warns if the role that runs it
// has no grant option.
func verify(ctx context.Context, tx pgx.Tx, schema string, roles []string, want []privilege) error {
	lacks, err := missing(ctx, tx, schema, roles, want)
	if err != nil {
		return err
	}
	for _, role := range roles {
		if len(lacks[role]) == 0 {
			continue
		}
		var statements []string
		for _, p := range lacks[role] {
			statements = append(statements, p.sql("GRANT", schema, "TO", role))
		}
		return fmt.Errorf("this role may not grant role %q all that it needs; the owner must run: %s", role, strings.Join(statements, "; "))
	}
	return nil
}

// Revoke revokes from the roles what [Grant] grants to writers and readers. Roles and
// objects that no longer exist are no error. A role keeps USAGE on the schema if it has
// a privilege on anything else in it.
func Revoke(ctx context.Context, tx pgx.Tx, schema string, roles []string) error {
	if len(roles) == 0 {
		return nil
	}
	found, err := existing(ctx, tx, roles)
	if err != nil {
		return err
	}
	for _, role := range found {
		for _, p := range writerPrivileges {
			if p.Kind == "SCHEMA" {
				continue
			}
			if err := revoke(ctx, tx, schema, role, p); err != nil {
				return err
			}
		}
		if err := revokeUsage(ctx, tx, schema, role); err != nil {
			return err
		}
	}
	return nil
}

func revoke(ctx context.Context, tx pgx.Tx, schema, role string, p privilege) error {
	var exists bool
	err := tx.QueryRow(ctx, "SELECT CASE $1 WHEN 'FUNCTION' THEN to_regproc($2) IS NOT NULL ELSE to_regclass($2) IS NOT NULL END",
		p.Kind, pgx.Identifier{schema}.Sanitize()+"."+p.Object).Scan(&exists)
	if err != nil {
		return fmt.Errorf("look for %s: %w", p.Object, err)
	}
	if !exists {
		return nil
	}
	statement := p.sql("REVOKE", schema, "FROM", role)
	if _, err := tx.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

const usesSchemaSQL = `
SELECT EXISTS (SELECT FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
               WHERE c.relnamespace = n.oid AND a.grantee = r.oid)
    OR EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relowner = r.oid)
    OR EXISTS (SELECT FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
               WHERE p.pronamespace = n.oid AND a.grantee = r.oid)
    OR EXISTS (SELECT FROM pg_attribute AS t JOIN pg_class AS c ON c.oid = t.attrelid CROSS JOIN LATERAL aclexplode(t.attacl) AS a
               WHERE c.relnamespace = n.oid AND a.grantee = r.oid)
FROM pg_namespace AS n, pg_roles AS r
WHERE n.nspname = $1 AND r.rolname = $2`

func revokeUsage(ctx context.Context, tx pgx.Tx, schema, role string) error {
	var uses bool
	if err := tx.QueryRow(ctx, usesSchemaSQL, schema, role).Scan(&uses); err != nil {
		return fmt.Errorf("read the privileges of role %q in schema %q: %w", role, schema, err)
	}
	if uses {
		return nil
	}
	statement := privilege{Kind: "SCHEMA", Right: "USAGE"}.sql("REVOKE", schema, "FROM", role)
	if _, err := tx.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// RecorderError says that a role may not record refreshes.
type RecorderError struct {
	Role, Schema, Owner string // Owner of the tables
	Grant               string // makes the role a member of Owner
}

func (e *RecorderError) Error() string {
	return fmt.Sprintf("role %q may not record refreshes in the tables of matview in schema %q, which belong to role %q: make it one of the writer_roles of the matview_refresh_log, or %s",
		e.Role, e.Schema, e.Owner, e.Grant)
}

// CheckRecorder returns a [RecorderError] if the session's role may not record refreshes
// in schema. Tables that are not installed, or not all of them, are no error.
func CheckRecorder(ctx context.Context, db postgres.Querier, schema string) error {
	found, all, err := present(ctx, db, schema)
	if err != nil || found < all {
		return err
	}
	e := &RecorderError{Schema: schema}
	err = db.QueryRow(ctx, `
SELECT current_user, pg_get_userbyid(c.relowner), `+postgres.InheritSQL("c.relowner")+`
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND NOT pg_has_role(c.relowner, 'USAGE')`, schema, VersionTable).Scan(&e.Role, &e.Owner, &e.Grant)
	if errors.Is(err, pgx.ErrNoRows) { // the owner may
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the privileges in schema %q: %w", schema, err)
	}
	lacks, err := missing(ctx, db, schema, []string{e.Role}, recorderPrivileges)
	if err != nil {
		return err
	}
	if len(lacks[e.Role]) == 0 {
		return nil
	}
	return e
}
