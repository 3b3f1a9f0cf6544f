package matview

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const jobsSQL = `
CREATE TABLE jobs (id int PRIMARY KEY, name text, status text, created_at timestamptz);
CREATE TABLE job_objects (job_id int, size bigint, failed bool);`

func jobs(t *testing.T) *postgrestest.Database {
	t.Helper()
	db := postgrestest.New(t)
	db.Exec(t, jobsSQL)
	return db
}

func TestNormalizeSameMeaning(t *testing.T) {
	conn := jobs(t).Connect(t)
	for _, c := range []struct{ a, b string }{
		{"SELECT id, name FROM jobs", "select\n\tid,\n\tname\nfrom jobs;"},
		{"SELECT id FROM jobs", "SELECT id FROM public.jobs"},
		{"SELECT id FROM jobs", "SELECT jobs.id FROM jobs -- a trailing comment"},
		{"SELECT id FROM jobs", "/* leading */ SELECT /* inner /* nested */ */ id FROM jobs;; -- end"},
		{"SELECT id FROM jobs WHERE status = 'a;b'", "SELECT id FROM jobs WHERE (status = 'a;b')"},
		{"SELECT count(*) AS n FROM jobs", "SELECT COUNT(*) n FROM JOBS"},
		{"SELECT * FROM jobs", "SELECT id, name, status, created_at FROM jobs"},
		{"TABLE jobs", "SELECT * FROM jobs"},
		{"SELECT 'x'::text AS a", "SELECT 'x' AS a"},
		{"SELECT 'it''s' AS a", "SELECT $q$it's$q$ AS a"},
		{"WITH j AS (SELECT id FROM jobs) SELECT id FROM j", "with j as(select id from jobs)select id from j"},
		{"SELECT date '2024-02-01' AS d", "SELECT '2024-02-01'::date AS d"},
	} {
		a, err := Normalize(t.Context(), conn, c.a)
		if err != nil {
			t.Errorf("Normalize(%q): %v", c.a, err)
			continue
		}
		b, err := Normalize(t.Context(), conn, c.b)
		if err != nil {
			t.Errorf("Normalize(%q): %v", c.b, err)
			continue
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%q and %q differ:\n%s", c.a, c.b, diff)
		}
		again, err := Normalize(t.Context(), conn, a.Definition)
		if err != nil {
			t.Errorf("Normalize(%q), of its own making: %v", a.Definition, err)
		}
		if diff := cmp.Diff(a, again); diff != "" {
			t.Errorf("the normal form of %q is not normal:\n%s", c.a, diff)
		}
	}
}

func TestNormalizeOtherMeaning(t *testing.T) {
	conn := jobs(t).Connect(t)
	base, err := Normalize(t.Context(), conn, "SELECT id, name FROM jobs WHERE id > 1 ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{
		"SELECT id, name FROM jobs WHERE id > 2 ORDER BY id",
		"SELECT id, name FROM jobs WHERE id >= 1 ORDER BY id",
		"SELECT id, name FROM jobs WHERE id > 1 ORDER BY id DESC",
		"SELECT id, name FROM jobs WHERE id > 1",
		"SELECT name, id FROM jobs WHERE id > 1 ORDER BY id",
		"SELECT id, name AS title FROM jobs WHERE id > 1 ORDER BY id",
		"SELECT id::bigint, name FROM jobs WHERE id > 1 ORDER BY id",
	} {
		n, err := Normalize(t.Context(), conn, query)
		if err != nil {
			t.Errorf("Normalize(%q): %v", query, err)
		} else if n.Definition == base.Definition {
			t.Errorf("Normalize(%q) is that of another query:\n%s", query, n.Definition)
		}
	}
}

