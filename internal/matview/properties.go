package matview

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// columnOptionsSQL is the options that a user can set on the column that is row a
// of pg_attribute; null if there are none. Beside them the server keeps options of
// its own that differ for each relation: pg_attver, since the minor releases of
// November 2026.
const columnOptionsSQL = `(SELECT array_agg(o ORDER BY o) FROM unnest(a.attoptions) AS o WHERE split_part(o, '=', 1) IN ('n_distinct', 'n_distinct_inherited'))`

// The properties of a view are read as the statements that give them to its
// replacement. None of these queries locks the view.

// columnStorageSQL is for what must be set before the replacement is filled.
const columnStorageSQL = `
SELECT format('ALTER MATERIALIZED VIEW %s ALTER COLUMN %I SET %s', @new::oid::regclass, a.attname, s.setting)
FROM pg_attribute AS a
JOIN pg_attribute AS b ON b.attrelid = @new AND b.attname = a.attname AND b.atttypid = a.atttypid,
LATERAL (SELECT 'STORAGE ' || CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END
         WHERE a.attstorage <> b.attstorage
         UNION ALL -- PostgreSQL 13 has no attcompression
         SELECT 'COMPRESSION ' || CASE to_jsonb(a) ->> 'attcompression' WHEN 'p' THEN 'pglz' ELSE 'lz4' END
         WHERE to_jsonb(a) ->> 'attcompression' IN ('p', 'l')) AS s (setting)
WHERE a.attrelid = @old AND a.attnum > 0 AND NOT a.attisdropped`

// propertiesSQL is for all other properties but privileges.
const propertiesSQL = `
WITH kept_column AS (
    SELECT a.*, ` + columnOptionsSQL + ` AS options, @new::oid::regclass AS replacement
    FROM pg_attribute AS a
    JOIN pg_attribute AS b ON b.attrelid = @new AND b.attname = a.attname
    WHERE a.attrelid = @old AND a.attnum > 0 AND NOT a.attisdropped
), index AS (
    SELECT i.*, format('%I.%I', n.nspname, t.name) AS name, quote_ident(t.name) AS bare_name
    FROM pg_index AS i
    JOIN pg_class AS x ON x.oid = i.indexrelid
    JOIN pg_namespace AS n ON n.oid = x.relnamespace,
    LATERAL (SELECT @temporary_name || '_' || x.oid::text AS name) AS t
    WHERE i.indrelid = @old AND i.indisvalid AND x.relname <> ALL (@drop::text[])
), statistics AS (
    SELECT s.*, format('%I.%I', n.nspname, @temporary_name || '_' || s.oid::text) AS name
    FROM pg_statistic_ext AS s
    JOIN pg_namespace AS n ON n.oid = s.stxnamespace
    WHERE s.stxrelid = @old
)
SELECT format('ALTER MATERIALIZED VIEW %s ALTER COLUMN %I SET STATISTICS %s', replacement, attname, attstattarget)
FROM kept_column WHERE attstattarget >= 0
UNION ALL
SELECT format('ALTER MATERIALIZED VIEW %s ALTER COLUMN %I SET (%s)', replacement, attname,
              (SELECT string_agg(format('%I = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ') FROM unnest(options) AS o))
FROM kept_column WHERE options IS NOT NULL
UNION ALL
SELECT format('COMMENT ON COLUMN %s.%I IS %L', replacement, attname, d.description)
FROM kept_column JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = attrelid AND d.objsubid = attnum
UNION ALL
SELECT format('COMMENT ON MATERIALIZED VIEW %s IS %L', @new::oid::regclass, description)
FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = @old AND objsubid = 0
UNION ALL
SELECT format('ALTER TABLE %s REPLICA IDENTITY %s', @new::oid::regclass, CASE relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END)
FROM pg_class WHERE oid = @old AND relreplident IN ('f', 'n')
UNION ALL
SELECT format('SECURITY LABEL FOR %I ON MATERIALIZED VIEW %s IS %L', provider, @new::oid::regclass, label)
FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = @old AND objsubid = 0
UNION ALL
SELECT format('SECURITY LABEL FOR %I ON COLUMN %s.%I IS %L', provider, replacement, attname, label)
FROM kept_column JOIN pg_seclabel ON classoid = 'pg_class'::regclass AND objoid = attrelid AND objsubid = attnum
UNION ALL
SELECT format('ALTER MATERIALIZED VIEW %s DEPENDS ON EXTENSION %I', @new::oid::regclass, e.extname)
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
WHERE d.classid = 'pg_class'::regclass AND d.objid = @old AND d.deptype = 'x'
UNION ALL
SELECT format('ALTER INDEX %s DEPENDS ON EXTENSION %I', name, e.extname)
FROM index JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = indexrelid AND d.deptype = 'x'
JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
UNION ALL
SELECT format('COMMENT ON INDEX %s IS %L', name, d.description)
FROM index JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = indexrelid AND d.objsubid = 0
UNION ALL
SELECT format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', name, a.attnum, a.attstattarget)
FROM index JOIN pg_attribute AS a ON a.attrelid = indexrelid AND a.attstattarget >= 0
UNION ALL
SELECT format('ALTER MATERIALIZED VIEW %s CLUSTER ON %s', @new::oid::regclass, bare_name) FROM index WHERE indisclustered
UNION ALL
SELECT format('ALTER STATISTICS %s SET STATISTICS %s', name, stxstattarget) FROM statistics WHERE stxstattarget >= 0
UNION ALL
SELECT format('COMMENT ON STATISTICS %s IS %L', name, d.description)
FROM statistics AS s JOIN pg_description AS d ON d.classoid = 'pg_statistic_ext'::regclass AND d.objoid = s.oid
UNION ALL
SELECT format('ALTER STATISTICS %s OWNER TO %I', name, pg_get_userbyid(stxowner))
FROM statistics WHERE stxowner <> (SELECT relowner FROM pg_class WHERE oid = @old)`

