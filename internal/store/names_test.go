package store_test

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

// recorded is a database with a view v that our tables have recorded.
func recorded(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "recorded", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `
CREATE TABLE jobs AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW v AS SELECT id FROM jobs;
INSERT INTO materialized_view_refresh_log VALUES ('v', now()), ('w', now());
INSERT INTO materialized_view_refresh_state (view_name, view_oid, view_filenode, view_xmin) SELECT 'v', oid, relfilenode, xmin FROM pg_class WHERE relname = 'v'`)
		return err
	})
}

// inTransaction commits what do does.
func inTransaction(t *testing.T, conn *pgx.Conn, do func(tx pgx.Tx) error) {
	t.Helper()
	if err := pgx.BeginFunc(t.Context(), conn, do); err != nil {
		t.Fatal(err)
	}
}

// The fingerprint outlives an ALTER of ours, and nobody else's.
func TestFingerprint(t *testing.T) {
	db := recorded(t)
	tables := store.New("public")
	owner, _ := db.Role(t, "")
	db.Exec(t, "GRANT CREATE ON SCHEMA public TO "+owner+"; GRANT SELECT ON jobs TO "+owner)
	conn := db.Connect(t)
	alter := func(from, to string) (intact bool) {
		t.Helper()
		inTransaction(t, conn, func(tx pgx.Tx) error {
			before, after := matview.Name{Schema: "public", Relation: from}, matview.Name{Schema: "public", Relation: to}
			v, err := matview.Read(t.Context(), tx, before)
			if err != nil {
				return err
			}
			if err := matview.Comment(t.Context(), tx, before, "altered"); err != nil {
				return err
			}
			if intact, err = tables.IsIntact(t.Context(), tx, v.ID, v.OID); err != nil {
				return err
			}
			if err := matview.SetOwner(t.Context(), tx, before, owner); err != nil {
				return err
			}
			if err := matview.Rename(t.Context(), tx, before, after); err != nil {
				return err
			}
			if _, err := tables.RenameRows(t.Context(), tx, []string{from}, to); err != nil {
				return err
			}
			if !intact {
				return nil
			}
			return tables.KeepIntact(t.Context(), tx, to, v.OID)
		})
		return intact
	}
	if !alter("v", "w") || !alter("w", "v") {
		t.Error("not intact after changes of ours")
	}
	var rows string
	if err := conn.QueryRow(t.Context(), "SELECT string_agg(view_name, ',') FROM materialized_view_refresh_log").Scan(&rows); err != nil || rows != "v" {
		t.Errorf("log rows: %s, want v; %v", rows, err)
	}
	db.Exec(t, "REFRESH MATERIALIZED VIEW v")
	if alter("v", "w") || alter("w", "v") {
		t.Error("intact after a refresh by somebody else")
	}
}

func TestIntactWithoutTables(t *testing.T) {
	inTransaction(t, postgrestest.New(t).Connect(t), func(tx pgx.Tx) error {
		intact, err := store.New("public").IsIntact(t.Context(), tx, "v", 1)
		if intact {
			t.Error("intact although nothing is installed")
		}
		return err
	})
}

// A role that may alter the view and may not write our tables can still drop it.
func TestRowsOfOthers(t *testing.T) {
	db := recorded(t)
	user, password := db.Role(t, "")
	db.Exec(t, "GRANT SELECT, UPDATE, DELETE ON materialized_view_refresh_log TO "+user)
	conn, err := pgx.Connect(t.Context(), db.URLFor(user, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	inTransaction(t, conn, func(tx pgx.Tx) error {
		unchanged, err := store.New("public").DeleteRows(t.Context(), tx, []string{"v"})
		if !slices.Equal(unchanged, []string{store.StateTable}) {
			t.Errorf("unchanged: %q, want the state table", unchanged)
		}
		return err
	})
}
