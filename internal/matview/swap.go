package matview

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Swap replaces a view by a twin that is built beside it, without readers
// missing it: they wait only for the exchange, some milliseconds. The new view
// has the data of a new run of the query, and all else that the old one had, but
// for what is set here.
type Swap struct {
	View *View

	// Definition is SQL of a user; "" keeps the present one, so that only the
	// data is new.
	Definition  string
	ColumnNames []string // of Definition, as in [Spec]
	NoData      bool     // leaves the new view unpopulated

	Storage Storage // what is asked for here; the rest stays

	Drop  []string         // the indexes of View that the new one does not get
	Build map[string]Index // the indexes that it gets beside the others of View

	Comment *string // nil keeps the present one

	// Patience is how long to go on trying to exchange the two while others hold
	// locks on the view; what they do goes on meanwhile.
	Patience time.Duration

	// Started is called right before the statement that reads the data: the
	// place to read the clock for an as-of.
	Started func(ctx context.Context) error

	// Filled is called when the twin has its data and nobody waits for anything
	// yet: the place to read what depends on the data.
	Filled func(ctx context.Context, twin Name, oid uint32) error

	// Exchanging is called in each attempt at the exchange, before it locks the view:
	// the place to lock what is written after it, under the same short lock_timeout,
	// since readers wait until that is written. An attempt that fails gives it back.
	Exchanging func(ctx context.Context) error

	// Beside is where to take another connection from for a moment before the
	// exchange, to shorten it; see [flushWAL]. nil does without.
	Beside *pgxpool.Pool

	// Waited, if not nil, grows by the time spent waiting for others' locks.
	Waited *time.Duration
}

// twin is the view that is being built.
type twin struct {
	View
	indexes map[string]string // name to the name that it has until the exchange
	frame   string            // of the old view; see fingerprintsSQL
}

// Run swaps in tx, which is READ COMMITTED and holds the view's [Lock]. What
// cannot be carried over is an [ObstaclesError]; a view that stays locked is an
// [ExchangeError]. tx holds the locks of the exchange from then on, so it should
// end soon after.
//
// The twin is made and filled as the view's owner. Its query runs under the
// search_path of REFRESH in PostgreSQL 17 and later, on every version: see
// RestrictSearchPath in guc.c.
func (s Swap) Run(ctx context.Context, tx pgx.Tx) error {
	definition, err := s.query(ctx, tx)
	if err != nil {
		return err
	}
	var columns []Column
	if s.Definition != "" {
		columns = definition.Columns
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
	t, err := s.build(ctx, tx, definition.Definition)
	if err != nil {
		return err
	}
	if s.Filled != nil {
		if err := s.Filled(ctx, t.Name, t.OID); err != nil {
			return err
		}
	}
	return s.finish(ctx, tx, t)
}

// query is the twin's, in normal form.
func (s Swap) query(ctx context.Context, tx pgx.Tx) (n Normal, err error) {
	if s.Definition == "" {
		n.Definition, err = Definition(ctx, tx, s.View.OID)
		n.Columns = s.View.Columns
		return n, err
	}
	return NormalizeFor(ctx, tx, s.View, s.Definition, s.ColumnNames...)
}

// build makes the twin, fills and indexes it. Nobody waits for any of it.
func (s Swap) build(ctx context.Context, tx pgx.Tx, definition string) (t twin, err error) {
	t.Name = Name{Schema: s.View.Name.Schema, Relation: randomName()}
	t.Owner, t.indexes = s.View.Owner, map[string]string{}
	if t.frame, _, err = s.fingerprints(ctx, tx, s.View.Name.Relation); err != nil {
		return t, err
	}
	kept, err := s.keptIndexes(ctx, tx)
	if err != nil {
		return t, err
	}
	err = asOwner(ctx, tx, t.Owner, func() error {
		err := withPath(ctx, tx, "pg_catalog, pg_temp", func() error {
			if err := s.populate(ctx, tx, &t, definition); err != nil {
				return err
			}
			return t.copyIndexes(ctx, tx, kept)
		})
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(s.Build)) {
			t.indexes[name] = randomName()
			if err := createIndex(ctx, tx, t.Name, name, t.indexes[name], s.Build[name]); err != nil {
				var indexErr *IndexError
				if errors.As(err, &indexErr) {
					indexErr.View = s.View.Name
				}
				return err
			}
		}
		return nil
	})
	return t, err
}