// The normal form does not depend on the settings of the session.
func TestNormalizeUnderSettings(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE TYPE mood AS ENUM ('good'); CREATE SCHEMA other; CREATE TABLE other.jobs (id int)`)
	const query = `SELECT id, 'good'::mood AS m, timestamptz '2024-01-01 00:00:00+00' AS at, interval '1 day 2 hours' AS i, 0.1::float8 AS f, '\xff'::bytea AS b FROM jobs`
	plain := db.Connect(t)
	want, err := Normalize(t.Context(), plain, query)
	if err != nil {
		t.Fatal(err)
	}
	if got := want.Columns[1]; got != (Column{Name: "m", Type: "public.mood"}) {
		t.Errorf("column of a user's type is %+v", got)
	}
	conn := db.Connect(t)
	for _, set := range []string{
		"SET timezone = 'Asia/Tokyo'", "SET IntervalStyle = 'iso_8601'", "SET DateStyle = 'German'",
		"SET quote_all_identifiers = on", "SET extra_float_digits = -10", "SET bytea_output = 'escape'",
		"SET default_transaction_read_only = on", "SET default_transaction_isolation = 'serializable'",
	} {
		if _, err := conn.Exec(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		got, err := Normalize(t.Context(), conn, query)
		if err != nil {
			t.Fatalf("after %s: %v", set, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after %s:\n%s", set, diff)
		}
	}
	// Except for search_path, which decides what is read.
	if _, err := conn.Exec(t.Context(), "SET search_path = other, public"); err != nil {
		t.Fatal(err)
	}
	got, err := Normalize(t.Context(), conn, "SELECT id FROM jobs")
	if err != nil || !strings.Contains(got.Definition, "other.jobs") {
		t.Errorf("under search_path other: %q, %v", got.Definition, err)
	}
}

func TestNormalizeRefuses(t *testing.T) {
	db := jobs(t)
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), "CREATE TEMP TABLE mine (id int)"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		query        string
		state        string
		message      string
		line, column int
	}{
		{"SELECT 1 x WITH NO DATA", "42601", `syntax error at or near "WITH"`, 1, 12},
		{"SELECT 1 x WITH NO DATA; CREATE TABLE oops()", "42601", `syntax error at or near "WITH"`, 1, 12},
		{"SELECT 1 x; CREATE TABLE oops()", "42601", "the definition holds more than one statement", 0, 0},
		{"SELECT 1 x WITH CHECK OPTION", "42601", `syntax error at or near "WITH"`, 1, 12},
		{"SELECT id FROM jobs WITH DATA", "42601", `syntax error at or near "WITH"`, 1, 21},
		{"SELECT 1 x)", "42601", `syntax error at or near ")"`, 1, 11},
		{"SELECT 1 x /* never closed", "42601", "unterminated /* comment", 1, 12},
		{"SELECT 'never closed", "42601", "unterminated quoted string", 1, 8},
		{"SELECT id,\n  nme\nFROM jobs", "42703", `column "nme" does not exist`, 2, 3},
		{"SELECT '日本語' AS a,\n\t'日本語' || nme FROM jobs", "42703", `column "nme" does not exist`, 2, 11},
		{"SELECT id FROM jbs", "42P01", `relation "jbs" does not exist`, 1, 16},
		{"SELECT id FROM nowhere.jobs", "42P01", `relation "nowhere.jobs" does not exist`, 1, 16},
		{"SELECT nofunc(id) FROM jobs", "42883", "function nofunc(integer) does not exist", 1, 8},
		{"SELECT id::notype FROM jobs", "42704", `type "notype" does not exist`, 1, 12},
		{"SELECT id, id FROM jobs", "42701", `column "id" is returned more than once`, 0, 0},
		{"SELECT id AS xmin FROM jobs", "42701", `column name "xmin" is that of a system column`, 0, 0},
		{"SELECT ctid FROM jobs", "42701", `column name "ctid" is that of a system column`, 0, 0},
		{"SELECT $1::int AS a", "42P02", "has no parameters", 0, 0},
		{"", "42601", "not a query", 0, 0},
		{"-- nothing", "42601", "not a query", 0, 0},
		{"SELECT", "42601", "not a query", 0, 0},
		{"CREATE TABLE oops()", "42601", "not a query", 0, 0},
		{"DROP TABLE jobs", "42601", "not a query", 0, 0},
		{"INSERT INTO jobs VALUES (1) RETURNING id", "42601", `syntax error at or near "INSERT"`, 1, 1},
		{"EXPLAIN SELECT 1", "42601", `syntax error at or near "EXPLAIN"`, 1, 1},
		{"SHOW timezone", "42601", `syntax error at or near "SHOW"`, 1, 1},
		{"SELECT 1 AS a INTO oops", "42601", "not a query", 0, 0},
		{"WITH d AS (DELETE FROM jobs RETURNING id) SELECT id FROM d", "0A000", "views must not contain data-modifying statements in WITH", 0, 0},
		{"SELECT id FROM mine", "0A000", "must not use temporary tables or views, but the query reads mine", 0, 0},
		{"SELECT NULL::record AS r", "42P16", "pseudo-type record", 0, 0},
	} {
		_, err := Normalize(t.Context(), conn, c.query)
		var sqlErr *SQLError
		if !errors.As(err, &sqlErr) {
			t.Errorf("Normalize(%q): error %v, want an SQLError", c.query, err)
			continue
		}
		if sqlErr.SQLState != c.state || !strings.Contains(sqlErr.Message, c.message) || sqlErr.Line != c.line || sqlErr.Column != c.column {
			t.Errorf("Normalize(%q): %s %q at %d:%d, want %s %q at %d:%d",
				c.query, sqlErr.SQLState, sqlErr.Message, sqlErr.Line, sqlErr.Column, c.state, c.message, c.line, c.column)
		}
	}
	assertNothingLeft(t, conn)
}

// assertNothingLeft fails if a query was run or a view of Normalize is left.
func assertNothingLeft(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	var left []string
	const sql = `SELECT coalesce(array_agg(relname::text), '{}') FROM pg_class WHERE relname = 'oops' OR relname LIKE 'matview\_%'`
	if err := conn.QueryRow(t.Context(), sql).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	var jobs int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM jobs").Scan(&jobs); err != nil || jobs != 0 {
		t.Errorf("%d jobs, %v", jobs, err)
	}
}

func TestNormalizeWithoutTemp(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `REVOKE TEMPORARY ON DATABASE `+pgx.Identifier{db.Name}.Sanitize()+` FROM PUBLIC; GRANT SELECT ON jobs TO PUBLIC`)
	user, password := db.Role(t, "")
	conn, err := pgx.Connect(t.Context(), db.URLFor(user, password))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	n, err := Normalize(t.Context(), conn, "SELECT id, name::varchar(7) FROM jobs;")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(n.Incomparable, "GRANT TEMPORARY ON DATABASE") || n.Definition != "" {
		t.Errorf("got %+v, want no definition and the reason", n)
	}
	if diff := cmp.Diff([]Column{{Name: "id", Type: "integer"}, {Name: "name", Type: "character varying(7)"}}, n.Columns); diff != "" {
		t.Error(diff)
	}
	var sqlErr *SQLError
	if _, err := Normalize(t.Context(), conn, "SELECT nme FROM jobs"); !errors.As(err, &sqlErr) || sqlErr.Column != 8 {
		t.Errorf("error %v, want one at column 8", err)
	}
}

func TestNormalizeLockTimeout(t *testing.T) {
	db := jobs(t)
	other := db.Connect(t)
	if _, err := other.Exec(t.Context(), "BEGIN; LOCK TABLE jobs"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := Normalize(t.Context(), db.Connect(t), "SELECT id FROM jobs")
	if !IsLockTimeout(err) || time.Since(start) > 10*time.Second {
		t.Errorf("error %v after %s, want a lock timeout", err, time.Since(start))
	}
}

func TestExplain(t *testing.T) {
	conn := jobs(t).Connect(t)
	_, err := Normalize(t.Context(), conn, "SELECT id,\n\tnme\nFROM jobs")
	var sqlErr *SQLError
	if !errors.As(err, &sqlErr) {
		t.Fatal(err)
	}
	// Later majors add a hint.
	for _, want := range []string{"column \"nme\" does not exist (SQLSTATE 42703)", "\n\nAt line 2, column 2:\n  \tnme\n  \t^"} {
		if got := sqlErr.Explain(); !strings.Contains(got, want) {
			t.Errorf("Explain is\n%s\nwant in it\n%s", got, want)
		}
	}
	long := "SELECT '" + strings.Repeat("x", 300) + "' AS a, nme FROM jobs"
	_, err = Normalize(t.Context(), conn, long)
	if !errors.As(err, &sqlErr) {
		t.Fatal(err)
	}
	lines := strings.Split(sqlErr.Explain(), "\n")
	text, caret := lines[len(lines)-2], lines[len(lines)-1]
	if len(text) > maxExcerpt+2 || !strings.HasPrefix(text[strings.Index(caret, "^"):], "nme") {
		t.Errorf("excerpt of a long line:\n%s\n%s", text, caret)
	}
}
