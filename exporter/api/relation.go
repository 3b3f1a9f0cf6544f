package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// route is a row route with what the catalog says about its view.
type route struct {
	config.Route
	readers  *semaphore.Weighted // of the view
	relation atomic.Pointer[relation]
	reading  singleflight.Group // of the relation
	live     atomic.Pointer[liveQuery]
	problem  atomic.Pointer[problem] // why it cannot be served as it is configured, when last looked; nil: it can
}

// relation is a view as a route reads it.
type relation struct {
	oid      uint32
	viewName string
	sql      string // the view's quoted name
	columns  []string
	keys     []key
	// OIDs of the row types and enums that the columns are made of.
	composites, enums []int64
	readAt            time.Time

	rowSQL, freshnessSQL string
}

// key is a column of the unique index that finds the row.
type key struct {
	column   string
	typ      string // a domain's base type: its CHECKs, somebody's functions, must not run here
	operator string // the index's own: = may mean something else, as for citext
}

// relationLifetime bounds how long a dropped index or a renamed column may go
// unnoticed where it makes no error.
const relationLifetime = 30 * time.Second

// addedFields are what a cached answer adds to the columns.
var addedFields = []string{"data_source", "cache_refreshed_at", "cache_refresh_duration_ms", "cache_data_as_of"}

// relationSQL gives the view that $1 names, and one row a key column of a unique
// index whose columns are $2, or a single row without a key. A cast to json
// that some user made would run as a function of theirs whenever row_to_json
// meets its type.
const relationSQL = `
WITH RECURSIVE view AS (
    SELECT n.view_oid, n.view_name, n.schema_name, n.relation_name
    FROM %[1]s AS n WHERE n.known_as = $1 ORDER BY n.preference LIMIT 1
), key AS (
    SELECT i.indexrelid, i.indrelid, i.indkey, i.indclass
    FROM pg_catalog.pg_index AS i JOIN view ON i.indrelid = view.view_oid
    WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
      AND i.indnkeyatts = cardinality($2::text[])
      AND NOT EXISTS (
          SELECT FROM unnest($2::text[]) AS wanted(column_name)
          WHERE NOT EXISTS (
              SELECT FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = i.indrelid AND a.attname = wanted.column_name
                AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])))
    ORDER BY i.indexrelid LIMIT 1
), part AS (
    SELECT a.attname, format_type(base.oid, -1) AS type, format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) AS operator
    FROM key
    CROSS JOIN LATERAL unnest(key.indkey::int2[], key.indclass::oid[]) AS k(attnum, opclass)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = key.indrelid AND a.attnum = k.attnum
    JOIN pg_catalog.pg_opclass AS oc ON oc.oid = k.opclass
    JOIN pg_catalog.pg_amop AS ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                                 AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
    JOIN pg_catalog.pg_operator AS o ON o.oid = ao.amopopr
    JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
    CROSS JOIN LATERAL (
        WITH RECURSIVE t AS (
            SELECT oid, typtype, typbasetype FROM pg_catalog.pg_type WHERE oid = a.atttypid
            UNION ALL
            SELECT b.oid, b.typtype, b.typbasetype FROM t JOIN pg_catalog.pg_type AS b ON b.oid = t.typbasetype WHERE t.typtype = 'd'
        )
        SELECT t.oid FROM t WHERE t.typtype <> 'd'
    ) AS base
), made_of AS (
    SELECT a.atttypid AS oid FROM view JOIN pg_catalog.pg_attribute AS a ON a.attrelid = view.view_oid WHERE a.attnum > 0
    UNION
    SELECT p.oid FROM made_of JOIN pg_catalog.pg_type AS t USING (oid) CROSS JOIN LATERAL (
        SELECT t.typelem UNION ALL SELECT t.typbasetype
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range AS r WHERE r.rngtypid = t.oid
    ) AS p(oid)
)
SELECT view.view_oid, view.view_name, view.schema_name, view.relation_name,
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = view.view_oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT format('%%s of %%s', ca.castfunc::regprocedure, r.rolname)
        FROM pg_catalog.pg_cast AS ca
        JOIN pg_catalog.pg_proc AS p ON p.oid = ca.castfunc
        JOIN pg_catalog.pg_roles AS r ON r.oid = p.proowner AND NOT r.rolsuper
        WHERE ca.casttarget = 'json'::regtype
          AND EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid = view.view_oid AND a.attnum > 0 AND a.atttypid >= 16384)
        LIMIT 1) AS foreign_cast,
       ARRAY(SELECT t.typrelid::int8 FROM made_of JOIN pg_catalog.pg_type AS t USING (oid) WHERE t.typrelid <> 0) AS composites,
       ARRAY(SELECT oid::int8 FROM made_of JOIN pg_catalog.pg_type AS t USING (oid) WHERE t.typtype = 'e') AS enums,
       part.attname::text, part.type, part.operator
FROM view LEFT JOIN part ON true`

// relationOf is what is known of the route's view. It asks the catalog if that is
// too old, or is the relation that a read has found outdated; requests that ask at
// the same time share the answer.
func (h *Handler) relationOf(ctx context.Context, r *route, outdated *relation) (*relation, error) {
	if known := r.relation.Load(); known != nil && known != outdated && time.Since(known.readAt) < relationLifetime {
		return known, nil
	}
	// Others wait for what one request starts, so it does not end with that one.
	return wait(ctx, r.reading.DoChan("", func() (any, error) {
		found, err := h.readRelation(context.WithoutCancel(ctx), r)
		r.relation.Store(found) // nil with an error
		return found, err
	}), (*relation)(nil))
}

