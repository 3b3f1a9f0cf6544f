package matview

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// View is a materialized view as the catalog has it, as far as that can be read
// without locking the view.
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
	// Major is the server's version, such as 15: another major writes the same
	// definition in other words.
	Major int
	// DefinitionHash changes with the stored query and with the names of the view's
	// columns, which ALTER MATERIALIZED VIEW … RENAME COLUMN changes in pg_attribute
	// alone. It may change without a change of meaning, at a major upgrade.
	DefinitionHash string
	// SourcesHash changes with the names and the columns of the relations that
	// the query reads, with the names of functions and types that it uses, and with
	// which of these names the session's search_path finds, and so when a SELECT *
	// or a bare name may mean something else.
	SourcesHash string
}

// IndexState is an index as far as it can be read without locking the view.
type IndexState struct {
	Name string
	Hash string // changes with anything that CREATE INDEX can say
	// Valid is false for what is left of a failed CREATE INDEX CONCURRENTLY.
	Valid bool
	// Concurrent says that REFRESH CONCURRENTLY can use it.
	Concurrent bool
}

// SupportsConcurrentRefresh says that an index allows REFRESH CONCURRENTLY: a
// valid unique one on plain columns, without WHERE. (The view must be populated
// too when the time comes.)
func (v *View) SupportsConcurrentRefresh() bool {
	return slices.ContainsFunc(v.Indexes, func(x IndexState) bool { return x.Concurrent })
}

// Hashes are 64 bits of the server's own hash function: md5 is not there on a
// server in FIPS mode, and sha256 takes bytes, which some encodings refuse.
const readSQL = `
SELECT c.oid,
       CASE WHEN n.nspname = 'public' THEN quote_ident(c.relname)
            ELSE quote_ident(n.nspname) || '.' || quote_ident(c.relname) END,
       n.nspname, c.relname, pg_get_userbyid(c.relowner), coalesce(obj_description(c.oid, 'pg_class'), ''), c.relispopulated,
       hashtextextended(r.ev_action::text, 0)::text,
       coalesce((SELECT hashtextextended(string_agg(format('%s %s %I.%I %s %I %s %s %s', s.oid, pg_table_is_visible(s.oid), sn.nspname, s.relname,
                                                           a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped),
                                                    E'\n' ORDER BY s.oid, a.attnum), 0)::text
                 FROM (SELECT DISTINCT d.refobjid FROM pg_depend AS d
                       WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                         AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid) AS source
                 JOIN pg_class AS s ON s.oid = source.refobjid
                 JOIN pg_namespace AS sn ON sn.oid = s.relnamespace
                 JOIN pg_attribute AS a ON a.attrelid = s.oid AND a.attnum > 0), '')
       || ' ' || coalesce((SELECT hashtextextended(string_agg(format('%s %s %I.%I', d.refobjid, coalesce(pg_function_is_visible(p.oid), pg_type_is_visible(t.oid)),
                                                              un.nspname, coalesce(p.proname, t.typname)), E'\n' ORDER BY d.refclassid, d.refobjid), 0)::text
                    FROM (SELECT DISTINCT refclassid, refobjid FROM pg_depend
                          WHERE classid = 'pg_rewrite'::regclass AND objid = r.oid) AS d
                    LEFT JOIN pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
                    LEFT JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
                    JOIN pg_namespace AS un ON un.oid IN (p.pronamespace, t.typnamespace)), ''),
       ARRAY(SELECT a.attname::text FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       coalesce((SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace), d.spcname), am.amname, current_setting('server_version_num')::int / 10000,
       coalesce(c.reloptions, '{}') || ARRAY(SELECT 'toast.' || o FROM pg_class AS t, unnest(t.reloptions) AS o WHERE t.oid = c.reltoastrelid),
       -- format_type leaves out a schema that is in the session's search_path.
       ARRAY(SELECT CASE WHEN t.typnamespace <> 'pg_catalog'::regnamespace AND pg_type_is_visible(t.oid)
                         THEN quote_ident(tn.nspname) || '.' ELSE '' END || format_type(a.atttypid, a.atttypmod)
             FROM pg_attribute AS a
             JOIN pg_type AS t ON t.oid = a.atttypid
             JOIN pg_namespace AS tn ON tn.oid = t.typnamespace
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_rewrite AS r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
LEFT JOIN pg_am AS am ON am.oid = c.relam,
-- A relation in the database's own tablespace has none in its row.
LATERAL (SELECT spcname FROM pg_database JOIN pg_tablespace AS s ON s.oid = dattablespace WHERE datname = current_database()) AS d
WHERE c.relkind = 'm' AND ($1::text IS NULL OR n.nspname = $1 AND c.relname = $2)`

