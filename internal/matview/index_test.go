package matview

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestSetIndexes(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	db.Exec(t, "INSERT INTO jobs SELECT i, 'x' FROM generate_series(1, 3) AS i")
	name := Name{PublicSchema, "v"}
	create(t, pool, Spec{Name: name, Definition: "SELECT id, name FROM jobs", WithData: true, Indexes: map[string]Index{
		"kept": {Keys: []string{"id"}}, "dropped": {Keys: []string{"name"}}, "changed": {Keys: []string{"id"}},
	}})
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), "CREATE UNIQUE INDEX CONCURRENTLY invalid ON v (name)"); err == nil {
		t.Fatal("a unique index on equal names was built")
	}
	v := read(t, pool, name)
	if v.SupportsConcurrentRefresh() {
		t.Error("an invalid index supports REFRESH CONCURRENTLY")
	}
	oids := "SELECT json_object_agg(indexrelid::regclass, indexrelid ORDER BY indexrelid::regclass::text)::text FROM pg_index WHERE indrelid = 'v'::regclass"
	kept := value[uint32](t, pool, "SELECT 'kept'::regclass::oid")
	want := map[string]Index{
		"kept": {Keys: []string{"id"}}, "changed": {Keys: []string{"id DESC"}, Unique: true}, "invalid": {Keys: []string{"name"}}, "added": {Keys: []string{"lower(name)"}},
	}
	err := change(t, pool, func(tx pgx.Tx) error { return SetIndexes(t.Context(), tx, v, want, []string{"changed"}) })
	if err != nil {
		t.Fatal(err)
	}
	v = read(t, pool, name)
	got, err := ReadIndexes(t.Context(), pool, v.OID)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range want {
		x.Method, x.Include = DefaultMethod, []string{}
		want[name] = x
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", diff, value[string](t, pool, oids))
	}
	if !v.SupportsConcurrentRefresh() || value[uint32](t, pool, "SELECT 'kept'::regclass::oid") != kept {
		t.Errorf("supports concurrent refresh: %v; the index to keep was rebuilt", v.SupportsConcurrentRefresh())
	}
}

// An option that the server does not know is not reported as a syntax error.
func TestNullsNotDistinct(t *testing.T) {
	pool := jobs(t).Pool(t)
	x := map[string]Index{"i": {Keys: []string{"id"}, Unique: true, NullsNotDistinct: true}}
	got, err := NormalizeIndexes(t.Context(), pool, Name{PublicSchema, "v"}, "SELECT 1 AS id", x)
	if postgrestest.Version(t) >= 150000 {
		if err != nil || !got["i"].NullsNotDistinct {
			t.Errorf("%v, %v", got, err)
		}
		return
	}
	if want := `create index "i" on v: nulls_not_distinct requires PostgreSQL 15 or later`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestIndexKeys(t *testing.T) {
	for _, c := range []struct {
		definition string
		want       []string
	}{
		{"CREATE INDEX i ON public.v USING btree (id)", []string{"id"}},
		{`CREATE UNIQUE INDEX "i(" ON public."v)" USING btree ("a,b" DESC, lower(c, 'x)''(') COLLATE "C", ((d + (1))), (ARRAY[a, b])) INCLUDE (e) WHERE (f > 1)`, []string{`"a,b" DESC`, `lower(c, 'x)''(') COLLATE "C"`, `((d + (1)))`, `(ARRAY[a, b])`}},
		{`CREATE INDEX i ON public.v USING gist (t public.gist_trgm_ops (siglen='32'), E'\\'::text)`, []string{"t public.gist_trgm_ops (siglen='32')", `E'\\'::text`}},
	} {
		got, err := indexKeys(c.definition)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.definition, diff)
		}
	}
	if _, err := indexKeys("nonsense ("); err == nil {
		t.Error("no error for nonsense")
	}
}

