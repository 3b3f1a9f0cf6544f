package matview

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

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
		t.Errorf("supports concurrent refresh: %v; an index that was to be kept was built again", v.SupportsConcurrentRefresh())
	}
}

// What a server does not know is no mistake in the user's SQL.
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
	if want := `create index "i" on v: nulls_not_distinct takes PostgreSQL 15 or later`; err == nil || err.Error() != want {
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
