package matview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What belongs to a view is read as the statements that give the same to its
// twin. None of these queries locks the view.

// storageSQL is for what must be set before the twin is filled.
const storageSQL = `
SELECT format('ALTER MATERIALIZED VIEW %s ALTER COLUMN %I SET %s', $2::oid::regclass, a.attname, s.setting)
FROM pg_attribute AS a
JOIN pg_attribute AS b ON b.attrelid = $2 AND b.attname = a.attname AND b.atttypid = a.atttypid,
LATERAL (SELECT 'STORAGE ' || CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END
         WHERE a.attstorage <> b.attstorage
         UNION ALL -- attcompression came with PostgreSQL 14
         SELECT 'COMPRESSION ' || CASE to_jsonb(a) ->> 'attcompression' WHEN 'p' THEN 'pglz' ELSE 'lz4' END
         WHERE to_jsonb(a) ->> 'attcompression' IN ('p', 'l')) AS s (setting)
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped`

// carrySQL takes the view, its twin, the names of the indexes that both have,
// the names that the twin's have for now, and the same for statistics objects.
const carrySQL = `
WITH kept AS (
    SELECT a.*, ` + columnOptionsSQL + ` AS options, $2::oid::regclass AS twin
    FROM pg_attribute AS a
    JOIN pg_attribute AS b ON b.attrelid = $2 AND b.attname = a.attname
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
), index AS (
    SELECT i.*, format('%I.%I', n.nspname, aside.name) AS aside, quote_ident(aside.name) AS aside_name
    FROM pg_index AS i
    JOIN pg_class AS x ON x.oid = i.indexrelid
    JOIN pg_namespace AS n ON n.oid = x.relnamespace
    JOIN unnest($3::text[], $4::text[]) AS aside (of, name) ON aside.of = x.relname
    WHERE i.indrelid = $1
), statistics AS (
    SELECT s.*, format('%I.%I', n.nspname, aside.name) AS aside
    FROM pg_statistic_ext AS s
    JOIN pg_namespace AS n ON n.oid = s.stxnamespace
    JOIN unnest($5::oid[], $6::text[]) AS aside (of, name) ON aside.of = s.oid
)
SELECT format('ALTER MATERIALIZED VIEW %s ALTER COLUMN %I SET STATISTICS %s', twin, attname, attstattarget)
FROM kept WHERE attstattarget >= 0
UNION ALL
SELECT format('ALTER MATERIALIZED VIEW %s ALTER COLUMN %I SET (%s)', twin, attname,
              (SELECT string_agg(format('%I = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ') FROM unnest(options) AS o))
FROM kept WHERE options IS NOT NULL
UNION ALL
SELECT format('COMMENT ON COLUMN %s.%I IS %L', twin, attname, d.description)
FROM kept JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = attrelid AND d.objsubid = attnum
UNION ALL
SELECT format('COMMENT ON MATERIALIZED VIEW %s IS %L', $2::oid::regclass, description)
FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = $1 AND objsubid = 0
UNION ALL
SELECT format('ALTER TABLE %s REPLICA IDENTITY %s', $2::oid::regclass, CASE relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END)
FROM pg_class WHERE oid = $1 AND relreplident IN ('f', 'n')
UNION ALL
SELECT format('SECURITY LABEL FOR %I ON MATERIALIZED VIEW %s IS %L', provider, $2::oid::regclass, label)
FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = $1 AND objsubid = 0
UNION ALL
SELECT format('SECURITY LABEL FOR %I ON COLUMN %s.%I IS %L', provider, twin, attname, label)
FROM kept JOIN pg_seclabel ON classoid = 'pg_class'::regclass AND objoid = attrelid AND objsubid = attnum
UNION ALL
SELECT format('ALTER MATERIALIZED VIEW %s DEPENDS ON EXTENSION %I', $2::oid::regclass, e.extname)
FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.deptype = 'x'
UNION ALL
SELECT format('ALTER INDEX %s DEPENDS ON EXTENSION %I', aside, e.extname)
FROM index JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = indexrelid AND d.deptype = 'x'
JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
UNION ALL
SELECT format('COMMENT ON INDEX %s IS %L', aside, d.description)
FROM index JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = indexrelid AND d.objsubid = 0
UNION ALL
SELECT format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', aside, a.attnum, a.attstattarget)
FROM index JOIN pg_attribute AS a ON a.attrelid = indexrelid AND a.attstattarget >= 0
UNION ALL
SELECT format('ALTER MATERIALIZED VIEW %s CLUSTER ON %s', $2::oid::regclass, aside_name) FROM index WHERE indisclustered
UNION ALL
SELECT format('ALTER STATISTICS %s SET STATISTICS %s', aside, stxstattarget) FROM statistics WHERE stxstattarget >= 0
UNION ALL
SELECT format('COMMENT ON STATISTICS %s IS %L', aside, d.description)
FROM statistics AS s JOIN pg_description AS d ON d.classoid = 'pg_statistic_ext'::regclass AND d.objoid = s.oid
UNION ALL
SELECT format('ALTER STATISTICS %s OWNER TO %I', aside, pg_get_userbyid(stxowner))
FROM statistics WHERE stxowner <> (SELECT relowner FROM pg_class WHERE oid = $1)`

