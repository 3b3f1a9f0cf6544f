package matview

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const exchangeTimeout = 10 * time.Second

// swap runs s in a transaction as the provider does.
func swap(t *testing.T, pool *pgxpool.Pool, s Swap) error {
	t.Helper()
	if s.Timeout == 0 {
		s.Timeout = exchangeTimeout
	}
	return change(t, pool, func(tx pgx.Tx) error {
		if err := Lock(t.Context(), tx, s.View.ID); err != nil {
			return err
		}
		return s.Run(t.Context(), tx)
	})
}

// catalogRowsSQL is everything in the catalog about the view v, its indexes and its
// dependents, except for OIDs, file nodes and the query.
const catalogRowsSQL = `
SELECT jsonb_pretty(jsonb_build_object(
    'view', (SELECT to_jsonb(c) - '{oid,relfilenode,reltype,reltoastrelid,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid,relhassubclass,relacl}'::text[] FROM pg_class AS c WHERE oid = 'v'::regclass),
    'acl', (SELECT jsonb_agg(a ORDER BY a::text) FROM pg_class AS c, unnest(c.relacl::text[]) AS a WHERE oid = 'v'::regclass),
    'toast', (SELECT reloptions FROM pg_class WHERE oid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'v'::regclass)),
    'columns', (SELECT jsonb_agg(to_jsonb(a) - '{attrelid,attacl,attoptions}'::text[] || jsonb_build_object('options', ` + columnOptionsSQL + `, 'acl', (SELECT jsonb_agg(x ORDER BY x::text) FROM unnest(a.attacl::text[]) AS x), 'comment', col_description(attrelid, attnum)) ORDER BY attnum)
                FROM pg_attribute AS a WHERE attrelid = 'v'::regclass AND attnum > 0),
    'comment', obj_description('v'::regclass),
    'indexes', (SELECT jsonb_agg(jsonb_build_array(pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class'), indisclustered, indisvalid, reltablespace,
                                 (SELECT jsonb_agg(attstattarget ORDER BY attnum) FROM pg_attribute WHERE attrelid = indexrelid)) ORDER BY relname)
                FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = 'v'::regclass),
    'statistics', (SELECT jsonb_agg(jsonb_build_array(pg_get_statisticsobjdef(oid), stxowner::regrole, stxstattarget, obj_description(oid, 'pg_statistic_ext'),
                                    EXISTS (SELECT FROM pg_statistic_ext_data WHERE stxoid = oid)) ORDER BY stxname) FROM pg_statistic_ext WHERE stxrelid = 'v'::regclass),
    'extensions', (SELECT jsonb_agg(jsonb_build_array(pg_describe_object(classid, objid, 0), refobjid) ORDER BY 1) FROM pg_depend
                   WHERE deptype = 'x' AND (objid = 'v'::regclass OR objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'v'::regclass))),
    'dependents', (SELECT jsonb_agg(jsonb_build_array(c.oid::regclass, relowner::regrole, reloptions, relacl::text, pg_get_viewdef(c.oid), obj_description(c.oid), pg_get_triggerdef(t.oid)) ORDER BY relname)
                   FROM pg_class AS c LEFT JOIN pg_trigger AS t ON t.tgrelid = c.oid WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace)))`

