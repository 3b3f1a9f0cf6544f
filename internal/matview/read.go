package matview

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// View is a materialized view as far as the catalog can be read without locking the
// view.
type View struct {
	OID       uint32
	ID        string // the canonical view_name
	Name      Name
	Owner     string
	Comment   string // "" if it has none
	Populated bool
	Storage   Storage
	Columns   []Column
	Indexes   []IndexState
	// Major is the major version of the server, such as 15. Another major may deparse
	// the same definition differently.
	Major int
	// DefinitionHash changes with the stored query, and with the names of the view's
	// columns, which ALTER MATERIALIZED VIEW … RENAME COLUMN changes in pg_attribute
	// only. A major upgrade may change it without a change of meaning.
	DefinitionHash string
	// SourcesHash changes with the names and columns of the relations that the query
	// reads, with the names of the functions and types that it uses, and with whether
	// the session's search_path finds these names; and with all that gives words another
	// meaning without being read: labels of enums, functions, operators, casts,
	// collations and text search configurations of this database, and the session's
	// TimeZone and styles of dates. It changes when the text of the query may have
	// another meaning, or none.
	SourcesHash string
}

// IndexState is an index as far as it can be read without locking the view.
type IndexState struct {
	Name string
	Hash string // changes with anything that CREATE INDEX can specify
	// Valid is false for what a failed CREATE INDEX CONCURRENTLY leaves behind.
	Valid bool
	// Concurrent says that REFRESH CONCURRENTLY can use the index.
	Concurrent bool
}

// SupportsConcurrentRefresh reports whether the view has an index that REFRESH
// CONCURRENTLY can use. The view must be populated too.
func (v *View) SupportsConcurrentRefresh() bool {
	return slices.ContainsFunc(v.Indexes, func(x IndexState) bool { return x.Concurrent })
}

// ConcurrentIndexSQL tells of row i of pg_index, with access method am, whether
// REFRESH CONCURRENTLY can use the index, as is_usable_unique_index in matview.c
// does: before PostgreSQL 18, only if it is a B-tree.
const ConcurrentIndexSQL = `i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
       AND NOT 0 = ANY (i.indkey::smallint[]) AND (am.amname = 'btree' OR current_setting('server_version_num')::int >= 180000)`

// canonicalNameSQL is the canonical view_name, as the SQL function
// materialized_view_name has it: the provider must know it without our tables. It first
// pins what quote_ident depends on, for the rest of the transaction.
const canonicalNameSQL = `CASE WHEN set_config('quote_all_identifiers', 'off', true) = 'off'
     THEN CASE WHEN n.nspname = 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END || quote_ident(c.relname) END`

// CanonicalName is the name as the tables of matview have it, quoted as the version
// of the server requires.
func CanonicalName(ctx context.Context, q postgres.Querier, name Name) (canonical string, err error) {
	// Without OFFSET, the planner would evaluate it before the setting is pinned.
	const sql = "SELECT " + canonicalNameSQL + " FROM (SELECT $1 AS nspname OFFSET 0) AS n, (SELECT $2 AS relname OFFSET 0) AS c"
	if err := q.QueryRow(ctx, sql, name.Schema, name.Relation).Scan(&canonical); err != nil {
		return "", fmt.Errorf("quote the name of %s: %w", name, err)
	}
	return canonical, nil
}

// parametersSQL is the text[] "name=value" as a JSON object, null if it is empty.
func parametersSQL(options string) string {
	return `(SELECT json_object_agg(split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)) FROM unnest(` + options + `) AS o)`
}

