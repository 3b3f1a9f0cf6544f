package refresh

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/store"
)

// Reads says which materialized views the query of each one reads, itself or
// through plain views, by canonical names. The catalog knows no cycles.
type Reads map[string][]string

// Set-based, and without materialized_view_names and materialized_view_upstreams,
// which take a hundred times as long for ten thousand views.
const readsSQL = `
WITH RECURSIVE edge AS MATERIALIZED (
    SELECT DISTINCT r.ev_class AS reader, c.oid AS relid, c.relkind
    FROM pg_rewrite AS r
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
), reads(view, relid, relkind) AS (
    SELECT e.reader, e.relid, e.relkind FROM edge AS e JOIN pg_class AS v ON v.oid = e.reader AND v.relkind = 'm'
    UNION
    SELECT reads.view, e.relid, e.relkind FROM reads JOIN edge AS e ON e.reader = reads.relid WHERE reads.relkind = 'v'
), names AS MATERIALIZED (
    SELECT c.oid, {name}(n.nspname, c.relname) AS view_name
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'm'
)
SELECT v.view_name, u.view_name
FROM reads JOIN names AS v ON v.oid = reads.view JOIN names AS u ON u.oid = reads.relid
WHERE reads.relkind = 'm'
ORDER BY 1, 2`

// ReadReads reads the dependencies between all materialized views of the
// database, with our tables in schema. It reads catalogs only, and waits for no
// refresh.
func ReadReads(ctx context.Context, db store.DB, schema string) (Reads, error) {
	rows, err := db.Query(ctx, store.New(schema).SQL(readsSQL))
	if err != nil {
		return nil, fmt.Errorf("read the dependencies between views: %w", err)
	}
	reads := Reads{}
	var view, upstream string
	_, err = pgx.ForEachRow(rows, []any{&view, &upstream}, func() error {
		reads[view] = append(reads[view], upstream)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the dependencies between views: %w", err)
	}
	return reads, nil
}

// Sort puts each view after those of them that it reads, also through views that
// are not among them. Independent ones stay in the order given.
func (r Reads) Sort(views []string) []string {
	wanted := set(views)
	sorted := make([]string, 0, len(views))
	seen := map[string]bool{}
	var visit func(string)
	visit = func(view string) {
		if seen[view] {
			return
		}
		seen[view] = true
		for _, upstream := range r[view] {
			visit(upstream)
		}
		if wanted[view] {
			sorted = append(sorted, view)
		}
	}
	for _, view := range views {
		visit(view)
	}
	return sorted
}

// Upstreams are all that a view reads, also through other materialized views,
// each after those that it reads itself.
func (r Reads) Upstreams(view string) []string {
	var found []string
	seen := map[string]bool{view: true}
	var visit func(string)
	visit = func(view string) {
		for _, upstream := range r[view] {
			if !seen[upstream] {
				seen[upstream] = true
				visit(upstream)
				found = append(found, upstream)
			}
		}
	}
	visit(view)
	return found
}

func set(views []string) map[string]bool {
	s := make(map[string]bool, len(views))
	for _, view := range views {
		s[view] = true
	}
	return s
}
