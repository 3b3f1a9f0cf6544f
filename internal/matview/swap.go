package matview

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Swap builds a replacement beside a view and exchanges the two. Readers wait only
// for the exchange, some milliseconds. The replacement has the rows of a new run of
// the query and all properties of the old view, except for those set here.
type Swap struct {
	View *View

	// Definition is SQL of a user. If it is "", the query stays and only the rows
	// are new.
	Definition  string
	ColumnNames []string // of Definition, as in [Spec]
	NoData      bool     // leaves the replacement unpopulated

	Storage Storage // overrides that of View

	Drop  []string         // the indexes of View that the replacement does not get
	Build map[string]Index // the indexes that it gets besides the others of View

	Comment *string // nil keeps the comment of View

	// Timeout is how long to keep trying the exchange while other sessions hold
	// locks on the view. They are not held up meanwhile.
	Timeout time.Duration

	// Started is called right before the statement that reads the rows: the place
	// to read the clock for an as-of.
	Started func(ctx context.Context) error

	// Filled is called when the replacement has its rows and nobody waits for
	// anything yet: the place to read what depends on the rows.
	Filled func(ctx context.Context, replacement Name, oid uint32) error

	// Exchanging is called in each attempt at the exchange before it locks the view,
	// under the same short lock_timeout: the place to lock what is written after the
	// exchange, since readers wait for that too. A failed attempt releases the locks.
	Exchanging func(ctx context.Context) error

	// Pool provides another connection for a moment before the exchange, to shorten
	// it; see [flushWAL]. It may be nil.
	Pool *pgxpool.Pool

	// LockWait, if not nil, grows by the time spent waiting for the locks of others.
	LockWait *time.Duration
}

// replacement is the view that a [Swap] builds.
type replacement struct {
	View

	indexes   map[string]string // name to temporary name
	structure string            // of the old view when it was read; see [catalogState]
}

// Run swaps in tx, which is READ COMMITTED and holds the view's [Lock]. It returns
// an [ObstaclesError] if something cannot be carried over, an [ExchangeError] if
// the view stays locked, and a [ChangedError] if another session alters the view
// meanwhile. Once it succeeds, tx holds ACCESS EXCLUSIVE on the view and on the
// plain views that read it, so it should end soon after.
//
// The replacement is created and filled as the owner of the view, by a REFRESH of its
// own: its query runs under the search_path that a REFRESH of the view would run it
// under.
func (s Swap) Run(ctx context.Context, tx pgx.Tx) error {
	return restoringPath(ctx, tx, func(path string) error { return s.run(ctx, tx, path) })
}

func (s Swap) run(ctx context.Context, tx pgx.Tx, path string) error {
	definition, columns, err := s.query(ctx, tx)
	if err != nil {
		return err
	}
	obstacles, err := Obstacles(ctx, tx, s.View, columns, s.View.Storage.With(s.Storage), s.Drop)
	if err != nil {
		return err
	}
	if len(obstacles) > 0 {
		return &ObstaclesError{View: s.View.Name, Obstacles: obstacles}
	}
	if s.Started != nil {
		if err := s.Started(ctx); err != nil {
			return err
		}
	}
	r, err := s.build(ctx, tx, definition, path)
	if err != nil {
		return err
	}
	if s.Filled != nil {
		if err := s.Filled(ctx, r.Name, r.OID); err != nil {
			return err
		}
	}
	return s.finish(ctx, tx, r)
}

// query returns the query of the replacement in normal form. columns is nil if they
// stay.
func (s Swap) query(ctx context.Context, tx pgx.Tx) (definition string, columns []Column, err error) {
	if s.Definition == "" {
		definition, err = Definition(ctx, tx, s.View.OID)
		return definition, nil, err
	}
	n, err := NormalizeFor(ctx, tx, s.View, s.Definition, s.ColumnNames...)
	return n.Definition, n.Columns, err
}

// build creates, fills and indexes the replacement. Nobody waits for any of it.
func (s Swap) build(ctx context.Context, tx pgx.Tx, definition, path string) (r replacement, err error) {
	r.Name = Name{Schema: s.View.Name.Schema, Relation: temporaryName()}
	r.Owner, r.indexes = s.View.Owner, map[string]string{}
	state, err := s.readState(ctx, tx, s.View.Name.Relation)
	if err != nil {
		return r, err
	}
	r.structure = state.Structure
	indexes, err := s.copiedIndexes(ctx, tx, r)
	if err != nil {
		return r, err
	}
	err = asOwner(ctx, tx, r.Owner, func() error {
		err := restoringPath(ctx, tx, func(string) error {
			if err := s.populate(ctx, tx, &r, definition, path); err != nil {
				return err
			}
			return r.copyIndexes(ctx, tx, indexes)
		})
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(s.Build)) {
			r.indexes[name] = temporaryName()
			if err := s.Build[name].create(ctx, tx, s.View.Name, name, r.Name, r.indexes[name]); err != nil {
				return err
			}
		}
		return nil
	})
	return r, err
}

