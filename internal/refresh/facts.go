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
	"github.com/matview/terraform-provider-matview/internal/store"
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
	// RowsInserted and RowsDeleted are what the session has counted of the view so
	// far: also of earlier transactions, until it has flushed that.
	RowsInserted, RowsDeleted int64
	ReadAt                    time.Time // by the database's clock
	Recent                    recent    `db:"-"`
	// NotConcurrently is why a concurrent refresh is not chosen although there is a
	// unique index; "": it may be.
	NotConcurrently string `db:"-"`
}

func (f facts) name() matview.Name { return matview.Name{Schema: f.Schema, Relation: f.Relation} }

const factsSQL = `
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS relation, pg_get_userbyid(c.relowner)::text AS owner, c.relispopulated AS populated,
       EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_am AS am ON am.oid = x.relam
               WHERE i.indrelid = c.oid AND ` + matview.ConcurrentIndexSQL + `) AS unique_index,
       pg_has_role(c.relowner, 'USAGE')
           OR CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END AS may_refresh,
       EXISTS (SELECT FROM pg_rewrite AS r
               JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
               JOIN pg_class AS up ON up.oid = d.refobjid AND up.relkind IN ('v', 'm')
               WHERE r.ev_class = c.oid AND up.oid <> c.oid) AS reads_views,
       c.reltuples AS rows, coalesce(pg_stat_get_xact_tuples_inserted(c.oid), 0) AS rows_inserted,
       coalesce(pg_stat_get_xact_tuples_deleted(c.oid), 0) AS rows_deleted, clock_timestamp() AS read_at
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'm'`

// queueFacts reads catalogs only; the view itself is neither read nor locked.
func (a *attempt) queueFacts(batch *pgx.Batch) {
	batch.Queue(factsSQL, a.name.Schema, a.name.Relation)
}

func collectFacts(rows pgx.Rows, err error) (facts, error) {
	if err != nil {
		return facts{}, fmt.Errorf("look it up: %w", err)
	}
	f, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[facts])
	if errors.Is(err, pgx.ErrNoRows) {
		return facts{}, &statedError{errors.New("there is no such materialized view"), pgerrcode.UndefinedTable}
	}
	if err != nil {
		return facts{}, fmt.Errorf("look it up: %w", err)
	}
	return f, nil
}

// recent is what the last refreshes of a view were like; nil if there was none by
// that method among the last [recentRefreshes].
type recent struct {
	Blocking   *time.Duration // also the first population
	Swap       *time.Duration
	Concurrent *concurrent
	// SwapRefused is that one of the last [swapRefusalsRemembered] should have been a
	// swap and could not: a long reader, which prevents the exchange, makes us build
	// a replacement for nothing each time.
	SwapRefused bool
	// ConcurrentlyRefused is that one of the last [recentRefreshes] should have been a
	// concurrent refresh, and that failed or might have lost rows.
	ConcurrentlyRefused bool
}

const (
	recentRefreshes        = 20 // how far back a measurement counts
	swapRefusalsRemembered = 5  // for how many refreshes a refused swap is not tried again
)

func recentOf(past []store.PastRefresh) (r recent) {
	for i, p := range past {
		r.ConcurrentlyRefused = r.ConcurrentlyRefused || p.ConcurrentlyRefused
		r.SwapRefused = r.SwapRefused || i < swapRefusalsRemembered && p.SwapRefused
		if p.Method == nil || p.DurationMS == nil {
			continue
		}
		took := time.Duration(*p.DurationMS) * time.Millisecond
		switch *p.Method {
		case string(Blocking), "create", "recreate":
			if r.Blocking == nil {
				r.Blocking = &took
			}
		case string(Swap):
			if r.Swap == nil {
				r.Swap = &took
			}
		case string(Concurrently):
			if r.Concurrent == nil && p.RowsInserted != nil && p.RowsDeleted != nil {
				r.Concurrent = &concurrent{Duration: took, Inserted: *p.RowsInserted, Deleted: *p.RowsDeleted}
			}
		}
	}
	return r
}

func (a *attempt) missingRight(ctx context.Context, db store.DB, f facts) error {
	var user, inherit string
	var version int
	err := db.QueryRow(ctx, "SELECT current_user, current_setting('server_version_num')::int, "+postgres.InheritSQL("relowner")+" FROM pg_class WHERE oid = $1", f.OID).
		Scan(&user, &version, &inherit)
	if err != nil {
		return err
	}
	if version >= 170000 {
		inherit = fmt.Sprintf("GRANT MAINTAIN ON %s TO %s, or %s", f.name().SQL(), postgres.QuoteIdent(user), inherit)
	}
	return &statedError{fmt.Errorf("%s may not refresh it, since it belongs to %s: %s", user, f.Owner, inherit), pgerrcode.InsufficientPrivilege}
}

// oldest is the earliest of started and every upstream's as-of, read both before
// and after the refresh: one that is unknown in either, or that only appears
// afterwards, makes it unknown. Reading twice matters if an upstream was refreshed
// in between, possibly to older data.
func oldest(started time.Time, before, after store.AsOf) *time.Time {
	asOf := started
	for oid, a := range after {
		b := before[oid]
		if a == nil || b == nil {
			return nil
		}
		for _, t := range []time.Time{*a, *b} {
			if t.Before(asOf) {
				asOf = t
			}
		}
	}
	return &asOf
}