// fingerprintsSQL tells whether what belongs to a view has changed: its frame,
// which the twin is built by, and its dress, which the twin is given after. The
// view's name is in neither. None of it depends on the settings of the session.
//
// A view over it is known by its xmin too: the lock on it is taken by giving it to
// the owner that it had, whom another session may have changed.
const fingerprintsSQL = `
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

// fingerprints reads them of the view that is to be replaced, which is a
// [ChangedError] if it has another name than it should or is gone.
func (s Swap) fingerprints(ctx context.Context, q Querier, name string) (frame, dress string, err error) {
	var found string
	err = q.QueryRow(ctx, fingerprintsSQL, s.View.OID).Scan(&found, &frame, &dress)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && found != name {
		return "", "", &ChangedError{View: s.View.Name}
	}
	if err != nil {
		return "", "", fmt.Errorf("read what belongs to %s: %w", s.View.Name, err)
	}
	return frame, dress, nil
}

// dressed is what a twin was given, and what it is for the exchange to do.
type dressed struct {
	fingerprint string // of the old view
	statistics  []statistics
	dependents  []dependentView
}

// statistics is an object of CREATE STATISTICS.
type statistics struct {
	OID        uint32
	Schema     string
	Name       string
	Prefix     string // of Definition
	Suffix     string
	Definition string
	aside      string // its name until the exchange
}

// dress gives the twin all that the exchange does not change any more, and
// analyzes it. It can be rolled back and done again.
func (s Swap) dress(ctx context.Context, tx pgx.Tx, t twin) (d dressed, err error) {
	frame, dress, err := s.fingerprints(ctx, tx, s.View.Name.Relation)
	if err != nil {
		return d, err
	}
	if frame != t.frame {
		return d, &ChangedError{View: s.View.Name}
	}
	d.fingerprint = dress
	if d.statistics, d.dependents, err = s.readDress(ctx, tx); err != nil {
		return d, err
	}
	if err := t.grant(ctx, tx, s.View); err != nil {
		return d, err
	}
	err = asOwner(ctx, tx, t.Owner, func() error {
		return withPath(ctx, tx, "pg_catalog, pg_temp", func() error { return t.createStatistics(ctx, tx, d.statistics) })
	})
	if err != nil {
		return d, err
	}
	names, asides := make([]string, 0, len(t.indexes)), make([]string, 0, len(t.indexes))
	for name, aside := range t.indexes {
		if _, built := s.Build[name]; !built {
			names, asides = append(names, name), append(asides, aside)
		}
	}
	oids, statisticsAsides := make([]uint32, len(d.statistics)), make([]string, len(d.statistics))
	for i, x := range d.statistics {
		oids[i], statisticsAsides[i] = x.OID, x.aside
	}
	err = withPath(ctx, tx, "", func() error {
		return s.run(ctx, tx, carrySQL, s.View.OID, t.OID, names, asides, oids, statisticsAsides)
	})
	if err != nil {
		return d, err
	}
	if s.Comment != nil {
		if err := Comment(ctx, tx, t.Name, *s.Comment); err != nil {
			return d, err
		}
	}
	return d, asOwner(ctx, tx, t.Owner, func() error {
		if err := execute(ctx, tx, "ANALYZE "+t.Name.SQL()); err != nil {
			return fmt.Errorf("analyze the successor of %s: %w", s.View.Name, err)
		}
		return nil
	})
}

// readDress leaves no lock on the view behind.
func (s Swap) readDress(ctx context.Context, tx pgx.Tx) (stats []statistics, dependents []dependentView, err error) {
	const sql = `
SELECT s.oid, n.nspname::text, s.stxname::text, format('CREATE STATISTICS %I.%I', n.nspname, s.stxname), ' FROM ' || s.stxrelid::regclass, pg_get_statisticsobjdef(s.oid)
FROM pg_statistic_ext AS s JOIN pg_namespace AS n ON n.oid = s.stxnamespace
WHERE s.stxrelid = $1 ORDER BY s.oid`
	err = deparse(ctx, tx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, pinSQL); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, s.View.OID)
		if err != nil {
			return err
		}
		stats, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (x statistics, err error) {
			x.aside = randomName()
			return x, row.Scan(&x.OID, &x.Schema, &x.Name, &x.Prefix, &x.Suffix, &x.Definition)
		})
		if err != nil {
			return err
		}
		dependents, err = dependentViews(ctx, tx, s.View.OID)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read what belongs to %s: %w", s.View.Name, err)
	}
	return stats, dependents, nil
}

func (t twin) createStatistics(ctx context.Context, tx pgx.Tx, stats []statistics) error {
	for _, x := range stats {
		rest, ok := strings.CutPrefix(x.Definition, x.Prefix)
		rest, ok2 := strings.CutSuffix(rest, x.Suffix)
		if !ok || !ok2 {
			return fmt.Errorf("copy statistics %q: cannot read their definition %q", x.Name, x.Definition)
		}
		if err := execute(ctx, tx, "CREATE STATISTICS "+Name{x.Schema, x.aside}.SQL()+rest+" FROM "+t.Name.SQL()); err != nil {
			return fmt.Errorf("create statistics %q again (%s): %w", x.Name, x.Definition, err)
		}
	}
	return nil
}

// grant makes the privileges on the twin those on the old view, but for those on
// columns that it does not have.
func (t twin) grant(ctx context.Context, tx pgx.Tx, old *View) error {
	want, err := readGrants(ctx, tx, old.OID)
	if err != nil {
		return fmt.Errorf("read the privileges on %s: %w", old.Name, err)
	}
	rows, err := tx.Query(ctx, "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0", t.OID)
	if err != nil {
		return fmt.Errorf("read the columns of %s: %w", t.Name, err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read the columns of %s: %w", t.Name, err)
	}
	want = slices.DeleteFunc(want, func(g grant) bool { return g.Column != "" && !slices.Contains(columns, g.Column) })
	if err := setGrants(ctx, tx, &t.View, want); err != nil {
		return fmt.Errorf("grant the privileges on %s again: %w", old.Name, err)
	}
	return nil
}
