package matview

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

const uniqueTables = `CREATE TABLE o (id int PRIMARY KEY, c int, note text); CREATE TABLE c (id int PRIMARY KEY, name text, b int);
CREATE TABLE b (id int PRIMARY KEY, t text); CREATE TABLE many (o int, x text); CREATE TABLE late (id int UNIQUE DEFERRABLE, note text);
INSERT INTO o SELECT i, i % 5, NULL FROM generate_series(1, 50) AS i; INSERT INTO c SELECT i, 'c', i FROM generate_series(0, 4) AS i;
INSERT INTO b SELECT i, 'b' FROM generate_series(0, 4) AS i; INSERT INTO many SELECT i % 50, NULL FROM generate_series(1, 200) AS i;
CREATE FUNCTION grows(i int) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN i + 1; END $$;`

// Of the queries that are not unique, each returns two equal rows or more, but not those
// that the planner merely has no proof of.
func TestIsUnique(t *testing.T) {
	db := jobs(t)
	db.Exec(t, uniqueTables)
	pool := db.Pool(t)
	for _, c := range []struct {
		key, query string
		want       bool
	}{
		{"id", "SELECT id, note FROM o", true},
		{"id", "SELECT o.id, o.note, c.name FROM o LEFT JOIN c ON c.id = o.c", true},
		{"id", "SELECT o.id, o.note, c.name FROM o JOIN c ON c.id = o.c", true},
		{"id", "SELECT o.id, o.note, c.name, b.t FROM b JOIN (c JOIN o ON c.id = o.c) ON b.id = c.b", true},
		{"id", "SELECT x.id, x.note, c.name, b.t FROM b, c, o AS x WHERE c.id = x.c AND b.id = c.b AND x.id > grows(0)", true},
		{"id", "SELECT o.id, o.note, c.name, b.t FROM o LEFT JOIN c ON c.id = o.c LEFT JOIN b ON b.id = c.b", true},
		{"c", "SELECT c, min(note) AS note, count(*) FROM o GROUP BY c", true},
		{"k", "SELECT c % 2 AS k, min(note) AS note FROM o GROUP BY 1", true},
		{"id", "SELECT o.id, o.note, count(m.x) FROM o LEFT JOIN many AS m ON m.o = o.id GROUP BY o.id", true},
		{"id", "SELECT o.id, o.note, m.n FROM o LEFT JOIN (SELECT o, count(*) AS n FROM many GROUP BY o) AS m ON m.o = o.id", true},
		{"id", "SELECT o.id, o.note, m.n FROM o LEFT JOIN LATERAL (SELECT count(*) AS n FROM many AS m WHERE m.o = o.id) AS m ON true", true},
		{"id", "SELECT o.id, o.note, (SELECT min(x) FROM many AS m WHERE m.o = o.id) FROM o", true},
		{"c", "SELECT DISTINCT ON (c) c, note FROM o ORDER BY c, id", true},
		{"o, x", "SELECT DISTINCT o, x FROM many", true},
		{"o, x", "SELECT o, x FROM many UNION SELECT id, note FROM o", true},
		{"o", "SELECT o, x FROM many", false},
		{"id", "SELECT id, note FROM late", false},
		{"id", "SELECT o.id, m.x FROM o JOIN many AS m ON m.o = o.id", false},
		{"id", "SELECT o.id, m.x FROM o LEFT JOIN many AS m ON m.o = o.id", false},
		{"id", "SELECT o.id, o.note FROM many AS m LEFT JOIN o ON m.o = o.id", false},
		{"id", "SELECT o.id, o.note FROM many AS m FULL JOIN o ON m.o = o.id", false},
		{"id", "SELECT o.id, m.x, count(*) FROM o LEFT JOIN many AS m ON m.o = o.id GROUP BY o.id, m.x, m.ctid", false},
		{"id", "SELECT id, note FROM o UNION ALL SELECT id, name FROM c", false},
		{"id", "SELECT id, note, generate_series(1, 2) * 0 AS zero FROM o", false},
		{"c", "SELECT DISTINCT ON (c) c, note, unnest(ARRAY[1, 1]) AS part FROM o ORDER BY c, note", false},
		{"id", "SELECT o.id, o.note FROM o, b", false},
		{"id", "SELECT o.id, o.note FROM o JOIN c ON c.id < o.c", false},
		{"id", "SELECT o.id, o.note FROM o CROSS JOIN LATERAL (SELECT FROM many LIMIT 2) AS m", false},
		{"id", "SELECT outer_rows.id, outer_rows.note FROM o AS outer_rows CROSS JOIN (SELECT FROM b LIMIT 2) AS q", false},
	} {
		db.Exec(t, "DROP MATERIALIZED VIEW IF EXISTS v; CREATE MATERIALIZED VIEW v AS "+c.query)
		name := Name{Schema: "public", Relation: "v"}
		err := change(t, pool, func(tx pgx.Tx) error {
			oid := value[uint32](t, tx, "SELECT 'v'::regclass::oid")
			var join []string
			for _, key := range strings.Split(c.key, ", ") {
				join = append(join, "q."+key+" OPERATOR(pg_catalog.=) one."+key)
			}
			got, err := isUnique(t.Context(), tx, oid, name, "", uniqueColumns{Unique: c.key, Join: strings.Join(join, " AND ")}, "one")
			if err != nil || got != c.want {
				t.Errorf("%s unique in %s: %t, %v", c.key, c.query, got, err)
			}
			if n := value[int](t, tx, "SELECT count(*) FROM pg_class WHERE relname LIKE 'matview\\_%' AND relkind = 'm'"); n != 0 {
				t.Errorf("%d views are left", n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheckEqualRows(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE TABLE tags (item text, note text, "Note 2" int); CREATE TYPE pair AS (a int, b int);`)
	pool := db.Pool(t)
	for _, c := range []struct {
		rows, columns, index string
		exact                bool
	}{
		{"('a', NULL, 1)", "item, note", "(item)", false},
		{"('a', NULL, 1)", `item, "Note 2"`, "(item)", true}, // no null is in the view
		{"('a', 'x', NULL)", `item, "Note 2"`, "(item)", false},
		{"('a', 'x', NULL)", `item, "Note 2"`, `(item, "Note 2")`, true},                // all columns are in the index
		{"('a', NULL, NULL)", `item, "Note 2", note`, `(item, "Note 2")`, true},         // its rows with a null are written anew
		{"(NULL, NULL, 1)", `item, note`, `(item) INCLUDE (note)`, true},                // likewise
		{"('a', NULL, 1)", `item, note`, `(item) INCLUDE (note)`, false},                // a column that is included only
		{"('a', 'x', NULL)", `item, ("Note 2", 1)::pair AS p`, "(item)", true},          // a pair with a null is none
		{"('a', 'x', 1)", `item, (NULL, NULL)::pair AS p`, "(item)", true},              // likewise
		{"('a', 'x', 1), ('b', NULL, 2)", `item COLLATE "C", note`, "(1)", false},       // unusable: an expression
		{"('a', NULL, 1)", `item::name, note`, `(item DESC NULLS LAST)`, false},         // another type's operator
		{"('a', NULL, 1)", `ARRAY[item], note, "Note 2"`, `("array")`, false},           // a polymorphic operator
		{"('a', NULL, 1)", `min(item) AS item, note`, `(item) -- GROUP BY note`, false}, // by another column
		{"('a', NULL, 1)", `item, max(note)`, "(item) -- GROUP BY item", true},          // proved
		{"('a', NULL, 1)", `ARRAY[item], max(note)`, "(\"array\") -- GROUP BY 1", true}, // proved
	} {
		_, group, _ := strings.Cut(c.index, "-- ") // the rest of the query
		index := "CREATE UNIQUE INDEX ON tagged " + c.index
		if c.index == "(1)" {
			index = "CREATE UNIQUE INDEX ON tagged ((item || ''))"
		}
		db.Exec(t, "DROP MATERIALIZED VIEW IF EXISTS tagged; TRUNCATE tags; INSERT INTO tags VALUES "+c.rows+"; CREATE MATERIALIZED VIEW tagged AS SELECT "+c.columns+" FROM tags "+group+"; "+index)
		v := read(t, pool, Name{Schema: "public", Relation: "tagged"})
		err := change(t, pool, func(tx pgx.Tx) error { return CheckEqualRows(t.Context(), tx, v.OID, v.Name, v.Owner) })
		var equal *EqualRowsError
		if c.exact && err != nil || !c.exact && !errors.As(err, &equal) || equal != nil && equal.Err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