// With and without CONCURRENTLY, building an index makes every REFRESH wait and no
// reader: why SetIndexes does not use CONCURRENTLY.
func TestIndexBuildLocks(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", WithData: true, Indexes: map[string]Index{"u": {Keys: []string{"id"}, Unique: true}}})
	// The function blocks the build while another session holds the advisory lock.
	db.Exec(t, `INSERT INTO jobs VALUES (1); REFRESH MATERIALIZED VIEW v;
CREATE FUNCTION blocked(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN $1; END $$`)
	builder := db.Connect(t)
	for create, build := range map[string]func() error{
		"SetIndexes": func() error {
			v := read(t, pool, Name{PublicSchema, "v"})
			return change(t, pool, func(tx pgx.Tx) error {
				if err := Comment(t.Context(), tx, v.Name, "as an apply does first"); err != nil {
					return err
				}
				return SetIndexes(t.Context(), tx, v, map[string]Index{"a": {Keys: []string{"blocked(id)"}}, "u": {Keys: []string{"id"}, Unique: true}}, nil)
			})
		},
		"CONCURRENTLY": func() error {
			_, err := builder.Exec(t.Context(), "CREATE INDEX CONCURRENTLY b ON v (blocked(id))")
			return err
		},
	} {
		holder, other := db.Connect(t), db.Connect(t)
		if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(7)"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 2)
		go func() { done <- build() }()
		waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()", done)
		if _, err := other.Exec(t.Context(), "SET lock_timeout = '100ms'; SELECT * FROM v"); err != nil {
			t.Errorf("%s: a reader: %v", create, err)
		}
		for _, refresh := range []string{"REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW CONCURRENTLY v"} {
			if _, err := other.Exec(t.Context(), refresh); !IsLockTimeout(err) {
				t.Errorf("%s: %s: error %v, want a lock timeout", create, refresh, err)
			}
		}
		if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(7)"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", create, err)
		}
	}
}

// A REFRESH that starts while an index is built waits for the build. With
// CONCURRENTLY, the two deadlock.
func TestIndexBuildAndRefresh(t *testing.T) {
	for create, deadlock := range map[string]bool{"CREATE INDEX i ON v (blocked(id))": false, "CREATE INDEX CONCURRENTLY i ON v (blocked(id))": true} {
		t.Run(create, func(t *testing.T) {
			db := jobs(t)
			pool := db.Pool(t)
			db.Exec(t, `INSERT INTO jobs VALUES (1); CREATE MATERIALIZED VIEW v AS SELECT id FROM jobs;
CREATE FUNCTION blocked(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN $1; END $$`)
			holder := db.Connect(t)
			if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(7)"); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 2)
			builder, refresher := db.Connect(t), db.Connect(t)
			go func() { _, err := builder.Exec(t.Context(), create); done <- err }()
			waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()", done)
			go func() { _, err := refresher.Exec(t.Context(), "REFRESH MATERIALIZED VIEW v"); done <- err }()
			waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database()", done)
			if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(7)"); err != nil {
				t.Fatal(err)
			}
			err := errors.Join(<-done, <-done)
			if got := postgres.SQLState(err) == "40P01"; got != deadlock || !deadlock && err != nil {
				t.Errorf("error %v; want a deadlock: %t", err, deadlock)
			}
		})
	}
}

// ConcurrentIndexSQL agrees with the server on every kind of index.
func TestConcurrentIndex(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	db.Exec(t, "INSERT INTO jobs VALUES (1); CREATE MATERIALIZED VIEW v AS SELECT id, name FROM jobs")
	indexes := map[string]bool{
		"CREATE INDEX i ON v (id)":                       false,
		"CREATE UNIQUE INDEX i ON v (id)":                true,
		"CREATE UNIQUE INDEX i ON v (id DESC, name)":     true,
		"CREATE UNIQUE INDEX i ON v (id) INCLUDE (name)": true,
		"CREATE UNIQUE INDEX i ON v (id) WHERE id > 0":   false,
		"CREATE UNIQUE INDEX i ON v (abs(id))":           false,
		"CREATE UNIQUE INDEX i ON v (id, abs(id))":       false,
	}
	if postgrestest.Version(t) >= 180000 { // earlier servers cannot build the index
		db.Exec(t, `CREATE ACCESS METHOD "btree 2" TYPE INDEX HANDLER bthandler;
CREATE OPERATOR CLASS int_ops DEFAULT FOR TYPE int USING "btree 2" AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int)`)
		indexes[`CREATE UNIQUE INDEX i ON v USING "btree 2" (id)`] = true
	}
	for create, want := range indexes {
		db.Exec(t, create)
		if got := read(t, pool, Name{PublicSchema, "v"}).SupportsConcurrentRefresh(); got != want {
			t.Errorf("%s: SupportsConcurrentRefresh is %t, want %t", create, got, want)
		}
		if _, err := pool.Exec(t.Context(), "REFRESH MATERIALIZED VIEW CONCURRENTLY v"); (err == nil) != want {
			t.Errorf("%s: REFRESH CONCURRENTLY: %v, want success: %t", create, err, want)
		}
		db.Exec(t, "DROP INDEX i")
	}
}
