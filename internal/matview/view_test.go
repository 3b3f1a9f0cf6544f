package matview

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// change calls do in a transaction as the provider does, and commits.
func change(t *testing.T, pool *pgxpool.Pool, do func(tx pgx.Tx) error) error {
	t.Helper()
	tx, err := Begin(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	defer rollback(t.Context(), tx)
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit(t.Context())
}

func create(t *testing.T, pool *pgxpool.Pool, spec Spec) *View {
	t.Helper()
	if err := change(t, pool, func(tx pgx.Tx) error { return Create(t.Context(), tx, spec) }); err != nil {
		t.Fatal(err)
	}
	return read(t, pool, spec.Name)
}

func read(t *testing.T, q postgres.Querier, name Name) *View {
	t.Helper()
	v, err := Read(t.Context(), q, name)
	if err != nil {
		t.Fatal(err)
	}
	if v == nil {
		t.Fatalf("there is no view %s", name)
	}
	return v
}

func value[T any](t *testing.T, q postgres.Querier, sql string, args ...any) (value T) {
	t.Helper()
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func TestOddNames(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	for _, schema := range oddNames {
		db.Exec(t, "CREATE SCHEMA "+pgx.Identifier{schema}.Sanitize())
	}
	for i, odd := range oddNames {
		name := Name{Schema: oddNames[len(oddNames)-1-i], Relation: odd}
		for _, data := range []bool{true, false} {
			index := []rune(odd)
			index[0] = 'I' // beside the view in one schema
			spec := Spec{
				Name: name, WithData: data, Comment: "of " + odd,
				Definition: "SELECT id AS " + pgx.Identifier{odd}.Sanitize() + ", name AS n FROM jobs; -- end",
				Indexes: map[string]Index{string(index): {
					Keys: []string{pgx.Identifier{odd}.Sanitize() + " DESC -- a comment", "lower(n)"}, Include: []string{odd}, Where: "n <> 'x' -- another",
				}},
			}
			v := create(t, pool, spec)
			if v.Name != name || v.Comment != spec.Comment || v.Populated != data || v.Columns[0].Name != odd || len(v.Indexes) != 1 {
				t.Errorf("%s was created as %+v", name, v)
			}
			if parsed, err := ParseName(v.ID); err != nil || parsed != name {
				t.Errorf("ParseName(%q) = %+v, %v, want %+v", v.ID, parsed, err, name)
			}
			stored, err := ReadIndexes(t.Context(), pool, v.OID)
			if err != nil {
				t.Fatal(err)
			}
			normal, err := NormalizeIndexes(t.Context(), pool, name, mustDefinition(t, pool, v), spec.Indexes)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(stored, normal); diff != "" || len(stored[string(index)].Keys) != 2 {
				t.Errorf("the index of %s differs in its normal form:\n%s", name, diff)
			}
			to := Name{Schema: PublicSchema, Relation: odd}
			err = change(t, pool, func(tx pgx.Tx) error {
				if err := Rename(t.Context(), tx, name, to); err != nil {
					return err
				}
				return Drop(t.Context(), tx, read(t, tx, to))
			})
			if err != nil {
				t.Errorf("rename and drop %s: %v", name, err)
			}
		}
	}
}

func mustDefinition(t *testing.T, db DB, v *View) string {
	t.Helper()
	definition, err := Definition(t.Context(), db, v.OID)
	if err != nil {
		t.Fatal(err)
	}
	return definition
}

// The stored definition of a view is the normal form of its query.
func TestStoredIsNormal(t *testing.T) {
	pool := jobs(t).Pool(t)
	for _, query := range []string{
		"SELECT * FROM jobs",
		"SELECT status, count(*) FILTER (WHERE id > 3) AS n FROM jobs GROUP BY ROLLUP (status) HAVING count(*) > 0",
		"WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) AS s FROM t",
		"SELECT j.*, o.size FROM jobs j LEFT JOIN LATERAL (SELECT sum(size) AS size FROM job_objects WHERE job_id = j.id) o ON true",
		"VALUES (1, 'a'), (2, 'b')",
		"SELECT id, row_number() OVER (PARTITION BY status ORDER BY created_at DESC NULLS LAST) AS r FROM jobs UNION SELECT 0, 0",
		`SELECT ARRAY[1, 2] AS a, '{"k": [1]}'::jsonb -> 'k' AS j, $$it's$$ AS d, E'\\n\n' AS e, name COLLATE "C" AS c FROM jobs`,
	} {
		for _, data := range []bool{true, false} {
			n, err := Normalize(t.Context(), pool, query)
			if err != nil {
				t.Fatal(err)
			}
			v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: query, WithData: data})
			if diff := cmp.Diff(n.Definition, mustDefinition(t, pool, v)); diff != "" {
				t.Errorf("%q, data %v:\n%s", query, data, diff)
			}
			if diff := cmp.Diff(n.Columns, v.Columns, cmpopts.IgnoreFields(Column{}, "Collation")); diff != "" {
				t.Errorf("columns of %q:\n%s", query, diff)
			}
			if err := change(t, pool, func(tx pgx.Tx) error { return Drop(t.Context(), tx, v) }); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A view is created as its owner, and the role of the session is restored.
func TestCreateAsOwner(t *testing.T) {
	db := jobs(t)
	owner, _ := db.Role(t, "")
	admin, password := db.Role(t, "IN ROLE "+owner)
	db.Exec(t, "GRANT CREATE, USAGE ON SCHEMA public TO "+owner+"; CREATE TABLE secret (id int)")
	pool, err := pgxpool.New(t.Context(), db.URLFor(admin, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	spec := Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", Owner: owner, Comment: "c", WithData: true}
	err = change(t, pool, func(tx pgx.Tx) error { return Create(t.Context(), tx, spec) })
	var sqlErr *SQLError
	if !errors.As(err, &sqlErr) || sqlErr.SQLState != "42501" {
		t.Errorf("error %v, want permission denied for the table", err)
	}
	db.Exec(t, "GRANT SELECT ON jobs TO "+owner)
	err = change(t, pool, func(tx pgx.Tx) error {
		if err := Create(t.Context(), tx, spec); err != nil {
			return err
		}
		if role := value[string](t, tx, "SELECT current_user::text"); role != admin {
			t.Errorf("the session goes on as %s, want %s", role, admin)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if v := read(t, pool, spec.Name); v.Owner != owner {
		t.Errorf("owner is %s, want %s", v.Owner, owner)
	}
}

func TestReplaceKeepsPrivileges(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	owner, _ := db.Role(t, "")
	granter, _ := db.Role(t, "")
	reader, _ := db.Role(t, "")
	other, _ := db.Role(t, "")
	db.Exec(t, `GRANT ALL ON SCHEMA public TO `+owner+`; GRANT SELECT ON jobs TO `+owner)
	name := Name{PublicSchema, "v"}
	old := create(t, pool, Spec{Name: name, Definition: "SELECT id, name, status FROM jobs", Owner: owner, WithData: true})
	db.Exec(t, `CREATE UNIQUE INDEX v_id ON v (id) WITH (fillfactor = 70);
GRANT SELECT ON v TO `+granter+` WITH GRANT OPTION; SET ROLE `+granter+`; GRANT SELECT ON v TO `+reader+`; GRANT SELECT (name) ON v TO `+other+`; RESET ROLE;
GRANT SELECT (status) ON v TO `+other+`; REVOKE TRUNCATE ON v FROM `+owner+`; GRANT TRIGGER ON v TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE `+owner+` GRANT INSERT ON TABLES TO `+other)
	before, err := readGrants(t.Context(), pool, old.OID)
	if err != nil {
		t.Fatal(err)
	}
	columns := []Column{{Name: "id", Type: "integer"}, {Name: "name", Type: "text"}}
	lost, err := Lost(t.Context(), pool, old, columns, false)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"the privileges of " + other + " on column status"}; !slices.Equal(lost, want) {
		t.Errorf("lost: %q, want %q", lost, want)
	}
	err = change(t, pool, func(tx pgx.Tx) error {
		kept, err := Keep(t.Context(), tx, old, true)
		if err != nil {
			return err
		}
		if err := Drop(t.Context(), tx, old); err != nil {
			return err
		}
		if err := Create(t.Context(), tx, Spec{Name: name, Definition: "SELECT name, id FROM jobs", Owner: owner, WithData: true}); err != nil {
			return err
		}
		return kept.Restore(t.Context(), tx, read(t, tx, name))
	})
	if err != nil {
		t.Fatal(err)
	}
	v := read(t, pool, name)
	after, err := readGrants(t.Context(), pool, v.OID)
	if err != nil {
		t.Fatal(err)
	}
	before = slices.DeleteFunc(before, func(g grant) bool { return g.Column == "status" })
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("privileges have changed:\n%s", diff)
	}
	if got := value[string](t, pool, "SELECT pg_get_indexdef('v_id'::regclass)"); !strings.HasSuffix(got, "USING btree (id) WITH (fillfactor='70')") {
		t.Errorf("the index is now %s", got)
	}
}

func TestLost(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", WithData: true, Indexes: map[string]Index{"v_id": {Keys: []string{"id"}}}})
	lost := func() []string {
		t.Helper()
		lost, err := Lost(t.Context(), pool, v, v.Columns, true)
		if err != nil {
			t.Fatal(err)
		}
		return lost
	}
	if got := lost(); len(got) > 0 {
		t.Errorf("a plain view would lose %q", got)
	}
	db.Exec(t, `COMMENT ON COLUMN v.name IS 'x'; COMMENT ON INDEX v_id IS 'x'; CREATE STATISTICS v_stats ON id, name FROM v;
ALTER MATERIALIZED VIEW v ALTER COLUMN id SET STATISTICS 500, ALTER COLUMN name SET STORAGE EXTERNAL, SET (fillfactor = 50, toast.autovacuum_enabled = off), CLUSTER ON v_id;
ALTER INDEX v_id SET (fillfactor = 60); ALTER TABLE v REPLICA IDENTITY FULL; CREATE INDEX v_up ON v (upper(name)); ALTER INDEX v_up ALTER COLUMN 1 SET STATISTICS 300;
ALTER MATERIALIZED VIEW v DEPENDS ON EXTENSION plpgsql; ALTER INDEX v_up DEPENDS ON EXTENSION plpgsql`)
	want := []string{
		"DEPENDS ON EXTENSION plpgsql",
		"DEPENDS ON EXTENSION plpgsql of index v_up",
		"REPLICA IDENTITY FULL",
		"extended statistics v_stats",
		"the comment on column name",
		"the comment on index v_id",
		"the mark of CLUSTER on index v_id",
		"the statistics target of index v_up",
		"the statistics target or options of column id",
		"the storage of column name",
	}
	if postgrestest.Version(t) >= 140000 {
		db.Exec(t, "ALTER TABLE v ALTER COLUMN name SET COMPRESSION pglz")
		want = append(want, "the compression of column name")
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, lost()); diff != "" {
		t.Error(diff)
	}
}

func TestDependents(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", WithData: true, Indexes: map[string]Index{"i": {Keys: []string{"id"}}}})
	if got, err := Dependents(t.Context(), pool, v.OID); err != nil || len(got) > 0 {
		t.Errorf("dependents of a new view: %q, %v", got, err)
	}
	db.Exec(t, `CREATE VIEW over AS SELECT * FROM v; CREATE MATERIALIZED VIEW "Mat" AS SELECT id FROM v; CREATE VIEW over_over AS SELECT * FROM over;
CREATE FUNCTION total(v) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE archive (c v[]);
CREATE RULE notes AS ON DELETE TO jobs DO ALSO SELECT * FROM v; ALTER EXTENSION plpgsql ADD MATERIALIZED VIEW v`)
	want := []string{
		"column c of table public.archive", "extension plpgsql", "function public.total(public.v)", `materialized view public."Mat"`, "rule notes on table public.jobs", "view public.over",
	}
	got, err := Dependents(t.Context(), pool, v.OID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	err = change(t, pool, func(tx pgx.Tx) error { return Drop(t.Context(), tx, v) })
	var dependents *DependentsError
	if !errors.As(err, &dependents) || len(dependents.Dependents) != len(want) {
		t.Errorf("Drop: %v, want a DependentsError", err)
	}
}

func TestCreateRefusesExisting(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	db.Exec(t, "CREATE VIEW v AS SELECT 1 AS a; CREATE MATERIALIZED VIEW m AS SELECT 1 AS a")
	for name, kind := range map[string]string{"jobs": "table", "v": "view", "m": "materialized view", "jobs_pkey": "index"} {
		err := change(t, pool, func(tx pgx.Tx) error {
			return Create(t.Context(), tx, Spec{Name: Name{PublicSchema, name}, Definition: "SELECT 1 AS a"})
		})
		var exists *ExistsError
		if !errors.As(err, &exists) || exists.Kind != kind {
			t.Errorf("Create %s: %v, want that a %s exists", name, err, kind)
		}
	}
}

func TestRename(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	db.Exec(t, `CREATE SCHEMA other; CREATE TABLE other.v (id int); CREATE TABLE taken (id int)`)
	create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs"})
	rename := func(from, to Name) error {
		return change(t, pool, func(tx pgx.Tx) error { return Rename(t.Context(), tx, from, to) })
	}
	var exists *ExistsError
	if err := rename(Name{PublicSchema, "v"}, Name{PublicSchema, "taken"}); !errors.As(err, &exists) {
		t.Errorf("rename to a name that is taken: %v", err)
	}
	// other.v exists, so the view is renamed first.
	if err := rename(Name{PublicSchema, "v"}, Name{"other", "w"}); err != nil {
		t.Fatal(err)
	}
	// public.w does not exist, so the schema is changed first.
	if err := rename(Name{"other", "w"}, Name{PublicSchema, "x"}); err != nil {
		t.Fatal(err)
	}
	read(t, pool, Name{PublicSchema, "x"})
}

// Read and other functions that a plan always calls do not wait for a refresh. Those
// that must wait give up after a second.
func TestReadDuringRefresh(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", Indexes: map[string]Index{"i": {Keys: []string{"abs(id)"}}}, WithData: true})
	db.Exec(t, "CREATE VIEW over AS SELECT * FROM v")
	if _, err := db.Connect(t).Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW v"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	again, err := Read(ctx, pool, v.Name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, again); diff != "" {
		t.Errorf("a refresh under way changes the view:\n%s", diff)
	}
	if _, err := Dependents(ctx, pool, v.OID); err != nil {
		t.Error(err)
	}
	if _, err := Lost(ctx, pool, v, v.Columns, true); err != nil {
		t.Error(err)
	}
	if _, err := Definition(ctx, pool, v.OID); !IsLockTimeout(err) {
		t.Errorf("Definition: %v, want a lock timeout", err)
	}
	if _, err := ReadIndexes(ctx, pool, v.OID); !IsLockTimeout(err) {
		t.Errorf("ReadIndexes: %v, want a lock timeout", err)
	}
}

func TestRefreshLeavesHashes(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT * FROM jobs", Indexes: map[string]Index{"i": {Keys: []string{"id"}, Unique: true}}, WithData: true})
	for _, sql := range []string{
		"REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW CONCURRENTLY v", "ANALYZE v; ANALYZE jobs", "REINDEX TABLE v", "GRANT SELECT ON v TO PUBLIC",
	} {
		db.Exec(t, sql)
		again := read(t, pool, v.Name)
		if diff := cmp.Diff(v, again); diff != "" {
			t.Errorf("after %s:\n%s", sql, diff)
		}
	}
	db.Exec(t, "ALTER TABLE jobs ADD COLUMN more int")
	if again := read(t, pool, v.Name); again.SourcesHash == v.SourcesHash || again.DefinitionHash != v.DefinitionHash {
		t.Errorf("after ADD COLUMN, sources %s -> %s, definition %s -> %s", v.SourcesHash, again.SourcesHash, v.DefinitionHash, again.DefinitionHash)
	}
}
