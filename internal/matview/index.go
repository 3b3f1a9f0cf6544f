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

// Index is an index of a view. Keys and Where are SQL: as a user wrote it, or as the
// server does if the index was read from the catalog.
type Index struct {
	Keys    []string // as in CREATE INDEX: `job_id`, `created_at DESC`, `lower(name)`
	Unique  bool
	Method  string   // the access method; "" means [DefaultMethod]
	Include []string // column names, not quoted
	Where   string

	NullsNotDistinct bool              // requires PostgreSQL 15
	Parameters       map[string]string // of WITH
	Tablespace       string            // "" means the default of the database

	// Concurrent says that REFRESH CONCURRENTLY can use the index. ReadIndexes and
	// NormalizeIndexes set it.
	Concurrent bool `json:"-"`
}

// DefaultMethod is the access method of an index that does not specify one.
const DefaultMethod = "btree"

// createSQL returns the statement in two parts; all SQL of a user is in rest. A line
// break follows each piece of it, so that a comment at its end stops there.
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

// Equal compares the text of the SQL.
func (x Index) Equal(y Index) bool {
	return x.Unique == y.Unique && x.Method == y.Method && x.Where == y.Where &&
		slices.Equal(x.Keys, y.Keys) && slices.Equal(x.Include, y.Include) &&
		x.NullsNotDistinct == y.NullsNotDistinct && maps.Equal(x.Parameters, y.Parameters) && x.Tablespace == y.Tablespace
}

// SameText is Equal except for the layout of the SQL; see [SameText]. It is false if
// the SQL contains a semicolon.
func (x Index) SameText(y Index) bool {
	same := func(a, b string) bool { return SameText(a, b) && !strings.Contains(a+b, ";") }
	if !slices.EqualFunc(x.Keys, y.Keys, same) || x.Where != y.Where && !same(x.Where, y.Where) {
		return false
	}
	x.Keys, x.Where = y.Keys, y.Where
	return x.Equal(y)
}

// create builds the index name of a view, on the relation and under the name that are
// given. Readers do not wait; a refresh of the relation waits until tx ends.
func (x Index) create(ctx context.Context, tx pgx.Tx, view Name, name string, relation Name, as string) error {
	failed := func(err error) error { return &IndexError{View: view, Index: name, Err: err} }
	if m := major(tx); x.NullsNotDistinct && m > 0 && m < nullsNotDistinct {
		return failed(fmt.Errorf("nulls_not_distinct requires PostgreSQL %d or later", nullsNotDistinct))
	}
	prefix, rest := x.createSQL(as, relation)
	if err := execute(ctx, tx, prefix+rest); err != nil {
		var e *pgconn.PgError
		if errors.As(err, &e) { // use the name that the user knows
			e.Message = strings.ReplaceAll(e.Message, as, name)
		}
		return x.locate(err, prefix, rest, view, name)
	}
	// A key that closes the parenthesis or contains a comma results in another index
	// than the one described.
	const sql = `SELECT indnkeyatts, indnatts, indpred IS NOT NULL FROM pg_index WHERE indexrelid = $1::regclass`
	var keys, columns int
	var partial bool
	if err := tx.QueryRow(ctx, sql, Name{relation.Schema, as}.SQL()).Scan(&keys, &columns, &partial); err != nil {
		return failed(err)
	}
	if keys != len(x.Keys) || columns != keys+len(x.Include) || partial != (x.Where != "") {
		return failed(errors.New("each of keys must be one key, such as `job_id` or `created_at DESC`, and a condition belongs in where"))
	}
	return nil
}

// locate returns the server's error about an index with the position within the key
// or condition that the user wrote.
func (x Index) locate(err error, prefix, rest string, view Name, name string) error {
	located := &IndexError{View: view, Index: name, Err: sqlError(err, prefix, rest)}
	var e *SQLError
	if !errors.As(located.Err, &e) || e.Position == 0 {
		return located
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
			located.Where, located.Key = where, i
			e.text, e.Position = part, key-at+1
			e.Line, e.Column = lineAndColumn(part, e.Position)
			located.Placed = true
			return located
		}
		at += size + utf8.RuneCountInString("\n, ")
	}
	e.Position, e.Line, e.Column = 0, 0, 0 // it is not in the user's SQL
	return located
}