// catalogStateSQL reads what a swap carries over, to find changes by other
// sessions: the structure, from which the replacement is built, and the properties,
// which are applied to it afterwards. Neither contains the name of the view nor
// depends on the settings of the session.
//
// A plain view that reads the view is identified by its xmin too: the lock on it is
// taken by setting the owner that it had, which another session may have changed.
const catalogStateSQL = `
SELECT c.relname::text,
       jsonb_build_array(
           c.relowner, c.relnamespace, c.relam, c.reltablespace, c.reloptions, toast.reloptions,
           (SELECT hashtextextended(ev_action::text, 0) FROM pg_rewrite WHERE ev_class = c.oid AND rulename = '_RETURN'),
           (SELECT jsonb_agg(jsonb_build_array(attname, attstorage, to_jsonb(a) -> 'attcompression') ORDER BY attnum)
            FROM pg_attribute AS a WHERE attrelid = c.oid AND attnum > 0),
           (SELECT jsonb_agg(jsonb_build_array(x.oid, x.relname, x.reloptions, x.reltablespace, i.indisvalid) ORDER BY x.oid)
            FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid))::text,
       jsonb_build_array(
           c.relacl::text, c.relreplident,
           (SELECT jsonb_agg(jsonb_build_array(attname, attacl::text, attstattarget, ` + columnOptionsSQL + `) ORDER BY attrelid, attnum)
            FROM pg_attribute AS a WHERE attrelid = ANY (part.oids)),
           (SELECT jsonb_agg(jsonb_build_array(objoid, objsubid, description) ORDER BY objoid, objsubid)
            FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = ANY (part.oids)),
           (SELECT jsonb_agg(jsonb_build_array(objsubid, provider, label) ORDER BY objsubid, provider)
            FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = c.oid),
           (SELECT jsonb_agg(jsonb_build_array(objid, refobjid) ORDER BY objid, refobjid)
            FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = ANY (part.oids) AND deptype = 'x'),
           (SELECT jsonb_agg(indexrelid) FROM pg_index WHERE indrelid = c.oid AND indisclustered),
           (SELECT jsonb_agg(jsonb_build_array(to_jsonb(s), d.description) ORDER BY s.oid)
            FROM pg_statistic_ext AS s
            LEFT JOIN pg_description AS d ON d.classoid = 'pg_statistic_ext'::regclass AND d.objoid = s.oid
            WHERE s.stxrelid = c.oid),
           (SELECT jsonb_agg(jsonb_build_array(v.oid, v.xmin::text, v.relname, v.relnamespace, v.relowner, v.reloptions, hashtextextended(r.ev_action::text, 0)) ORDER BY v.oid)
            FROM pg_rewrite AS r JOIN pg_class AS v ON v.oid = r.ev_class AND v.oid <> c.oid
            WHERE EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)))::text
FROM pg_class AS c
LEFT JOIN pg_class AS toast ON toast.oid = c.reltoastrelid,
LATERAL (SELECT ARRAY(SELECT indexrelid FROM pg_index WHERE indrelid = c.oid) || c.oid AS oids) AS part
WHERE c.oid = $1`

// catalogState is what catalogStateSQL reads.
type catalogState struct {
	Name, Structure, Properties string
}

// readState returns a [ChangedError] if the view is gone or not called name.
func (s Swap) readState(ctx context.Context, q postgres.Querier, name string) (catalogState, error) {
	rows, _ := q.Query(ctx, catalogStateSQL, s.View.OID) // CollectOneRow returns its error
	state, err := pgx.CollectOneRow(rows, pgx.RowToStructByPos[catalogState])
	if errors.Is(err, pgx.ErrNoRows) || err == nil && state.Name != name {
		return state, &ChangedError{View: s.View.Name}
	}
	if err != nil {
		return state, fmt.Errorf("read the properties of %s: %w", s.View.Name, err)
	}
	return state, nil
}