func (s Swap) populate(ctx context.Context, tx pgx.Tx, r *replacement, definition, path string) error {
	failed := func(err error) error { return fmt.Errorf("build the replacement of %s: %w", s.View.Name, err) }
	if err := setDeparsedPath(ctx, tx); err != nil {
		return err
	}
	if err := setDefaultTablespace(ctx, tx, ""); err != nil {
		return err
	}
	// WITH NO DATA, since the storage of the columns must be set before it is filled.
	create := "CREATE MATERIALIZED VIEW " + r.Name.SQL() + s.View.Storage.With(s.Storage).createSQL()
	if err := execute(ctx, tx, create+" AS "+definition+"\nWITH NO DATA"); err != nil {
		return failed(err)
	}
	if err := tx.QueryRow(ctx, "SELECT $1::regclass::oid", r.Name.SQL()).Scan(&r.OID); err != nil {
		return failed(err)
	}
	if err := s.applyProperties(ctx, tx, columnStorageSQL, s.args(*r)); err != nil {
		return err
	}
	if s.NoData {
		return nil
	}
	if _, err := tx.Exec(ctx, setPathSQL, path); err != nil {
		return err
	}
	if err := execute(ctx, tx, "REFRESH MATERIALIZED VIEW "+r.Name.SQL()); err != nil {
		return &FillError{View: s.View.Name, Err: err}
	}
	return setDeparsedPath(ctx, tx)
}

// FillError says that the query of a replacement failed, as that of a REFRESH would.
type FillError struct {
	View Name
	Err  error
}

func (e *FillError) Error() string {
	return fmt.Sprintf("fill the replacement of %s: %v", e.View, e.Err)
}

func (e *FillError) Unwrap() error { return e.Err }

// setDefaultTablespace sets where relations go that name no tablespace; "" is the
// default of the database. The setting is a name, not SQL, so it is not quoted.
func setDefaultTablespace(ctx context.Context, tx pgx.Tx, tablespace string) error {
	if _, err := tx.Exec(ctx, "SELECT set_config('default_tablespace', $1, true)", tablespace); err != nil {
		return fmt.Errorf("set default_tablespace to %q: %w", tablespace, err)
	}
	return nil
}

// copiedIndex is an index of the old view that the replacement gets too.
type copiedIndex struct {
	Name          string
	TemporaryName string
	Tablespace    string // "" for the default of the database
	Statement     string // creates the copy
}

// copiedIndexesSQL leaves out the invalid indexes that a failed CREATE INDEX
// CONCURRENTLY leaves behind. The statement is the definition with other names; it is
// null, which fails, if the definition does not begin as expected.
const copiedIndexesSQL = `
SELECT x.relname AS name, t.name AS temporary_name, coalesce(ts.spcname, '') AS tablespace,
       CASE WHEN starts_with(d.sql, d.prefix)
            THEN format('%s %I ON %s USING ', k.create, t.name, @replacement::text) || substr(d.sql, length(d.prefix) + 1) END AS statement
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
LEFT JOIN pg_tablespace AS ts ON ts.oid = x.reltablespace,
LATERAL (SELECT CASE WHEN i.indisunique THEN 'CREATE UNIQUE INDEX' ELSE 'CREATE INDEX' END AS create) AS k,
LATERAL (SELECT pg_get_indexdef(x.oid) AS sql, format('%s %I ON %s USING ', k.create, x.relname, i.indrelid::regclass) AS prefix) AS d,
LATERAL (SELECT @temporary_name || '_' || x.oid::text AS name) AS t
WHERE i.indrelid = @old AND i.indisvalid AND x.relname <> ALL (@drop::text[])
ORDER BY x.oid`

func (s Swap) copiedIndexes(ctx context.Context, tx pgx.Tx, r replacement) (indexes []copiedIndex, err error) {
	err = deparse(ctx, tx, func(tx pgx.Tx) error {
		indexes, err = collect(ctx, tx, pgx.RowToStructByName[copiedIndex], copiedIndexesSQL, s.args(r))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the indexes of %s: %w", s.View.Name, err)
	}
	return indexes, nil
}

func (r *replacement) copyIndexes(ctx context.Context, tx pgx.Tx, indexes []copiedIndex) error {
	for _, x := range indexes {
		if err := setDefaultTablespace(ctx, tx, x.Tablespace); err != nil {
			return err
		}
		if err := execute(ctx, tx, x.Statement); err != nil {
			return fmt.Errorf("copy index %q (%s): %w", x.Name, x.Statement, err)
		}
		r.indexes[x.Name] = x.TemporaryName
	}
	return setDefaultTablespace(ctx, tx, "")
}

// args are the arguments of the statements that copy something from the old view. The
// temporary name of a copied index or statistics object consists of that of the
// replacement and the OID of the original.
func (s Swap) args(r replacement) pgx.NamedArgs {
	return pgx.NamedArgs{
		"old": s.View.OID, "new": r.OID, "replacement": r.Name.SQL(),
		"temporary_name": r.Name.Relation, "drop": append([]string{}, s.Drop...),
	}
}
