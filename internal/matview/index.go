package matview

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Index is an index of a view. Keys and Where are SQL of a user, or of the
// server where the index was read from the catalog.
type Index struct {
	Keys    []string // as in CREATE INDEX: `job_id`, `created_at DESC`, `lower(name)`
	Unique  bool
	Method  string   // the access method; "" means btree
	Include []string // column names, not quoted
	Where   string

	NullsNotDistinct bool              // PostgreSQL 15 and later
	Parameters       map[string]string // of WITH
	Tablespace       string            // "" means the database's

	// Concurrent is filled in by NormalizeIndexes: REFRESH CONCURRENTLY can use it.
	Concurrent bool `json:"-"`
}

// DefaultMethod is the access method of an index that names none.
const DefaultMethod = "btree"

// createSQL is the statement, in two: what a user wrote is all in rest. Each
// piece of it ends with its line, lest a comment swallows what follows.
func (x Index) createSQL(name string, view Name) (prefix, rest string) {
	unique, method := "", x.Method
	if x.Unique {
		unique = "UNIQUE "
	}
	if method == "" {
		method = DefaultMethod
	}
	prefix = fmt.Sprintf("CREATE %sINDEX %s ON %s USING %s ", unique, postgres.QuoteIdent(name), view.SQL(), postgres.QuoteIdent(method))
	rest = "(" + strings.Join(x.Keys, "\n, ") + "\n)"
	if len(x.Include) > 0 {
		columns := make([]string, len(x.Include))
		for i, c := range x.Include {
			columns[i] = postgres.QuoteIdent(c)
		}
		rest += " INCLUDE (" + strings.Join(columns, ", ") + ")"
	}
	if x.NullsNotDistinct {
		rest += " NULLS NOT DISTINCT"
	}
	if len(x.Parameters) > 0 {
		rest += " WITH (" + parameterList(x.Parameters) + ")"
	}
	if x.Tablespace != "" {
		rest += " TABLESPACE " + postgres.QuoteIdent(x.Tablespace)
	}
	if x.Where != "" {
		rest += " WHERE (" + x.Where + "\n)"
	}
	return prefix, rest
}

// Equal compares text with text.
func (x Index) Equal(y Index) bool {
	return x.Unique == y.Unique && x.Method == y.Method && x.Where == y.Where &&
		slices.Equal(x.Keys, y.Keys) && slices.Equal(x.Include, y.Include) &&
		x.NullsNotDistinct == y.NullsNotDistinct && maps.Equal(x.Parameters, y.Parameters) && x.Tablespace == y.Tablespace
}

// SameText is Equal but for the layout of the SQL in it; see [SameText]. No
// semicolon may stand in it.
func (x Index) SameText(y Index) bool {
	same := func(a, b string) bool { return SameText(a, b) && !strings.Contains(a+b, ";") }
	if !slices.EqualFunc(x.Keys, y.Keys, same) || x.Where != y.Where && !same(x.Where, y.Where) {
		return false
	}
	x.Keys, x.Where = y.Keys, y.Where
	return x.Equal(y)
}

// createIndex builds the index name of view under the name as. Readers of the
// view go on, a refresh waits until tx ends.
func createIndex(ctx context.Context, tx pgx.Tx, view Name, name, as string, x Index) error {
	prefix, rest := x.createSQL(as, view)
	if err := execute(ctx, tx, prefix+rest); err != nil {
		var e *pgconn.PgError
		if errors.As(err, &e) { // the name that the user knows
			e.Message = strings.ReplaceAll(e.Message, as, name)
		}
		return x.refused(err, prefix, rest, view, name)
	}
	// A key that closes the parenthesis, or holds a comma, made another index
	// than the one described.
	const sql = `SELECT indnkeyatts, indnatts, indpred IS NOT NULL FROM pg_index WHERE indexrelid = $1::regclass`
	var keys, columns int
	var partial bool
	if err := tx.QueryRow(ctx, sql, Name{view.Schema, as}.SQL()).Scan(&keys, &columns, &partial); err != nil {
		return &IndexError{View: view, Index: name, Err: err}
	}
	if keys != len(x.Keys) || columns != keys+len(x.Include) || partial != (x.Where != "") {
		return &IndexError{View: view, Index: name, Err: errors.New("each of keys must be one key, such as `job_id` or `created_at DESC`, and a condition belongs in where")}
	}
	return nil
}

// refused is the server's error about an index, with its place within the key or
// the condition that the user wrote.
func (x Index) refused(err error, prefix, rest string, view Name, name string) error {
	refused := &IndexError{View: view, Index: name, Err: sqlError(err, prefix, rest)}
	var e *SQLError
	if !errors.As(refused.Err, &e) || e.Position == 0 {
		return refused
	}
	at, key := utf8.RuneCountInString("("), e.Position-1
	parts := append(slices.Clone(x.Keys), x.Where)
	for i, part := range parts {
		where := i == len(x.Keys)
		if where {
			at = utf8.RuneCountInString(rest) - utf8.RuneCountInString(part+"\n)")
		}
		size := utf8.RuneCountInString(part)
		if part != "" && key >= at && key <= at+size {
			refused.Where, refused.Key = where, i
			e.text, e.Position = part, key-at+1
			e.Line, e.Column = place(part, e.Position)
			refused.Placed = true
			return refused
		}
		at += size + utf8.RuneCountInString("\n, ")
	}
	e.Position, e.Line, e.Column = 0, 0, 0 // in what was put around it
	if x.NullsNotDistinct && strings.Contains(e.Message, `"NULLS"`) {
		refused.Err = errors.New("nulls_not_distinct takes PostgreSQL 15 or later")
	}
	return refused
}