// properties is what a replacement was given, and what is left for the exchange.
type properties struct {
	state      string // Properties of the [catalogState] of the old view
	statistics []statistics
	dependents []dependentView
}

// statistics is an object of CREATE STATISTICS.
type statistics struct {
	Schema        string
	Name          string
	TemporaryName string // until the exchange
	Statement     string // creates the copy
}

// copyProperties gives the replacement all properties of the view that the exchange
// does not change any more, and analyzes it. It can be rolled back and repeated.
func (s Swap) copyProperties(ctx context.Context, tx pgx.Tx, r replacement) (p properties, err error) {
	state, err := s.readState(ctx, tx, s.View.Name.Relation)
	if err != nil {
		return p, err
	}
	if state.Structure != r.structure {
		return p, &ChangedError{View: s.View.Name}
	}
	p.state = state.Properties
	if p.statistics, p.dependents, err = s.readProperties(ctx, tx, r); err != nil {
		return p, err
	}
	grants, err := readGrants(ctx, tx, s.View.OID)
	if err == nil {
		err = setGrants(ctx, tx, &r.View, grants)
	}
	if err != nil {
		return p, fmt.Errorf("copy the privileges on %s: %w", s.View.Name, err)
	}
	if err := asOwner(ctx, tx, r.Owner, func() error { return createStatistics(ctx, tx, p.statistics) }); err != nil {
		return p, err
	}
	if err := s.applyProperties(ctx, tx, propertiesSQL, s.args(r)); err != nil {
		return p, err
	}
	if s.Comment != nil {
		if err := Comment(ctx, tx, r.Name, *s.Comment); err != nil {
			return p, err
		}
	}
	return p, asOwner(ctx, tx, r.Owner, func() error {
		if err := execute(ctx, tx, "ANALYZE "+r.Name.SQL()); err != nil {
			return fmt.Errorf("analyze the replacement of %s: %w", s.View.Name, err)
		}
		return nil
	})
}

// applyProperties runs the statements that a query returns, in one round trip.
func (s Swap) applyProperties(ctx context.Context, tx pgx.Tx, sql string, args pgx.NamedArgs) error {
	statements, err := collect(ctx, tx, pgx.RowTo[string], sql, args)
	if err != nil {
		return fmt.Errorf("read the properties of %s: %w", s.View.Name, err)
	}
	if i, err := executeAll(ctx, tx, statements); err != nil {
		return fmt.Errorf("apply the properties of %s (%s): %w", s.View.Name, statements[i], err)
	}
	return nil
}

// statisticsSQL returns [statistics]. The statement is the definition with other names;
// it is null, which fails, if the definition does not begin and end as expected.
const statisticsSQL = `
SELECT n.nspname AS schema, s.stxname AS name, t.name AS temporary_name,
       CASE WHEN starts_with(d.sql, d.prefix) AND right(d.sql, length(d.suffix)) = d.suffix
            THEN format('CREATE STATISTICS %I.%I', n.nspname, t.name)
                 || substr(d.sql, length(d.prefix) + 1, length(d.sql) - length(d.prefix || d.suffix)) || ' FROM ' || @replacement END AS statement
FROM pg_statistic_ext AS s
JOIN pg_namespace AS n ON n.oid = s.stxnamespace,
LATERAL (SELECT pg_get_statisticsobjdef(s.oid) AS sql, format('CREATE STATISTICS %I.%I', n.nspname, s.stxname) AS prefix, ' FROM ' || s.stxrelid::regclass AS suffix) AS d,
LATERAL (SELECT @temporary_name || '_' || s.oid::text AS name) AS t
WHERE s.stxrelid = @old ORDER BY s.oid`

// readProperties leaves no lock on the view behind.
func (s Swap) readProperties(ctx context.Context, tx pgx.Tx, r replacement) (stats []statistics, dependents []dependentView, err error) {
	err = deparse(ctx, tx, func(tx pgx.Tx) error {
		if stats, err = collect(ctx, tx, pgx.RowToStructByName[statistics], statisticsSQL, s.args(r)); err != nil {
			return err
		}
		dependents, err = dependentViews(ctx, tx, s.View.OID)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the properties of %s: %w", s.View.Name, err)
	}
	return stats, dependents, nil
}

func createStatistics(ctx context.Context, tx pgx.Tx, stats []statistics) error {
	for _, x := range stats {
		if err := execute(ctx, tx, x.Statement); err != nil {
			return fmt.Errorf("copy statistics %q (%s): %w", x.Name, x.Statement, err)
		}
	}
	return nil
}
