package matview

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// A view and its indexes stay in their tablespaces whatever default_tablespace is. If
// the owner lacks CREATE there, that is an obstacle.
func TestTablespaces(t *testing.T) {
	db, tablespace := storageDatabase(t)
	admin, space := db.Pool(t), pgx.Identifier{tablespace}.Sanitize()
	owner, password := db.Role(t, "")
	db.Exec(t, "GRANT ALL ON SCHEMA public TO "+owner+"; GRANT SELECT ON jobs TO "+owner+"; GRANT CREATE ON TABLESPACE "+space+" TO "+owner)
	create(t, admin, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", Owner: owner, WithData: true})
	db.Exec(t, "CREATE INDEX here ON v (id); CREATE INDEX there ON v (id) TABLESPACE "+space+"; ALTER ROLE "+owner+" SET default_tablespace = "+space)
	pool, err := pgxpool.New(t.Context(), db.URLFor(owner, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	const where = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relname IN ('v', 'here', 'there') AND reltablespace = 0"
	for _, moved := range []string{"here v", "here"} {
		v := read(t, admin, Name{PublicSchema, "v"})
		if err := swap(t, pool, Swap{View: v}); err != nil {
			t.Fatal(err)
		}
		if got := value[string](t, admin, where); got != moved {
			t.Errorf("after a swap %q are in the database's tablespace, want %q", got, moved)
		}
		db.Exec(t, "ALTER MATERIALIZED VIEW v SET TABLESPACE "+space)
	}

	v := read(t, admin, Name{PublicSchema, "v"})
	db.Exec(t, "REVOKE ALL ON TABLESPACE "+space+" FROM "+owner)
	lacks := space + ", where role " + owner + " lacks CREATE (GRANT CREATE ON TABLESPACE " + space + " TO " + owner + ")"
	for _, test := range []struct {
		storage Storage
		want    []string
	}{
		{v.Storage, []string{"index there is in tablespace " + lacks, "it is in tablespace " + lacks}},
		{v.Storage.With(Storage{Tablespace: "pg_default"}), []string{"index there is in tablespace " + lacks}},
	} {
		if got, err := Obstacles(t.Context(), pool, v, nil, test.storage, nil); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("obstacles are %q, %v, want %q", got, err, test.want)
		}
	}

	db.Exec(t, "GRANT CREATE ON TABLESPACE "+space+" TO "+owner)
	err = change(t, pool, func(tx pgx.Tx) error {
		kept, err := Keep(t.Context(), tx, v, true)
		if err != nil {
			return err
		}
		if err := Drop(t.Context(), tx, v); err != nil {
			return err
		}
		spec := Spec{Name: v.Name, Definition: "SELECT id, name FROM jobs", Owner: owner, Storage: v.Storage, WithData: true}
		if err := Create(t.Context(), tx, spec); err != nil {
			return err
		}
		return kept.Restore(t.Context(), tx, read(t, tx, v.Name))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := value[string](t, admin, where), "here there"; got != want { // Lost names the index there
		t.Errorf("created again, %q are in the database's tablespace, want %q", got, want)
	}
}

// storageDatabase has a tablespace and an access method that are not the default.
func storageDatabase(t *testing.T) (db *postgrestest.Database, tablespace string) {
	t.Helper()
	if postgrestest.Version(t) < 150000 {
		t.Skip("creating a tablespace without a directory, and changing the access method in place, require PostgreSQL 15")
	}
	admin := postgrestest.New(t)
	tablespace = "ts " + admin.Name
	quoted := pgx.Identifier{tablespace}.Sanitize()
	conn := admin.Connect(t)
	for _, sql := range []string{"SET allow_in_place_tablespaces = on", "CREATE TABLESPACE " + quoted + " LOCATION ''"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	// Cleanups run in reverse order: the database that uses it is gone by then.
	t.Cleanup(func() {
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), "DROP TABLESPACE "+quoted); err != nil {
			t.Error(err)
		}
	})
	db = jobs(t)
	db.Exec(t, `CREATE ACCESS METHOD "Heap 2" TYPE TABLE HANDLER heap_tableam_handler`)
	return db, tablespace
}

func TestSwapKeepsStorage(t *testing.T) {
	db, tablespace := storageDatabase(t)
	pool := db.Pool(t)
	odd := Storage{Tablespace: tablespace, AccessMethod: "Heap 2"}
	plain := Storage{Tablespace: "pg_default", AccessMethod: "heap"}
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", Storage: odd, WithData: true, Indexes: map[string]Index{
		"there": {Keys: []string{"id"}, Tablespace: tablespace}, "here": {Keys: []string{"name"}},
	}})
	// The new default applies to new relations only.
	db.Exec(t, "ALTER DATABASE "+pgx.Identifier{db.Name}.Sanitize()+" SET default_tablespace = "+pgx.Identifier{tablespace}.Sanitize())
	pool = db.Pool(t)
	before := value[string](t, pool, catalogRowsSQL)
	if err := swap(t, pool, Swap{View: v}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, value[string](t, pool, catalogRowsSQL)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
	for _, want := range []Storage{plain, odd, plain} {
		v = read(t, pool, v.Name)
		if err := change(t, pool, func(tx pgx.Tx) error { return SetStorage(t.Context(), tx, v, want) }); err != nil {
			t.Fatal(err)
		}
		moved := read(t, pool, v.Name)
		if diff := cmp.Diff(want, moved.Storage); diff != "" || moved.OID != v.OID {
			t.Errorf("the view was not moved in place: %s", diff)
		}
		if diff := cmp.Diff(v.Indexes, moved.Indexes); diff != "" {
			t.Errorf("its indexes have changed:\n%s", diff)
		}
	}
	v = read(t, pool, v.Name)
	if err := swap(t, pool, Swap{View: v, Storage: odd}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, value[string](t, pool, catalogRowsSQL)); diff != "" {
		t.Errorf("storage given to the swap: changed:\n%s", diff)
	}
}

// Before PostgreSQL 15, the server would report a syntax error.
func TestAccessMethodInPlace(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs"})
	v.Major = 14
	err := change(t, pool, func(tx pgx.Tx) error { return SetStorage(t.Context(), tx, v, Storage{AccessMethod: "other"}) })
	if want := "changing the access method in place requires PostgreSQL 15 or later, but this is PostgreSQL 14"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}