func TestSwapCarriesOver(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	owner, _ := db.Role(t, "")
	granter, _ := db.Role(t, "")
	reader, _ := db.Role(t, "")
	other, _ := db.Role(t, "")
	db.Exec(t, "GRANT ALL ON SCHEMA public TO "+owner+"; GRANT SELECT ON jobs TO "+owner)
	name := Name{PublicSchema, "v"}
	create(t, pool, Spec{Name: name, Definition: "SELECT id, name, status FROM jobs", Owner: owner, Comment: "it's v", WithData: true})
	db.Exec(t, `CREATE UNIQUE INDEX v_id ON v (id) WITH (fillfactor = 70); CREATE INDEX "V odd" ON v USING btree (lower(name) text_pattern_ops DESC) INCLUDE (id) WHERE status <> 'it''s';
COMMENT ON INDEX v_id IS 'the id'; ALTER INDEX "V odd" ALTER COLUMN 1 SET STATISTICS 300; CREATE INDEX v_brin ON v USING brin (id) WITH (pages_per_range = 4);
COMMENT ON COLUMN v.name IS 'the name'; CREATE STATISTICS v_stats (dependencies, mcv) ON id, name FROM v; COMMENT ON STATISTICS v_stats IS 'st'; ALTER STATISTICS v_stats SET STATISTICS 77;
ALTER MATERIALIZED VIEW v ALTER COLUMN id SET STATISTICS 500, ALTER COLUMN id SET (n_distinct = -0.5, n_distinct_inherited = 3), ALTER COLUMN name SET STORAGE EXTERNAL,
    SET (autovacuum_enabled = off, fillfactor = 50, toast.autovacuum_vacuum_scale_factor = 0.5), CLUSTER ON v_id;
ALTER TABLE v REPLICA IDENTITY FULL;
ALTER MATERIALIZED VIEW v DEPENDS ON EXTENSION plpgsql; ALTER INDEX v_id DEPENDS ON EXTENSION plpgsql;
GRANT SELECT ON v TO `+granter+` WITH GRANT OPTION; SET ROLE `+granter+`; GRANT SELECT ON v TO `+reader+`; GRANT SELECT (name) ON v TO `+other+`; RESET ROLE;
GRANT SELECT (status) ON v TO `+other+`; REVOKE TRUNCATE ON v FROM `+owner+`; GRANT TRIGGER ON v TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE `+owner+` GRANT INSERT ON TABLES TO `+other+`;
CREATE VIEW a AS SELECT * FROM v; CREATE VIEW "B b" WITH (security_barrier) AS SELECT id, name AS "v" FROM v AS x WHERE id > 0; CREATE VIEW c AS SELECT a.id FROM a JOIN v USING (id);
CREATE VIEW w AS SELECT row_to_json(v) AS j FROM v; CREATE VIEW over_a AS SELECT * FROM a;
GRANT SELECT ON a TO `+reader+`; GRANT SELECT (id) ON "B b" TO `+reader+`; COMMENT ON VIEW a IS 'a'; ALTER VIEW a ALTER COLUMN name SET DEFAULT 'x'; ALTER VIEW a OWNER TO `+owner+`;
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER tr INSTEAD OF INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()`)
	if postgrestest.Version(t) >= 140000 {
		db.Exec(t, `ALTER TABLE v ALTER COLUMN status SET COMPRESSION pglz; CREATE STATISTICS v_expr ON lower(name), status FROM v`)
	}
	if postgrestest.Version(t) >= 150000 {
		db.Exec(t, `ALTER VIEW a SET (security_invoker = true)`)
	}
	db.Exec(t, "ANALYZE v")
	old := read(t, pool, name)
	before := value[string](t, pool, catalogRowsSQL)
	for _, definition := range []string{"", "SELECT id, name, status FROM jobs WHERE id > 1"} {
		if err := swap(t, pool, Swap{View: old, Definition: definition}); err != nil {
			t.Fatal(err)
		}
		v := read(t, pool, name)
		if v.OID == old.OID {
			t.Error("it is the same view")
		}
		old = v
		if diff := cmp.Diff(before, value[string](t, pool, catalogRowsSQL)); diff != "" {
			t.Errorf("definition %q: changed:\n%s", definition, diff)
		}
	}
	if left := value[int](t, pool, `SELECT count(*) FROM pg_class WHERE relname LIKE 'matview\_%'`); left > 0 {
		t.Errorf("%d relations are left behind", left)
	}
}

