package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// facts are what the catalog says about a view before it is refreshed.
type facts struct {
	OID         uint32
	Schema      string
	Relation    string
	Owner       string
	Populated   bool
	UniqueIndex bool // one that REFRESH CONCURRENTLY can use
	MayRefresh  bool
	ReadsViews  bool    // of any kind: only then can there be upstreams
	Rows        float64 // when it was last analyzed; -1 or 0: never
	Recent      recent
	// Inserted and Deleted are what the session has counted of the view so far:
	// of earlier transactions, too, until it has flushed that.
	Inserted, Deleted int64
	Clock             time.Time // the database's, when it read this
}

// recent is what the last refreshes of a view were like; nil where there was
// none by that method among the last [recentRefreshes].
type recent struct {
	Blocking   *time.Duration // also the first population
	Swap       *time.Duration
	Concurrent *concurrent
	// Refused is that one of the last [remembered] should have been a swap and could
	// not: a long reader, which keeps the two from being exchanged, lets a twin be
	// built for nothing each time.
	Refused bool
}

// recentRefreshes is how far back a measurement counts.
const recentRefreshes = 20

// remembered is for how many refreshes a refused swap is not tried again.
const remembered = 5

func (f facts) name() matview.Name { return matview.Name{Schema: f.Schema, Relation: f.Relation} }

const factsSQL = `
SELECT c.oid, n.nspname::text, c.relname::text, pg_get_userbyid(c.relowner)::text, c.relispopulated,
       EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_am AS am ON am.oid = x.relam
               WHERE i.indrelid = c.oid AND ` + matview.ConcurrentIndexSQL + `),
       pg_has_role(c.relowner, 'USAGE')
           OR CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END,
       EXISTS (SELECT FROM pg_rewrite AS r
               JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
               JOIN pg_class AS up ON up.oid = d.refobjid AND up.relkind IN ('v', 'm')
               WHERE r.ev_class = c.oid AND up.oid <> c.oid),
       c.reltuples, h.blocking, h.swap, h.concurrently[1][1], h.concurrently[1][2], h.concurrently[1][3], h.refused,
       coalesce(pg_stat_get_xact_tuples_inserted(c.oid), 0), coalesce(pg_stat_get_xact_tuples_deleted(c.oid), 0), clock_timestamp()
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace,
LATERAL (SELECT (array_agg(duration_ms ORDER BY started_at DESC) FILTER (WHERE method IN ('blocking', 'create', 'recreate')))[1] AS blocking,
                (array_agg(duration_ms ORDER BY started_at DESC) FILTER (WHERE method = 'swap'))[1] AS swap,
                (array_agg(ARRAY[duration_ms, rows_inserted, rows_deleted] ORDER BY started_at DESC)
                     FILTER (WHERE method = 'concurrently' AND rows_inserted IS NOT NULL))[1:1] AS concurrently,
                coalesce(bool_or(nth <= $5 AND reason LIKE '%%` + insteadOfSwap + `%%'), false) AS refused
         FROM (SELECT *, row_number() OVER (ORDER BY started_at DESC) AS nth FROM %s WHERE view_name = $3 AND outcome = 'succeeded' AND trigger <> 'external'
               ORDER BY started_at DESC LIMIT $4) AS past) AS h
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'm'`

// queueFacts reads catalogs only; the view itself is neither read nor locked.
func (a *attempt) queueFacts(batch *pgx.Batch) {
	batch.Queue(fmt.Sprintf(factsSQL, a.history()), a.name.Schema, a.name.Relation, a.view, recentRefreshes, remembered)
}

func scanFacts(row pgx.Row) (facts, error) {
	var f facts
	var blocking, swap, concurrently, inserted, deleted *int64
	err := row.Scan(&f.OID, &f.Schema, &f.Relation, &f.Owner, &f.Populated, &f.UniqueIndex,
		&f.MayRefresh, &f.ReadsViews, &f.Rows, &blocking, &swap, &concurrently, &inserted, &deleted, &f.Recent.Refused, &f.Inserted, &f.Deleted, &f.Clock)
	if errors.Is(err, pgx.ErrNoRows) {
		return facts{}, &statedError{errors.New("there is no such materialized view"), pgerrcode.UndefinedTable}
	}
	if err != nil {
		return facts{}, fmt.Errorf("look it up: %w", err)
	}
	f.Recent.Blocking, f.Recent.Swap = duration(blocking), duration(swap)
	if took := duration(concurrently); took != nil && inserted != nil && deleted != nil {
		f.Recent.Concurrent = &concurrent{Duration: *took, Inserted: *inserted, Deleted: *deleted}
	}
	return f, nil
}

func duration(ms *int64) *time.Duration {
	if ms == nil {
		return nil
	}
	d := time.Duration(*ms) * time.Millisecond
	return &d
}

// session is a connection or a transaction on one.
type session interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (a *attempt) missingRight(ctx context.Context, tx session, f facts) error {
	var user string
	var version int
	err := tx.QueryRow(ctx, "SELECT current_user, current_setting('server_version_num')::int").Scan(&user, &version)
	if err != nil {
		return err
	}
	remedy := fmt.Sprintf("GRANT %s TO %s", postgres.QuoteIdent(f.Owner), postgres.QuoteIdent(user))
	if version >= 170000 {
		remedy = fmt.Sprintf("GRANT MAINTAIN ON %s TO %s, or %s", f.name().SQL(), postgres.QuoteIdent(user), remedy)
	}
	return &statedError{fmt.Errorf("%s may not refresh it, since it belongs to %s: %s", user, f.Owner, remedy), pgerrcode.InsufficientPrivilege}
}

// upstream is a materialized view that the one to refresh reads.
type upstream struct{ asOf *time.Time }

// upstreams reads the as-of of each, also through plain views.
func upstreams(ctx context.Context, tx session, schema string, oid uint32) (map[uint32]upstream, error) {
	rows, err := tx.Query(ctx, fmt.Sprintf(`
SELECT u.oid, f.data_as_of
FROM %s($1) AS u(oid) LEFT JOIN %s AS f ON f.view_oid = u.oid`,
		postgres.QuoteIdent(schema, "materialized_view_upstreams"),
		postgres.QuoteIdent(schema, "materialized_view_freshness")), oid)
	if err != nil {
		return nil, fmt.Errorf("read the as-of of the views that it reads: %w", err)
	}
	found := map[uint32]upstream{}
	var id uint32
	var asOf *time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &asOf}, func() error {
		found[id] = upstream{asOf: asOf}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the as-of of the views that it reads: %w", err)
	}
	return found, nil
}

// oldest is the earliest of started and every upstream's as-of, read both before
// and after the refresh: one that is unknown in either, or that only appears
// afterwards, makes it unknown. Reading twice matters where an upstream was
// refreshed in between, possibly to older data.
func oldest(started time.Time, before, after map[uint32]upstream) *time.Time {
	asOf := started
	for id, a := range after {
		b, known := before[id]
		if !known || a.asOf == nil || b.asOf == nil {
			return nil
		}
		for _, t := range []time.Time{*a.asOf, *b.asOf} {
			if t.Before(asOf) {
				asOf = t
			}
		}
	}
	return &asOf
}
