package matview

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A view and its indexes stay in their tablespaces, whatever default_tablespace
// is; if the owner may no longer create there, that is known before.
func TestTablespaces(t *testing.T) {
	db, tablespace := storages(t)
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
	if got, want := value[string](t, admin, where), "here there"; got != want { // there is named as lost
		t.Errorf("created again, %q are in the database's tablespace, want %q", got, want)
	}
}