func TestSwapObstacles(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name, status, status AS kind FROM jobs", WithData: true})
	db.Exec(t, `CREATE VIEW over AS SELECT id, name FROM v; CREATE MATERIALIZED VIEW "Mat" AS SELECT id FROM v; CREATE VIEW whole AS SELECT v FROM v;
CREATE FUNCTION total(v) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE archive (c v[]); CREATE DOMAIN dom AS v; CREATE TYPE comp AS (c v);
CREATE RULE notes AS ON DELETE TO jobs DO ALSO SELECT * FROM v; ALTER TABLE jobs ENABLE ROW LEVEL SECURITY; CREATE POLICY pol ON jobs USING (id IN (SELECT v.id FROM v));
CREATE INDEX v_status ON v (status); CREATE STATISTICS v_stats ON id, status FROM v; CREATE VIEW collated AS SELECT kind FROM v;
ALTER EXTENSION plpgsql ADD MATERIALIZED VIEW v`)
	if _, err := db.Connect(t).Exec(t.Context(), "CREATE TEMP VIEW mine AS SELECT 1 AS a FROM v"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"column c of composite type public.comp depends on it",
		"column c of table public.archive depends on it",
		"function public.total(public.v) depends on it",
		"index public.v_status uses column status, which the new definition does not return",
		"it is a member of extension plpgsql",
		`materialized view public."Mat" depends on it`,
		"policy pol on table public.jobs depends on it",
		"rule notes on table public.jobs depends on it",
		"statistics object public.v_stats uses column status, which the new definition does not return",
		"type public.dom depends on it",
		"view mine, a temporary view of another session",
		`view public.collated uses column kind, whose type changes from text to text COLLATE "C"`,
		"view public.over uses column id, whose type changes from integer to bigint",
		"view public.over uses column name, which the new definition does not return",
		"column v of view public.whole depends on it",
	}
	if postgrestest.Version(t) >= 140000 {
		db.Exec(t, "CREATE FUNCTION atomic() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM v; END")
		want = append(want, "function public.atomic() depends on it")
	}
	sorted := func(lines []string) map[string]bool {
		set := map[string]bool{}
		for _, line := range lines {
			// The name of another session's temporary schema differs each time.
			if i := strings.Index(line, "mine"); i >= 0 {
				line = "view " + line[i:]
			}
			set[line] = true
		}
		return set
	}
	definition, err := Normalize(t.Context(), pool, `SELECT id::bigint, status COLLATE "C" AS kind FROM jobs`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Obstacles(t.Context(), pool, v, definition.Columns, v.Storage, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Error(diff)
	}
	var obstacles *ObstaclesError
	if err := swap(t, pool, Swap{View: v}); !errors.As(err, &obstacles) {
		t.Errorf("Run: %v, want an ObstaclesError", err)
	}
	if again := read(t, pool, v.Name); again.OID != v.OID {
		t.Error("it was replaced")
	}
}

func TestSwapObstaclesRoles(t *testing.T) {
	db := jobs(t)
	owner, _ := db.Role(t, "")
	stranger, _ := db.Role(t, "")
	admin, password := db.Role(t, "IN ROLE "+owner)
	db.Exec(t, "GRANT ALL ON SCHEMA public TO "+owner+","+stranger+"; GRANT SELECT ON jobs TO "+owner)
	v := create(t, db.Pool(t), Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", Owner: owner, WithData: true})
	db.Exec(t, "GRANT SELECT ON v TO "+stranger+" WITH GRANT OPTION; SET ROLE "+stranger+"; GRANT SELECT ON v TO PUBLIC; CREATE VIEW theirs AS SELECT id FROM v; RESET ROLE; REVOKE CREATE ON SCHEMA public FROM "+owner+", PUBLIC")
	pool, err := pgxpool.New(t.Context(), db.URLFor(admin, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	got, err := Obstacles(t.Context(), pool, v, nil, v.Storage, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		fmt.Sprintf("it is in schema public, where role %s lacks CREATE (GRANT CREATE ON SCHEMA public TO %[1]s)", owner),
		fmt.Sprintf("some privileges on it were granted by role %[1]s, of which %[2]s is not a member (GRANT %[1]s TO %[2]s)", stranger, admin),
		fmt.Sprintf("view public.theirs belongs to role %[1]s, of which %[2]s is not a member (GRANT %[1]s TO %[2]s)", stranger, admin),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	db.Exec(t, "DROP VIEW theirs; REVOKE ALL ON v FROM "+stranger+" CASCADE; GRANT CREATE ON SCHEMA public TO "+owner)
	if err := swap(t, pool, Swap{View: v, Definition: "SELECT id, 1 AS one FROM jobs"}); err != nil {
		t.Errorf("a member of the owner's role: %v", err)
	}
}

// A missing privilege is found before anything is built, and none is reported if the
// swap succeeds.
func TestSwapObstaclesPrivileges(t *testing.T) {
	for name, test := range map[string]struct {
		setup, want string
		since       int
	}{
		"no INHERIT": {
			setup: "ALTER ROLE login NOINHERIT; GRANT owner TO login",
			want:  "it belongs to role owner, of which login is a member without INHERIT (INHERITS)",
		},
		"no SET": {
			setup: "GRANT owner TO login WITH SET FALSE", since: 160000,
			want: "it belongs to role owner, of which login is a member without SET (GRANT owner TO login WITH SET TRUE)",
		},
		"grantor without SET": {
			setup: "GRANT owner TO login; GRANT other TO login WITH SET FALSE; GRANT SELECT ON v TO other WITH GRANT OPTION; SET ROLE other; GRANT SELECT ON v TO PUBLIC", since: 160000,
			want: "some privileges on it were granted by role other, of which login is a member without SET (GRANT other TO login WITH SET TRUE)",
		},
		"statistics of another": {
			setup: "GRANT owner TO login; CREATE STATISTICS s ON id, name FROM v; GRANT CREATE ON SCHEMA public TO other; ALTER STATISTICS s OWNER TO other",
			want:  "statistics object public.s belongs to role other, of which login is not a member (GRANT other TO login)",
		},
		"statistics of another who may no longer create": {
			setup: "GRANT owner, other TO login; CREATE STATISTICS s ON id, name FROM v; ALTER STATISTICS s OWNER TO other",
			want:  "statistics object public.s is in schema public, where role other lacks CREATE (GRANT CREATE ON SCHEMA public TO other)",
		},
		"the same for a superuser": {
			setup: "ALTER ROLE login SUPERUSER; CREATE STATISTICS s ON id, name FROM v; ALTER STATISTICS s OWNER TO other",
		},
		"statistics elsewhere": {
			setup: "GRANT owner TO login; CREATE SCHEMA elsewhere; GRANT USAGE ON SCHEMA elsewhere TO owner; CREATE STATISTICS elsewhere.s ON id, name FROM v; ALTER STATISTICS elsewhere.s OWNER TO owner",
			want:  "statistics object elsewhere.s is in schema elsewhere, where role owner lacks CREATE (GRANT CREATE ON SCHEMA elsewhere TO owner)",
		},
		"view elsewhere": {
			setup: "GRANT owner TO login; CREATE SCHEMA elsewhere; GRANT CREATE ON SCHEMA elsewhere TO owner; CREATE VIEW elsewhere.over AS SELECT id FROM v; ALTER VIEW elsewhere.over OWNER TO owner",
			want:  "view elsewhere.over is in schema elsewhere, where role login lacks USAGE (GRANT USAGE ON SCHEMA elsewhere TO login)",
		},
		"all there is": {
			setup: `GRANT owner, other TO login; CREATE SCHEMA elsewhere; GRANT ALL ON SCHEMA elsewhere TO owner, other;
CREATE VIEW elsewhere.over AS SELECT id FROM v; ALTER VIEW elsewhere.over OWNER TO other; CREATE STATISTICS elsewhere.s ON id, name FROM v; ALTER STATISTICS elsewhere.s OWNER TO other;
GRANT SELECT ON v TO other WITH GRANT OPTION; SET ROLE other; GRANT SELECT ON v TO PUBLIC`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if postgrestest.Version(t) < test.since {
				return
			}
			db := jobs(t)
			owner, _ := db.Role(t, "")
			other, _ := db.Role(t, "")
			login, password := db.Role(t, "")
			db.Exec(t, "REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO "+owner+"; GRANT SELECT ON jobs TO "+owner)
			v := create(t, db.Pool(t), Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", Owner: owner, WithData: true})
			roles := []string{"owner", owner, "other", other, "login", login}
			if _, err := db.Connect(t).Exec(t.Context(), strings.NewReplacer(roles...).Replace(test.setup)); err != nil {
				t.Fatal(err)
			}
			pool, err := pgxpool.New(t.Context(), db.URLFor(login, password))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			got, err := Obstacles(t.Context(), pool, v, nil, v.Storage, nil)
			if err != nil {
				t.Fatal(err)
			}
			inherits := "ALTER ROLE login INHERIT"
			if postgrestest.Version(t) >= 160000 {
				inherits = "GRANT owner TO login WITH INHERIT TRUE"
			}
			want := strings.NewReplacer(roles...).Replace(strings.ReplaceAll(test.want, "INHERITS", inherits))
			if strings.Join(got, "; ") != want {
				t.Errorf("obstacles are %q, want %q", got, want)
			}
			// What it says to do helps.
			if _, remedy, found := strings.Cut(strings.TrimSuffix(want, ")"), " ("); found {
				db.Exec(t, remedy)
				if got, err := Obstacles(t.Context(), pool, v, nil, v.Storage, nil); err != nil || len(got) > 0 {
					t.Errorf("after %s, obstacles are %q, %v", remedy, got, err)
				}
			}
			if test.want == "" {
				if err := swap(t, pool, Swap{View: v}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSwapOddNames(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	for _, odd := range oddNames {
		schema := pgx.Identifier{odd}.Sanitize()
		db.Exec(t, "CREATE SCHEMA "+schema)
		index := []rune(odd)
		index[0] = 'I'
		name := Name{Schema: odd, Relation: odd}
		v := create(t, pool, Spec{
			Name: name, WithData: true, Comment: odd, Definition: "SELECT id AS " + schema + ", name FROM jobs",
			Indexes: map[string]Index{string(index): {Keys: []string{schema}}},
		})
		index[0] = 'S'
		db.Exec(t, "CREATE VIEW "+Name{odd, string(index)}.SQL()+" AS SELECT * FROM "+name.SQL()+"; CREATE STATISTICS "+Name{odd, string(index)}.SQL()+" ON "+schema+", name FROM "+name.SQL())
		if err := swap(t, pool, Swap{View: v, Definition: "SELECT id AS " + schema + ", name, 1 AS one FROM jobs; -- end"}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again := read(t, pool, name)
		if again.Comment != odd || len(again.Columns) != 3 || len(again.Indexes) != 1 || again.Indexes[0].Name != v.Indexes[0].Name {
			t.Errorf("%s has become %+v", name, again)
		}
	}
}

// Other readers do not wait while a swap tries to exchange a view that a long reader
// uses, and nothing has changed if it gives up.
func TestSwapUnderLongReader(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", WithData: true, Indexes: map[string]Index{"v_id": {Keys: []string{"id"}}}})
	db.Exec(t, "CREATE VIEW over AS SELECT * FROM v")
	reader := db.Connect(t)
	if _, err := reader.Exec(t.Context(), "BEGIN; SELECT * FROM over"); err != nil {
		t.Fatal(err)
	}
	before := value[string](t, pool, catalogRowsSQL)
	ctx, cancel := context.WithCancel(t.Context())
	slowest := make(chan time.Duration)
	go func() { slowest <- slowestRead(ctx, db.URL(), "SELECT count(*) FROM over") }()
	err := swap(t, pool, Swap{View: v, Definition: "SELECT id, name FROM jobs", Timeout: time.Second})
	cancel()
	stall := <-slowest
	var exchange *ExchangeError
	if !errors.As(err, &exchange) || !IsLockTimeout(err) || exchange.Attempts < 3 {
		t.Fatalf("error %v, want an ExchangeError after some attempts", err)
	}
	if stall > 500*time.Millisecond { // of the second that the swap tried
		t.Errorf("another reader waited for %s", stall)
	}
	if diff := cmp.Diff(v, read(t, pool, v.Name)); diff != "" {
		t.Errorf("it gave up, but the view has changed:\n%s", diff)
	}
	if diff := cmp.Diff(before, value[string](t, pool, catalogRowsSQL)); diff != "" {
		t.Errorf("it gave up, but something has changed:\n%s", diff)
	}
	done := make(chan error, 2)
	go func() {
		done <- swap(t, pool, Swap{View: v, Definition: "SELECT id, name FROM jobs", Timeout: time.Minute})
	}()
	waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()", done)
	if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("when the reader has gone: %v", err)
	}
}

// slowestRead reads until ctx is done. It returns an hour if a read failed.
func slowestRead(ctx context.Context, url, sql string) (slowest time.Duration) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return time.Hour
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for ctx.Err() == nil {
		start := time.Now()
		if _, err := conn.Exec(context.WithoutCancel(ctx), sql); err != nil {
			return time.Hour
		}
		slowest = max(slowest, time.Since(start))
	}
	return slowest
}

// A privilege granted while the replacement is built or exchanged is not lost.
func TestSwapDuringGrant(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	reader, _ := db.Role(t, "")
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", WithData: true})
	for _, grant := range []string{"GRANT SELECT ON v TO " + reader, "GRANT UPDATE (name) ON v TO " + reader} {
		granter := db.Connect(t)
		if _, err := granter.Exec(t.Context(), "BEGIN; "+grant); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 2)
		go func() { done <- swap(t, pool, Swap{View: v}) }()
		waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()", done)
		if _, err := granter.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatalf("%s: %v", grant, err)
		}
		again := read(t, pool, v.Name)
		if again.OID == v.OID {
			t.Errorf("%s: it was not swapped", grant)
		}
		v = again
	}
	if got := value[string](t, pool, "SELECT has_table_privilege($1, 'v', 'SELECT') || ' ' || has_column_privilege($1, 'v', 'name', 'UPDATE')", reader); got != "true true" {
		t.Errorf("privileges are %s, want true true", got)
	}
}

// An index created while the replacement is built would be lost, so the swap fails.
func TestSwapDuringCreateIndex(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", WithData: true})
	started := func(context.Context) error { return nil }
	err := swap(t, pool, Swap{View: v, Started: started})
	if err != nil {
		t.Fatal(err)
	}
	v = read(t, pool, v.Name)
	// The index build waits for nobody, and commits while the query sleeps.
	db.Exec(t, `CREATE FUNCTION waits() RETURNS int LANGUAGE plpgsql VOLATILE AS $$
BEGIN WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'late') LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN 1; END $$`)
	done := make(chan error, 2)
	go func() {
		done <- swap(t, pool, Swap{View: v, Definition: "SELECT 1 AS id, public.waits() AS w"})
	}()
	waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND state = 'active' AND datname = current_database()", done)
	db.Exec(t, "CREATE INDEX late ON v (id)")
	var changed *ChangedError
	if err := <-done; !errors.As(err, &changed) {
		t.Errorf("error %v, want a ChangedError", err)
	}
	if len(read(t, pool, v.Name).Indexes) != 1 {
		t.Error("the index is gone")
	}
}

// waitFor waits until a count is not 0. It fails if done receives before.
func waitFor(t *testing.T, pool *pgxpool.Pool, sql string, done chan error) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for value[int](t, pool, sql) == 0 {
		select {
		case err := <-done:
			t.Fatalf("ended before %s: %v", sql, err)
		case <-deadline:
			t.Fatalf("timed out waiting for %s", sql)
		default:
		}
	}
}