// IndexError says what is wrong with an index. Err is an [SQLError] where the
// server refused it.
type IndexError struct {
	View  Name
	Index string
	Err   error

	// Placed says that it is known what it is about: the condition, if Where, or
	// else the key of that number, from 0.
	Placed bool
	Where  bool
	Key    int
}

func (e *IndexError) Error() string {
	return fmt.Sprintf("create index %q on %s: %v", e.Index, e.View, e.Err)
}

func (e *IndexError) Unwrap() error { return e.Err }

func createIndexes(ctx context.Context, tx pgx.Tx, view Name, indexes map[string]Index) error {
	for _, name := range slices.Sorted(maps.Keys(indexes)) {
		if err := createIndex(ctx, tx, view, name, name, indexes[name]); err != nil {
			return err
		}
	}
	return nil
}

// ReadIndexes reads every index of a view as SQL of the server's own. It waits
// while the view is being refreshed blockingly, but no more than a second: then
// the error's SQLSTATE is [pgerrcode.LockNotAvailable].
func ReadIndexes(ctx context.Context, db DB, view uint32) (map[string]Index, error) {
	indexes := map[string]Index{}
	err := deparse(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, pinSQL); err != nil {
			return err
		}
		const sql = `
SELECT x.relname, pg_get_indexdef(i.indexrelid), i.indisunique, am.amname,
       coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
       -- An index keeps the names that its columns had when it was made.
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, n)
             JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.n > i.indnkeyatts ORDER BY k.n),
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false), x.reloptions, coalesce(ts.spcname, '')
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_am AS am ON am.oid = x.relam
LEFT JOIN pg_tablespace AS ts ON ts.oid = x.reltablespace
WHERE i.indrelid = $1`
		rows, err := tx.Query(ctx, sql, view)
		if err != nil {
			return err
		}
		var name, definition string
		var x Index
		var options []string
		scanned := []any{&name, &definition, &x.Unique, &x.Method, &x.Where, &x.Include, &x.NullsNotDistinct, &options, &x.Tablespace}
		_, err = pgx.ForEachRow(rows, scanned, func() error {
			var err error
			x.Parameters = parameterMap(options)
			x.Keys, err = indexKeys(definition)
			indexes[name] = x
			x = Index{}
			return err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the indexes: %w", err)
	}
	return indexes, nil
}

// NormalizeIndexes has the server write back indexes of a view that has the
// given definition, which is in normal form. It does not touch the view: the
// indexes are built on an empty temporary table, in a transaction that is rolled
// back. An index that is not fit is an [IndexError]. As [Normalize] it waits at
// most a second for locks.
func NormalizeIndexes(ctx context.Context, db DB, view Name, definition string, indexes map[string]Index) (map[string]Index, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("normalize indexes: %w", err)
	}
	defer rollback(ctx, tx)
	if _, err := tx.Exec(ctx, "SET TRANSACTION READ WRITE; SET LOCAL lock_timeout = '1s'"); err != nil {
		return nil, fmt.Errorf("normalize indexes: %w", err)
	}
	table := Name{Schema: "pg_temp", Relation: randomName()}
	if err := execute(ctx, tx, "CREATE TABLE "+table.SQL()+" AS "+definition+"\nWITH NO DATA"); err != nil {
		return nil, fmt.Errorf("normalize indexes: %w", err)
	}
	if err := createIndexes(ctx, tx, table, indexes); err != nil {
		var indexErr *IndexError
		if errors.As(err, &indexErr) {
			indexErr.View = view
		}
		return nil, err
	}
	var oid uint32
	if err := tx.QueryRow(ctx, "SELECT $1::regclass::oid", table.SQL()).Scan(&oid); err != nil {
		return nil, fmt.Errorf("normalize indexes: %w", err)
	}
	return readUsable(ctx, tx, oid)
}

// readUsable is ReadIndexes with Concurrent.
func readUsable(ctx context.Context, tx pgx.Tx, table uint32) (map[string]Index, error) {
	indexes, err := ReadIndexes(ctx, tx, table)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, "SELECT x.relname FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_am AS am ON am.oid = x.relam WHERE i.indrelid = $1 AND "+ConcurrentIndexSQL, table)
	if err != nil {
		return nil, fmt.Errorf("read the indexes: %w", err)
	}
	usable, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the indexes: %w", err)
	}
	for _, name := range usable {
		x := indexes[name]
		x.Concurrent = true
		indexes[name] = x
	}
	return indexes, nil
}

// indexKeys cuts the keys out of what pg_get_indexdef says: there is no other
// way to learn an expression's collation and operator class as SQL.
func indexKeys(definition string) ([]string, error) {
	var keys []string
	var quote byte
	depth, from := 0, 0
	for i := 0; i < len(definition); i++ {
		c := definition[i]
		switch {
		case quote != 0:
			// A doubled quote opens the next string at once, and a backslash
			// escapes nothing but itself: the server doubles both.
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '(' || c == '[':
			if depth == 0 {
				from = i + 1
			}
			depth++
		case c == ',' && depth == 1:
			keys = append(keys, strings.TrimSpace(definition[from:i]))
			from = i + 1
		case c == ')' || c == ']':
			if depth--; depth == 0 {
				return append(keys, strings.TrimSpace(definition[from:i])), nil
			}
		}
	}
	return nil, fmt.Errorf("cannot read the index definition %q", definition)
}
