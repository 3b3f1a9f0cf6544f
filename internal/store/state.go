package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// State is what the state has about a view's last refresh, compared with the
// catalog.
type State struct {
	DataAsOf          *time.Time
	LoggedRefreshedAt *time.Time
	ViewOID, ViewXmin *uint32
	ChangeCounters    json.RawMessage // nil: unknown
	Intact            bool            // the view's data is that of the refresh
	Logged            bool            // the view has a row in the log
}

// ChangeCountersSQL is, in [Store.SQL], the change_counters of the view @view.
const ChangeCountersSQL = "(SELECT change_counters FROM {state} WHERE view_name = @view)"

// QueueState reads the state of a view. [CollectState] reads the result.
func (s *Store) QueueState(batch *pgx.Batch, view, schema, relation string) {
	batch.Queue(s.SQL(`
SELECT st.data_as_of, st.logged_refreshed_at, st.view_oid, st.view_xmin, st.change_counters,
       coalesce(c.relispopulated AND st.view_oid = c.oid AND st.view_filenode = c.relfilenode AND st.view_xmin = c.xmin, false) AS intact,
       EXISTS (SELECT FROM {log_rows}(ARRAY[@view]::text[])) AS logged
FROM (SELECT) AS one
LEFT JOIN {state} AS st ON st.view_name = @view
LEFT JOIN (pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = @schema) ON c.relname = @relation AND c.relkind = 'm'`),
		pgx.NamedArgs{"view": view, "schema": schema, "relation": relation})
}

// CollectState reads the result of [Store.QueueState].
func CollectState(rows pgx.Rows, err error) (State, error) {
	if err != nil {
		return State{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[State])
}

// AsOf is the as-of of materialized views by their OIDs; nil where it is unknown.
type AsOf map[uint32]*time.Time

// UpstreamAsOf reads the as-of of the materialized views that the query of one
// reads, also through plain views.
func (s *Store) UpstreamAsOf(ctx context.Context, db DB, view uint32) (AsOf, error) {
	read := func() (AsOf, error) {
		return s.asOf(ctx, db, "SELECT u.oid, f.data_as_of FROM {upstreams}(@view) AS u(oid) LEFT JOIN {freshness} AS f ON f.view_oid = u.oid",
			pgx.NamedArgs{"view": view})
	}
	found, err := read()
	for _, asOf := range found {
		if asOf == nil { // perhaps only because a refresh was committed while it was read
			return read()
		}
	}
	return found, err
}

// AllAsOf reads the as-of of every materialized view in the database.
func (s *Store) AllAsOf(ctx context.Context, db DB) (AsOf, error) {
	return s.asOf(ctx, db, "SELECT view_oid, data_as_of FROM {freshness} WHERE view_oid IS NOT NULL")
}

func (s *Store) asOf(ctx context.Context, db DB, sql string, args ...any) (AsOf, error) {
	found := AsOf{}
	rows, err := db.Query(ctx, s.SQL(sql), args...)
	if err == nil {
		var oid uint32
		var asOf *time.Time
		_, err = pgx.ForEachRow(rows, []any{&oid, &asOf}, func() error {
			found[oid] = asOf
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read the as-of of the views that it reads: %w", err)
	}
	return found, nil
}