// wait returns the result of a shared call, or the error of ctx when that ends first.
func wait[T any](ctx context.Context, call <-chan singleflight.Result, none T) (T, error) {
	select {
	case result := <-call:
		if result.Err != nil {
			return none, result.Err
		}
		return result.Val.(T), nil //nolint:forcetypeassert // what the call returns
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func (h *Handler) readRelation(ctx context.Context, r *route) (*relation, error) {
	found := &relation{readAt: time.Now()}
	var foreignCast *string
	sql := fmt.Sprintf(relationSQL, postgres.QuoteIdent(h.Schema, "materialized_view_names"))
	err := h.readRows(ctx, sql, []any{r.View, r.Columns()}, func(rows pgx.Rows) error {
		var schema, name string
		var column, typ, operator *string
		for rows.Next() {
			if err := rows.Scan(&found.oid, &found.viewName, &schema, &name, &found.columns, &foreignCast, &found.composites, &found.enums, &column, &typ, &operator); err != nil {
				return err
			}
			found.sql = postgres.QuoteIdent(schema, name)
			if column != nil {
				found.keys = append(found.keys, key{*column, *typ, *operator})
			}
		}
		return rows.Err()
	})
	switch {
	case err != nil:
		return nil, err
	case found.oid == 0:
		return nil, viewMissing(r.View)
	}
	if err := checkRoute(r.Route, found, foreignCast); err != nil {
		r.problem.Store(misconfigured(err))
		return nil, r.problem.Load()
	}
	r.problem.Store(nil)
	found.sortKeys(r.Columns())
	found.rowSQL, found.freshnessSQL = h.rowSQL(found), "SELECT "+found.freshnessColumns()+h.source("")
	return found, nil
}

// checkRoute gives the errors of the configuration that only the catalog knows.
func checkRoute(r config.Route, found *relation, foreignCast *string) error {
	has := make(map[string]bool, len(found.columns))
	for _, c := range found.columns {
		has[c] = true
	}
	var problems []error
	missing := false
	for _, c := range r.Columns() {
		if !has[c] {
			missing = true
			problems = append(problems, r.Errorf("path", "the view %s has no column %q", found.viewName, c))
		}
	}
	for _, field := range addedFields {
		if has[field] {
			problems = append(problems, r.Errorf("view", "the view %s has a column %q, which the answer adds itself: rename it in the view", found.viewName, field))
		}
	}
	if !missing && len(found.keys) != len(r.Columns()) {
		problems = append(problems, r.Errorf("path", "the view %s has no unique index on exactly %s (plain columns, without WHERE), so the row could be several and slow to find",
			found.viewName, "("+strings.Join(r.Columns(), ", ")+")"))
	}
	if foreignCast != nil {
		problems = append(problems, r.Errorf("view", "the view %s has columns of types of this database, and there is a cast to json by the function %s, no superuser: reading the view could run it as the exporter",
			found.viewName, *foreignCast))
	}
	return errors.Join(problems...)
}

// sortKeys puts the keys into the order of the path, whatever the index's.
func (rel *relation) sortKeys(columns []string) {
	sorted := make([]key, 0, len(columns))
	for _, c := range columns {
		for _, k := range rel.keys {
			if k.column == c {
				sorted = append(sorted, k)
			}
		}
	}
	rel.keys = sorted
}

// condition finds the row by its key in alias; its values are the parameters from
// first on.
func (rel *relation) condition(alias string, first int) string {
	parts := make([]string, len(rel.keys))
	for i, k := range rel.keys {
		parts[i] = fmt.Sprintf("%s.%s %s $%d::%s", alias, postgres.QuoteIdent(k.column), k.operator, first+i, k.typ)
	}
	return strings.Join(parts, " AND ")
}

// Check looks for what is wrong with the routes that only the database shows, and logs
// it: such a route answers 503 until it is mended, the others are served. It is an error
// if the database could not be asked about some. A view that does not exist may yet be
// created.
func (h *Handler) Check(ctx context.Context) (unreachable error) {
	for _, r := range h.routes {
		_, err := h.relationOf(ctx, r, r.relation.Load())
		var p *problem
		switch {
		case err == nil:
		case errors.As(err, &p) && p == r.problem.Load():
			for line := range strings.Lines(p.cause.Error()) {
				h.Logger.Warn("a route cannot be served as it is configured", "route", r.Path, "err", strings.TrimSpace(line))
			}
		case errors.As(err, &p) && p.Type == problemType+"view-missing":
			h.Logger.Warn("a route has no view yet", "route", r.Path, "view", r.View)
		default:
			unreachable = err
			if p != nil && p.cause != nil {
				unreachable = p.cause
			}
		}
	}
	return unreachable
}

// unserved tells, for the page, which routes cannot be served. It looks again at those
// that could not.
func (h *Handler) unserved(ctx context.Context) (warnings []string) {
	for _, r := range h.routes {
		if r.problem.Load() == nil {
			continue
		}
		_, _ = h.relationOf(ctx, r, nil) // what fails for another reason stays as it was
		if p := r.problem.Load(); p != nil {
			warnings = append(warnings, "The route "+r.Path+" cannot be served: "+p.causeInOneLine())
		}
	}
	return warnings
}