// IndexError says what is wrong with an index. Err is an [SQLError] if the server
// rejected it.
type IndexError struct {
	View  Name
	Index string
	Err   error

	// Placed says that the error is known to be in the condition, if Where is set, or
	// else in the key with the index Key.
	Placed bool
	Where  bool
	Key    int
}

func (e *IndexError) Error() string {
	return fmt.Sprintf("create index %q on %s: %v", e.Index, e.View, e.Err)
}

func (e *IndexError) Unwrap() error { return e.Err }

func createIndexes(ctx context.Context, tx pgx.Tx, view, relation Name, indexes map[string]Index) error {
	for _, name := range slices.Sorted(maps.Keys(indexes)) {
		if err := indexes[name].create(ctx, tx, view, name, relation, name); err != nil {
			return err
		}
	}
	return nil
}

// indexRow is an index as ReadIndexes reads it. Keys are within Definition.
type indexRow struct {
	Name       string
	Definition string
	Index
}

var readIndexesSQL = `
SELECT x.relname AS name, pg_get_indexdef(i.indexrelid) AS definition, i.indisunique AS unique, am.amname AS method,
       coalesce(pg_get_expr(i.indpred, i.indrelid), '') AS where,
       -- An index keeps the names that its columns had when it was created.
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, n)
             JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.n > i.indnkeyatts ORDER BY k.n) AS include,
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) AS nulls_not_distinct, -- PostgreSQL 15 and later
       ` + parametersSQL("x.reloptions") + ` AS parameters, coalesce(ts.spcname, '') AS tablespace,
       ` + ConcurrentIndexSQL + ` AS concurrent
FROM pg_index AS i
JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_am AS am ON am.oid = x.relam
LEFT JOIN pg_tablespace AS ts ON ts.oid = x.reltablespace
WHERE i.indrelid = $1`

// ReadIndexes reads every index of a view as the server writes it. It waits while a
// blocking refresh of the view runs, but at most a second: then the SQLSTATE of the
// error is [pgerrcode.LockNotAvailable].
func ReadIndexes(ctx context.Context, db DB, view uint32) (map[string]Index, error) {
	indexes := map[string]Index{}
	err := deparse(ctx, db, func(tx pgx.Tx) error {
		rows, err := collect(ctx, tx, pgx.RowToStructByNameLax[indexRow], readIndexesSQL, view)
		for _, x := range rows {
			if x.Keys, err = indexKeys(x.Definition); err != nil {
				return err
			}
			indexes[x.Name] = x.Index
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the indexes: %w", err)
	}
	return indexes, nil
}

// NormalizeIndexes returns indexes as the server writes them, for a view that has the
// given definition, which is in normal form. It does not touch the view: it builds
// the indexes on an empty temporary table, in a transaction that it rolls back. It
// returns an [IndexError] if an index is wrong. Like [Normalize], it waits at most a
// second for locks.
func NormalizeIndexes(ctx context.Context, db DB, view Name, definition string, indexes map[string]Index) (map[string]Index, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("normalize indexes: %w", err)
	}
	defer rollback(ctx, tx)
	if _, err := tx.Exec(ctx, "SET TRANSACTION READ WRITE; SET LOCAL lock_timeout = '1s'"); err != nil {
		return nil, fmt.Errorf("normalize indexes: %w", err)
	}
	table := Name{Schema: "pg_temp", Relation: temporaryName()}
	if err := execute(ctx, tx, "CREATE TABLE "+table.SQL()+" AS "+definition+"\nWITH NO DATA"); err != nil {
		return nil, fmt.Errorf("normalize indexes: %w", err)
	}
	if err := createIndexes(ctx, tx, view, table, indexes); err != nil {
		return nil, err
	}
	var oid uint32
	if err := tx.QueryRow(ctx, "SELECT $1::regclass::oid", table.SQL()).Scan(&oid); err != nil {
		return nil, fmt.Errorf("normalize indexes: %w", err)
	}
	return ReadIndexes(ctx, tx, oid)
}

// indexKeys extracts the keys from the result of pg_get_indexdef: nothing else gives
// the collation and the operator class of an expression as SQL.
func indexKeys(definition string) ([]string, error) {
	var keys []string
	var quote byte
	depth, from := 0, 0
	for i := 0; i < len(definition); i++ {
		c := definition[i]
		switch {
		case quote != 0:
			// A doubled quote starts the next string at once, and a backslash escapes
			// nothing but itself: the server doubles both.
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
	return nil, fmt.Errorf("unexpected index definition %q", definition)
}