// readSQL hashes by the server's hash function: md5 fails on a server in FIPS mode,
// and sha256 takes bytes, to which some encodings cannot be converted. An index's
// hash covers all of its row of pg_index except the OIDs and the flags that change
// by themselves.
var readSQL = `
SELECT c.oid, ` + canonicalNameSQL + ` AS id, json_build_object('Schema', n.nspname, 'Relation', c.relname) AS name,
       pg_get_userbyid(c.relowner) AS owner, coalesce(obj_description(c.oid, 'pg_class'), '') AS comment, c.relispopulated AS populated,
       -- A relation in the default tablespace of the database has none in its row.
       json_build_object('Tablespace', (SELECT s.spcname FROM pg_tablespace AS s
                                        WHERE s.oid = coalesce(nullif(c.reltablespace, 0), (SELECT dattablespace FROM pg_database WHERE datname = current_database()))),
                         'AccessMethod', (SELECT amname FROM pg_am WHERE oid = c.relam),
                         'Parameters', ` + parametersSQL(`coalesce(c.reloptions, '{}') || ARRAY(SELECT 'toast.' || o FROM pg_class AS t, unnest(t.reloptions) AS o WHERE t.oid = c.reltoastrelid)`) + `) AS storage,
       -- format_type leaves out a schema that is in the session's search_path.
       (SELECT json_agg(json_build_object('Name', a.attname, 'Type',
                   CASE WHEN t.typnamespace <> 'pg_catalog'::regnamespace AND pg_type_is_visible(t.oid) THEN quote_ident(tn.nspname) || '.' ELSE '' END
                   || format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
        FROM pg_attribute AS a
        JOIN pg_type AS t ON t.oid = a.atttypid
        JOIN pg_namespace AS tn ON tn.oid = t.typnamespace
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT json_agg(json_build_object('Name', x.relname, 'Valid', i.indisvalid, 'Concurrent', ` + ConcurrentIndexSQL + `,
                   'Hash', hashtextextended(concat_ws(E'\n', am.amname, x.reloptions::text, x.reltablespace,
                               to_jsonb(i) - '{indexrelid,indrelid,indisclustered,indisreplident,indcheckxmin,indisready,indislive,indisvalid}'::text[],
                               (SELECT string_agg(a.attcollation::text || coalesce(a.attoptions::text, ''), ' ' ORDER BY a.attnum)
                                FROM pg_attribute AS a WHERE a.attrelid = x.oid)), 0)::text) ORDER BY x.relname)
        FROM pg_index AS i
        JOIN pg_class AS x ON x.oid = i.indexrelid
        JOIN pg_am AS am ON am.oid = x.relam
        WHERE i.indrelid = c.oid) AS indexes,
       current_setting('server_version_num')::int / 10000 AS major,
       hashtextextended(r.ev_action::text || ARRAY(SELECT a.attname FROM pg_attribute AS a
                            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)::text, 0)::text AS definition_hash,
       concat_ws(' ', (SELECT hashtextextended(string_agg(format('%s %s %I.%I %s %I %s %s %s', s.oid, pg_table_is_visible(s.oid), sn.nspname, s.relname,
                                                   a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped),
                                            E'\n' ORDER BY s.oid, a.attnum), 0)
                       FROM (SELECT DISTINCT d.refobjid FROM pg_depend AS d
                             WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                               AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid) AS source
                       JOIN pg_class AS s ON s.oid = source.refobjid
                       JOIN pg_namespace AS sn ON sn.oid = s.relnamespace
                       JOIN pg_attribute AS a ON a.attrelid = s.oid AND a.attnum > 0),
                      (SELECT hashtextextended(string_agg(format('%s %s %I.%I', d.refobjid, coalesce(pg_function_is_visible(p.oid), pg_type_is_visible(t.oid)),
                                                   un.nspname, coalesce(p.proname, t.typname)), E'\n' ORDER BY d.refclassid, d.refobjid), 0)
                       FROM (SELECT DISTINCT refclassid, refobjid FROM pg_depend
                             WHERE classid = 'pg_rewrite'::regclass AND objid = r.oid) AS d
                       LEFT JOIN pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
                       LEFT JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
                       JOIN pg_namespace AS un ON un.oid IN (p.pronamespace, t.typnamespace)),
                      (SELECT hashtextextended(concat_ws(E'\n', current_setting('TimeZone'), current_setting('DateStyle'), current_setting('IntervalStyle'),
                                                         (SELECT string_agg(x.oid || ' ' || x.xmin, ',' ORDER BY x.oid) FROM pg_enum AS x),
                                                         (SELECT string_agg(x.oid || ' ' || x.xmin, ',' ORDER BY x.oid) FROM pg_proc AS x WHERE x.oid >= 16384),
                                                         (SELECT string_agg(x.oid || ' ' || x.xmin, ',' ORDER BY x.oid) FROM pg_operator AS x WHERE x.oid >= 16384),
                                                         (SELECT string_agg(x.oid || ' ' || x.xmin, ',' ORDER BY x.oid) FROM pg_cast AS x WHERE x.oid >= 16384),
                                                         (SELECT string_agg(x.oid || ' ' || x.xmin, ',' ORDER BY x.oid) FROM pg_collation AS x WHERE x.oid >= 16384),
                                                         (SELECT string_agg(x.oid || ' ' || x.xmin, ',' ORDER BY x.oid) FROM pg_ts_config AS x WHERE x.oid >= 16384)), 0))) AS sources_hash
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_rewrite AS r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
WHERE c.relkind = 'm'`

// Read reads a materialized view from the catalog; it returns nil if there is none
// of that name. It locks nothing of the view, so it does not wait for a refresh.
func Read(ctx context.Context, q postgres.Querier, name Name) (*View, error) {
	rows, _ := q.Query(ctx, readSQL+" AND n.nspname = $1 AND c.relname = $2", name.Schema, name.Relation) // CollectOneRow returns its error
	v, err := pgx.CollectOneRow(rows, pgx.RowToAddrOfStructByName[View])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // as documented
	}
	if err != nil {
		return nil, fmt.Errorf("read materialized view %s: %w", name, err)
	}
	return v, nil
}

// ReadAll reads every materialized view of the database, as [Read] does one.
func ReadAll(ctx context.Context, q postgres.Querier) (map[Name]*View, error) {
	views, err := collect(ctx, q, pgx.RowToAddrOfStructByName[View], readSQL)
	if err != nil {
		return nil, fmt.Errorf("read the materialized views: %w", err)
	}
	byName := make(map[Name]*View, len(views))
	for _, v := range views {
		byName[v.Name] = v
	}
	return byName, nil
}
