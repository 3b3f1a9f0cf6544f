package refresh_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// skipping is the request of a schedule that skips, with bounds that do not matter.
func skipping(view string) refresh.Request {
	return refresh.Request{
		View: view, Method: refresh.Auto, Trigger: refresh.TriggerSchedule, LockTimeout: 10 * time.Second,
		SkipUnchanged: &refresh.Skipping{MaxLag: 24 * time.Hour, FullAfter: 24 * time.Hour},
	}
}

func needsSkipping(t testing.TB) {
	t.Helper()
	if postgrestest.Version(t) < 150000 {
		t.Skip("PostgreSQL 13 and 14 cannot skip; TestSkippingNeedsPostgreSQL15 tests that")
	}
}

// writer is a session that counts its changes as soon as it has committed.
type writer struct{ *pgx.Conn }

func (w writer) exec(t testing.TB, sql string) {
	t.Helper()
	if _, err := w.Exec(t.Context(), "SELECT pg_stat_force_next_flush()", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if _, err := w.Exec(t.Context(), "SELECT pg_stat_force_next_flush()", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}

func mustSkip(t *testing.T, pool *pgxpool.Pool, view string) refresh.Result {
	t.Helper()
	result := mustRefresh(t, pool, skipping(view))
	if !result.Skipped {
		t.Fatalf("%s was refreshed, since: %s", view, result.Reason)
	}
	return result
}

func mustNotSkip(t *testing.T, pool *pgxpool.Pool, view, why string) {
	t.Helper()
	result := mustRefresh(t, pool, skipping(view))
	if result.Skipped || !strings.Contains(result.Reason, why) {
		t.Fatalf("%s: skipped %v, reason %q, want a refresh since %q", view, result.Skipped, result.Reason, why)
	}
}

const lines = `
CREATE TYPE color AS ENUM ('red', 'green');
CREATE TABLE lines (id int PRIMARY KEY, n int, hue color DEFAULT 'red', at timestamptz);
INSERT INTO lines SELECT i, i FROM generate_series(1, 9) AS i;
CREATE TABLE parted (id int, n int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_2 (id int, n int);
INSERT INTO parted_1 VALUES (1, 1); INSERT INTO parted_2 VALUES (11, 11);
CREATE TABLE base (id int); CREATE TABLE child () INHERITS (base); CREATE TABLE unrelated (id int); INSERT INTO unrelated VALUES (5);
CREATE FUNCTION same(a int4, b int4) RETURNS bool IMMUTABLE LANGUAGE internal AS 'int4eq';
CREATE TABLE unread (id int);
`

func TestSkipNoticesChanges(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw")
	pool := db.Pool(t)
	w := writer{db.Connect(t)}
	for _, c := range []struct{ name, query, change, why string }{
		{"insert", "SELECT sum(n) FROM lines", "INSERT INTO lines VALUES (10, 1)", "changed since: work.lines"},
		{"update", "SELECT sum(n) FROM lines", "UPDATE lines SET n = n + 1 WHERE id = 1", "changed since: work.lines"},
		{"update and back", "SELECT sum(n) FROM lines", "UPDATE lines SET n = n + 1; UPDATE lines SET n = n - 1", "changed since: work.lines"},
		{"delete", "SELECT sum(n) FROM lines", "DELETE FROM lines WHERE id = 1", "changed since: work.lines"},
		{"truncate", "SELECT sum(n) FROM lines", "TRUNCATE lines", "changed since: work.lines"},
		{"copy", "SELECT count(*) FROM lines", `COPY lines (id) FROM PROGRAM 'echo 77'`, "changed since: work.lines"},
		{"merge or upsert", "SELECT sum(n) FROM lines", "INSERT INTO lines VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET n = 99", "changed since: work.lines"},
		{"rolled back", "SELECT sum(n) FROM lines", "BEGIN; INSERT INTO lines VALUES (10, 1); ROLLBACK", "changed since: work.lines"},
		{"whole rows, new column", "SELECT count(lines) FROM lines", "ALTER TABLE lines ADD COLUMN more int DEFAULT 4", "changed since: work.lines"},
		{"whole rows, column gone", "SELECT count(lines) FROM lines", "ALTER TABLE lines DROP COLUMN at", "changed since: work.lines"},
		{"type of a column", "SELECT count(*) FROM unrelated", "ALTER TABLE unrelated ALTER COLUMN id TYPE bigint", "changed since: work.unrelated"},
		{"enum label", "SELECT hue::text FROM lines", "ALTER TYPE color RENAME VALUE 'red' TO 'crimson'", "changed since: an enum type"},
		{"row in a partition", "SELECT sum(n) FROM parted", "INSERT INTO parted VALUES (2, 2)", "changed since: work.parted"},
		{"attach", "SELECT sum(n) FROM parted", "ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (10) TO (20)", "changed since: work.parted"},
		{"detach", "SELECT sum(n) FROM parted", "ALTER TABLE parted DETACH PARTITION parted_1", "changed since: work.parted"},
		{"truncate of a partition", "SELECT sum(n) FROM parted", "TRUNCATE parted_1", "changed since: work.parted"},
		{"row of a child table", "SELECT count(*) FROM base", "INSERT INTO child VALUES (1)", "changed since: work.base"},
		{"new child table", "SELECT count(*) FROM base", "ALTER TABLE unrelated INHERIT base", "changed since: work.base"},
		{"child table gone", "SELECT count(*) FROM base", "ALTER TABLE child NO INHERIT base", "changed since: work.base"},
		{"function", "SELECT count(*) FROM lines WHERE same(n, 1)", "CREATE OR REPLACE FUNCTION same(a int4, b int4) RETURNS bool IMMUTABLE LANGUAGE internal AS 'int4ne'", "changed since: a function or operator that it uses"},
		{"view between", "SELECT total FROM between", "CREATE OR REPLACE VIEW between AS SELECT sum(n) + 1 AS total FROM lines", "changed since: work.\"between\""},
		{"behind a view", "SELECT total FROM between", "UPDATE lines SET n = 5 WHERE id = 3", "changed since: work.lines"},
		{"in a subquery", "SELECT id FROM base WHERE EXISTS (SELECT FROM lines WHERE n = base.id)", "UPDATE lines SET n = 5 WHERE id = 3", "changed since: work.lines"},
		{"upstream", "SELECT total FROM upstream", "REFRESH MATERIALIZED VIEW upstream", "changed since: work.upstream"},
		{"row security", "SELECT sum(n) FROM lines", "ALTER TABLE lines ENABLE ROW LEVEL SECURITY", "row security"},
		{"foreign child table", "SELECT count(*) FROM base", "CREATE FOREIGN TABLE far () INHERITS (base) SERVER files OPTIONS (program 'echo 8')", "it reads the foreign table work.far"},
		{"reset counters", "SELECT sum(n) FROM lines", "SELECT pg_stat_reset_single_table_counters('lines'::regclass)", "changed since: the server, work.lines"},
		{"reset of all", "SELECT sum(n) FROM lines", "SELECT pg_stat_reset()", "the server"},
		{"view itself", "SELECT sum(n) FROM lines", "REFRESH MATERIALIZED VIEW skips", "by somebody else"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.exec(t, "DROP SCHEMA IF EXISTS work CASCADE; CREATE SCHEMA work; SET search_path = work; "+lines+
				"CREATE VIEW between AS SELECT sum(n) AS total FROM lines; CREATE MATERIALIZED VIEW upstream AS SELECT sum(n) AS total FROM lines; "+
				"CREATE MATERIALIZED VIEW skips AS "+c.query)
			mustRefresh(t, pool, manual("work.upstream", refresh.Auto))
			mustNotSkip(t, pool, "work.skips", "")
			mustSkip(t, pool, "work.skips")
			w.exec(t, "INSERT INTO unread VALUES (1)")
			mustSkip(t, pool, "work.skips")
			w.exec(t, c.change)
			mustNotSkip(t, pool, "work.skips", c.why)
			switch c.name {
			case "row security", "foreign child table":
				mustNotSkip(t, pool, "work.skips", c.why)
			case "upstream": // whose as-of is not known any more, and so is that of what reads it
				mustNotSkip(t, pool, "work.skips", "its as-of is not known")
			default:
				mustSkip(t, pool, "work.skips")
			}
		})
	}
}

// A virtual column is computed when it is read, so that a new expression changes
// no row and no file.
func TestSkipNoticesVirtualColumns(t *testing.T) {
	if postgrestest.Version(t) < 180000 {
		t.Skip("virtual generated columns came with PostgreSQL 18")
	}
	db := installed(t)
	pool := db.Pool(t)
	w := writer{db.Connect(t)}
	w.exec(t, `CREATE TABLE prices (net int, gross int GENERATED ALWAYS AS (net * 2) VIRTUAL); INSERT INTO prices VALUES (1);
CREATE MATERIALIZED VIEW virtual AS SELECT gross FROM prices WITH NO DATA`)
	mustNotSkip(t, pool, "virtual", "")
	mustSkip(t, pool, "virtual")
	w.exec(t, "ALTER TABLE prices ALTER COLUMN gross SET EXPRESSION AS (net * 3)")
	mustNotSkip(t, pool, "virtual", "changed since: prices")
	mustSkip(t, pool, "virtual")
}

func TestSkipDoubts(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	pool := db.Pool(t)
	w := writer{db.Connect(t)}
	w.exec(t, `CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; CREATE SCHEMA work; SET search_path = work; `+lines+`
CREATE FUNCTION lookup(int) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT sum(n) FROM work.lines';
CREATE FUNCTION stepped(bigint, int) RETURNS bigint VOLATILE LANGUAGE internal AS 'int84pl';
CREATE AGGREGATE summed(int) (SFUNC = stepped, STYPE = bigint, INITCOND = 0);
CREATE FUNCTION wild(int, int) RETURNS bool VOLATILE LANGUAGE internal AS 'int4eq';
CREATE OPERATOR ==== (LEFTARG = int, RIGHTARG = int, FUNCTION = wild);
CREATE FOREIGN TABLE far (id int) SERVER files OPTIONS (program 'echo 8');
CREATE SEQUENCE numbers; CREATE UNLOGGED TABLE fleeting (id int); CREATE TABLE secret (id int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION nothing() RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE VIEW hidden AS SELECT random() AS r;
CREATE TABLE texts (s text, d date, ts timestamptz, f float8, hue color);`)
	for _, c := range []struct{ query, why string }{
		{"SELECT random() AS r", "it calls random(), which may give another result each time"},
		{"SELECT r FROM hidden", "it calls random(), which may give another result each time"},
		{"SELECT (SELECT max(id) FROM lines WHERE random() < 2) AS r", "it calls random()"},
		{"SELECT count(*) FROM lines WHERE at < now()", "it calls now(), whose result depends on more than the data"},
		{"SELECT current_date AS d", "it reads the current time or user"},
		{"SELECT count(*) FROM texts WHERE ts > d", "it calls timestamptz_gt_date(timestamp with time zone,date), whose result depends"},
		{"SELECT ts::text AS s FROM texts", "it calls timestamptz_out(timestamp with time zone)"},
		{"SELECT coalesce(ts, ts)::text AS s FROM texts", "it calls timestamptz_out(timestamp with time zone)"},
		{"SELECT ARRAY[ts]::text[] AS s FROM texts", "it calls timestamptz_out(timestamp with time zone)"},
		{"SELECT s::date AS d FROM texts", "it calls date_in(cstring)"},
		{"SELECT (max(ts) FILTER (WHERE f > 0))::text AS s FROM texts", "it calls timestamptz_out(timestamp with time zone)"},
		{"SELECT (SELECT ts FROM texts LIMIT 1)::text AS s FROM texts", "it casts a value of a type that is not known here"},
		{"SELECT to_tsvector('english', s) AS v FROM texts", "which depends on a text search configuration"},
		{"SELECT lookup(1) AS n", "it calls work.lookup(integer), written in sql, which may read tables"},
		{"SELECT summed(n) AS n FROM lines", "it calls work.stepped(bigint,integer), which may give"},
		{"SELECT count(*) FROM lines WHERE id ==== n", "it calls work.wild(integer,integer), which may give"},
		{"SELECT count(*) FROM lines ORDER BY (SELECT count(*) FROM nothing())", "it calls work.nothing(), which may give"},
		{"SELECT * FROM lines TABLESAMPLE system (50)", "it has a TABLESAMPLE"},
		{"SELECT last_value FROM numbers", "it reads the sequence work.numbers"},
		{"SELECT count(*) FROM fleeting", "it reads the unlogged table work.fleeting"},
		{"SELECT id FROM far", "it reads the foreign table work.far"},
		{"SELECT count(*) FROM secret", "it reads work.secret, whose row security"},
		{"SELECT relname FROM pg_class", "it reads the system catalog pg_catalog.pg_class"},
		{"SELECT table_name FROM information_schema.tables", "it reads the system catalog"},
		{"SELECT pid FROM pg_stat_activity", "it reads the system catalog"},
		{"SELECT ctid AS c FROM lines", "it reads a system column"},
		{"SELECT xmlelement(name a, s) AS x FROM texts", "it uses an XML function"},
	} {
		t.Run(c.query, func(t *testing.T) {
			w.exec(t, "DROP MATERIALIZED VIEW IF EXISTS doubtful; CREATE MATERIALIZED VIEW doubtful AS "+c.query+" WITH NO DATA")
			mustNotSkip(t, pool, "work.doubtful", c.why)
			mustNotSkip(t, pool, "work.doubtful", c.why)
		})
	}
	for _, query := range []string{
		"SELECT id::text AS s, ts FROM lines, texts", "SELECT f::int, hue::text, upper(s) AS u, s COLLATE \"C\" AS c FROM texts ORDER BY s",
		"WITH RECURSIVE q(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM q WHERE i < 3) SELECT q.i, count(*) OVER (PARTITION BY l.n) AS c FROM q LEFT JOIN lines AS l ON l.id = q.i",
		"SELECT hue, count(*), sum(n) FILTER (WHERE n > 1) AS s, array_agg(id ORDER BY id) AS ids FROM lines GROUP BY ROLLUP (hue) HAVING count(*) > 0",
		"SELECT id FROM lines UNION SELECT id FROM parted EXCEPT SELECT 3", "SELECT tableoid::regclass::oid AS o, CASE n WHEN 1 THEN 2 END AS c, nullif(n, 3) AS x, greatest(n, 2) AS g FROM lines",
		"SELECT id FROM lines WHERE id IN (SELECT id FROM parted) AND id NOT IN (SELECT 7) AND (id, n) <> ALL (SELECT 7, 8) AND n = ANY (SELECT n FROM lines)",
		"VALUES (1), (2)", "SELECT g FROM generate_series(1, 3) AS g",
	} {
		t.Run(query, func(t *testing.T) {
			w.exec(t, "DROP MATERIALIZED VIEW IF EXISTS sure; CREATE MATERIALIZED VIEW sure AS "+query+" WITH NO DATA")
			mustNotSkip(t, pool, "work.sure", "")
			mustSkip(t, pool, "work.sure")
		})
	}
}

// installOn makes the tables of matview on a server of a test's own.
func installOn(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := migrations.Apply(t.Context(), conn.Conn(), "public"); err != nil {
		t.Fatal(err)
	}
}