func (s Swap) populate(ctx context.Context, tx pgx.Tx, t *twin, definition string) error {
	create := "CREATE MATERIALIZED VIEW " + t.Name.SQL() + s.View.Storage.With(s.Storage).createSQL()
	if err := pinTablespace(ctx, tx, ""); err != nil {
		return err
	}
	// Filled only after the storage of its columns is set.
	if err := execute(ctx, tx, create+" AS "+definition+"\nWITH NO DATA"); err != nil {
		return fmt.Errorf("build the successor of %s: %w", s.View.Name, err)
	}
	if err := tx.QueryRow(ctx, "SELECT $1::regclass::oid", t.Name.SQL()).Scan(&t.OID); err != nil {
		return fmt.Errorf("build the successor of %s: %w", s.View.Name, err)
	}
	if err := s.run(ctx, tx, storageSQL, s.View.OID, t.OID); err != nil {
		return err
	}
	if s.NoData {
		return nil
	}
	if err := execute(ctx, tx, "REFRESH MATERIALIZED VIEW "+t.Name.SQL()); err != nil {
		return fmt.Errorf("fill the successor of %s: %w", s.View.Name, err)
	}
	return nil
}

// pinTablespace sets where relations go that name no tablespace; "" is the
// database's. The setting is a name, not a list of SQL, so it takes no quotes.
func pinTablespace(ctx context.Context, tx pgx.Tx, tablespace string) error {
	if _, err := tx.Exec(ctx, "SELECT set_config('default_tablespace', $1, true)", tablespace); err != nil {
		return fmt.Errorf("choose tablespace %s: %w", tablespace, err)
	}
	return nil
}

// keptIndex is an index of the old view that the twin gets too.
type keptIndex struct {
	Name       string
	Prefix     string // of Definition: up to what is not the old view's alone
	Definition string
	Tablespace string // "" for the database's
	unique     bool
}

// keptIndexes leaves out what a failed CREATE INDEX CONCURRENTLY has left. The
// rest is read as SQL of the server's own, and so with every option.
func (s Swap) keptIndexes(ctx context.Context, tx pgx.Tx) (kept []keptIndex, err error) {
	const sql = `
SELECT x.relname::text, format('CREATE %sINDEX %I ON %s USING ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname, i.indrelid::regclass),
       pg_get_indexdef(i.indexrelid), coalesce(ts.spcname::text, ''), i.indisunique
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
LEFT JOIN pg_tablespace AS ts ON ts.oid = x.reltablespace
WHERE i.indrelid = $1 AND i.indisvalid AND x.relname <> ALL ($2::text[])
ORDER BY i.indexrelid`
	err = deparse(ctx, tx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, pinSQL); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, s.View.OID, append([]string{}, s.Drop...))
		if err != nil {
			return err
		}
		kept, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (x keptIndex, err error) {
			return x, row.Scan(&x.Name, &x.Prefix, &x.Definition, &x.Tablespace, &x.unique)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the indexes of %s: %w", s.View.Name, err)
	}
	return kept, nil
}

func (t *twin) copyIndexes(ctx context.Context, tx pgx.Tx, kept []keptIndex) error {
	for _, x := range kept {
		rest, ok := strings.CutPrefix(x.Definition, x.Prefix)
		if !ok {
			return fmt.Errorf("copy index %q: cannot read its definition %q", x.Name, x.Definition)
		}
		t.indexes[x.Name] = randomName()
		if err := pinTablespace(ctx, tx, x.Tablespace); err != nil {
			return err
		}
		create := "CREATE INDEX "
		if x.unique {
			create = "CREATE UNIQUE INDEX "
		}
		if err := execute(ctx, tx, create+postgres.QuoteIdent(t.indexes[x.Name])+" ON "+t.Name.SQL()+" USING "+rest); err != nil {
			return fmt.Errorf("build index %q again (%s): %w", x.Name, x.Definition, err)
		}
	}
	return pinTablespace(ctx, tx, "")
}

// withPath calls what is to be done under another search_path.
func withPath(ctx context.Context, tx pgx.Tx, path string, call func() error) error {
	var before string
	err := tx.QueryRow(ctx, "SELECT current_setting('search_path')").Scan(&before)
	if err == nil {
		_, err = tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", path)
	}
	if err != nil {
		return fmt.Errorf("set the search_path: %w", err)
	}
	if err := call(); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", before); err != nil {
		return fmt.Errorf("set the search_path: %w", err)
	}
	return nil
}

// run runs the statements that a query returns, all in one round trip.
func (s Swap) run(ctx context.Context, tx pgx.Tx, sql string, args ...any) error {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("read what belongs to %s: %w", s.View.Name, err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read what belongs to %s: %w", s.View.Name, err)
	}
	if i, err := executeAll(ctx, tx, statements); err != nil {
		return fmt.Errorf("carry over what belongs to %s (%s): %w", s.View.Name, statements[i], err)
	}
	return nil
}
