package migrations_test

import (
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

func TestInstallAndUninstall(t *testing.T) {
	db := postgrestest.New(t)
	conn := db.Connect(t)
	adopted, err := migrations.Install(t.Context(), conn, "app", installation(), migrations.Roles{})
	if err != nil {
		t.Fatal(err)
	}
	if adopted {
		t.Error("a log that it made counts as adopted")
	}
	got, err := store.New("app").HistoryRetention(t.Context(), conn)
	if err != nil || got != retention {
		t.Errorf("retention %v, error %v", got, err)
	}
	if adopted, err = migrations.Install(t.Context(), conn, "app", installation(), migrations.Roles{}); err != nil || !adopted {
		t.Errorf("adopted %v, error %v", adopted, err)
	}
	for _, dropLog := range []bool{false, true} {
		if err := migrations.Uninstall(t.Context(), conn, "app", migrations.Roles{}, dropLog); err != nil {
			t.Fatal(err)
		}
		left := value[string](t, db, `SELECT coalesce(string_agg(c.relname, ' '), '') FROM pg_class AS c
WHERE c.relnamespace = 'app'::regnamespace AND c.relkind <> 'i'`)
		if want := map[bool]string{false: store.LogTable}[dropLog]; left != want {
			t.Errorf("left are %q, want %q", left, want)
		}
		if n := value[int](t, db, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'app'::regnamespace"); n != 0 {
			t.Errorf("%d functions are left", n)
		}
	}
}

func TestUninstallWithDependents(t *testing.T) {
	db := installed(t)
	db.Exec(t, "CREATE VIEW dashboard AS SELECT view_name FROM materialized_view_freshness")
	err := migrations.Uninstall(t.Context(), db.Connect(t), "public", migrations.Roles{}, true)
	if err == nil || !strings.Contains(postgres.Message(err), "view dashboard depends on view materialized_view_freshness") {
		t.Fatalf("got %v, want an error that names the dependent", err)
	}
	wantVersion(t, db, "public", migrations.Version())
}