// ConcurrentIndexSQL says of the row i of pg_index, with access method am, whether
// REFRESH CONCURRENTLY can use the index, as is_usable_unique_index in matview.c does.
const ConcurrentIndexSQL = `i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
       AND NOT 0 = ANY (i.indkey::smallint[]) AND am.amname = 'btree'`

// Of the row of pg_index all counts but the OIDs and the flags that change by
// themselves.
const readIndexesSQL = `
SELECT i.indrelid, x.relname,
       hashtextextended(concat_ws(E'\n', am.amname, x.reloptions::text, x.reltablespace,
                                  to_jsonb(i) - '{indexrelid,indrelid,indisclustered,indisreplident,indcheckxmin,indisready,indislive,indisvalid}'::text[],
                                  (SELECT string_agg(a.attcollation::text || coalesce(a.attoptions::text, ''), ' ' ORDER BY a.attnum)
                                   FROM pg_attribute AS a WHERE a.attrelid = x.oid)), 0)::text,
       i.indisvalid,
       ` + ConcurrentIndexSQL + `
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_am AS am ON am.oid = x.relam
JOIN pg_class AS v ON v.oid = i.indrelid AND v.relkind = 'm'
WHERE $1::oid IS NULL OR i.indrelid = $1
ORDER BY x.relname`

// Read reads a materialized view from the catalog; nil if there is none of that
// name. It locks nothing of the view, so it does not wait for a refresh.
func Read(ctx context.Context, q Querier, name Name) (*View, error) {
	views, err := readViews(ctx, q, name.Schema, name.Relation)
	if err != nil {
		return nil, fmt.Errorf("read materialized view %s: %w", name, err)
	}
	if len(views) == 0 {
		return nil, nil //nolint:nilnil // as documented
	}
	if err := readIndexStates(ctx, q, views, views[0].OID); err != nil {
		return nil, fmt.Errorf("read the indexes of %s: %w", name, err)
	}
	return views[0], nil
}

// ReadAll reads every materialized view of the database, as [Read] does one.
func ReadAll(ctx context.Context, q Querier) (map[Name]*View, error) {
	views, err := readViews(ctx, q, nil, nil)
	if err == nil {
		err = readIndexStates(ctx, q, views, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("read the materialized views: %w", err)
	}
	byName := make(map[Name]*View, len(views))
	for _, v := range views {
		byName[v.Name] = v
	}
	return byName, nil
}

func readViews(ctx context.Context, q Querier, schema, relation any) ([]*View, error) {
	rows, err := q.Query(ctx, readSQL, schema, relation)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*View, error) {
		v := &View{}
		var names, types, options []string
		err := row.Scan(&v.OID, &v.ID, &v.Name.Schema, &v.Name.Relation, &v.Owner, &v.Comment, &v.Populated, &v.DefinitionHash, &v.SourcesHash,
			&names, &v.Storage.Tablespace, &v.Storage.AccessMethod, &v.Major, &options, &types)
		v.Storage.Parameters = parameterMap(options)
		v.DefinitionHash += " " + hashOf(names)
		for i := range names {
			v.Columns = append(v.Columns, Column{Name: names[i], Type: types[i]})
		}
		return v, err
	})
}

// hashOf is of names in order; none of them can hold a NUL.
func hashOf(names []string) string {
	h := fnv.New64a()
	_, _ = io.WriteString(h, strings.Join(names, "\x00")) // which never fails
	return strconv.FormatUint(h.Sum64(), 36)
}

// readIndexStates fills in the indexes of one view, or of all.
func readIndexStates(ctx context.Context, q Querier, views []*View, only any) error {
	byOID := make(map[uint32]*View, len(views))
	for _, v := range views {
		byOID[v.OID] = v
	}
	rows, err := q.Query(ctx, readIndexesSQL, only)
	if err != nil {
		return err
	}
	var view uint32
	var x IndexState
	_, err = pgx.ForEachRow(rows, []any{&view, &x.Name, &x.Hash, &x.Valid, &x.Concurrent}, func() error {
		// One that was created since the views were read has none here.
		if v := byOID[view]; v != nil {
			v.Indexes = append(v.Indexes, x)
		}
		return nil
	})
	return err
}

// CanonicalName is the name as the tables of matview write it, quoted where the
// server's version needs quotes.
func CanonicalName(ctx context.Context, q Querier, name Name) (string, error) {
	const sql = "SELECT CASE WHEN $1 = 'public' THEN '' ELSE quote_ident($1) || '.' END || quote_ident($2)"
	var canonical string
	if err := q.QueryRow(ctx, sql, name.Schema, name.Relation).Scan(&canonical); err != nil {
		return "", fmt.Errorf("quote the name of %s: %w", name, err)
	}
	return canonical, nil
}
