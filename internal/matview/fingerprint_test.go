package matview

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const stateSQL = `CREATE TABLE materialized_view_refresh_log (view_name text PRIMARY KEY, last_refreshed_at timestamptz);
CREATE TABLE materialized_view_refresh_state (view_name text PRIMARY KEY, view_oid oid, view_filenode oid, view_xmin xid);
INSERT INTO materialized_view_refresh_log VALUES ('v'), ('w');
INSERT INTO materialized_view_refresh_state SELECT 'v', oid, relfilenode, xmin FROM pg_class WHERE relname = 'v'`

// The fingerprint stays valid after an ALTER by us, but not after a refresh by somebody
// else.
func TestFingerprint(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	owner, _ := db.Role(t, "")
	name := Name{PublicSchema, "v"}
	v := create(t, pool, Spec{Name: name, Definition: "SELECT id FROM jobs", WithData: true})
	if err := change(t, pool, func(tx pgx.Tx) error {
		intact, err := IsIntact(t.Context(), tx, PublicSchema, v.ID, v.OID)
		if intact {
			t.Error("intact without our tables")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, stateSQL+`; GRANT CREATE ON SCHEMA public TO `+owner+`; GRANT SELECT ON jobs TO `+owner)
	alter := func(from, to Name) (intact bool) {
		t.Helper()
		err := change(t, pool, func(tx pgx.Tx) (err error) {
			v := read(t, tx, from)
			if err := Comment(t.Context(), tx, from, "altered"); err != nil {
				return err
			}
			if intact, err = IsIntact(t.Context(), tx, PublicSchema, v.ID, v.OID); err != nil {
				return err
			}
			if err := SetOwner(t.Context(), tx, from, owner); err != nil {
				return err
			}
			if err := Rename(t.Context(), tx, from, to); err != nil {
				return err
			}
			if _, err := RenameRows(t.Context(), tx, PublicSchema, []string{from.Relation}, to.Relation); err != nil {
				return err
			}
			if !intact {
				return nil
			}
			return KeepIntact(t.Context(), tx, PublicSchema, to.Relation, v.OID)
		})
		if err != nil {
			t.Fatal(err)
		}
		return intact
	}
	w := Name{PublicSchema, "w"}
	if !alter(name, w) || !alter(w, name) {
		t.Error("not intact after changes of ours")
	}
	if rows := value[string](t, pool, "SELECT string_agg(view_name, ',') FROM materialized_view_refresh_log"); rows != "v" {
		t.Errorf("log rows: %s, want v", rows)
	}
	db.Exec(t, "REFRESH MATERIALIZED VIEW v")
	if alter(name, w) || alter(w, name) {
		t.Error("intact after a refresh by somebody else")
	}
}

// A role that may alter the view, but not write our tables, can still drop it.
func TestDeleteRowsWithoutPrivilege(t *testing.T) {
	db := jobs(t)
	create(t, db.Pool(t), Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs"})
	user, password := db.Role(t, "")
	db.Exec(t, stateSQL+"; GRANT SELECT, UPDATE, DELETE ON materialized_view_refresh_log TO "+user)
	pool, err := pgxpool.New(t.Context(), db.URLFor(user, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := change(t, pool, func(tx pgx.Tx) error {
		behind, err := DeleteRows(t.Context(), tx, PublicSchema, []string{"v"})
		if !slices.Equal(behind, []string{stateTable}) {
			t.Errorf("behind: %q, want the state table", behind)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
