package migrations_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

func track(t *testing.T, db *postgrestest.Database, schema string, on bool) {
	t.Helper()
	if err := migrations.Track(t.Context(), db.Connect(t), schema, on); err != nil {
		t.Fatal(err)
	}
}

func wantTracking(t *testing.T, db *postgrestest.Database, schema string, want bool) {
	t.Helper()
	got, err := migrations.Tracking(t.Context(), db.Connect(t), schema)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("tracking in schema %s is %t", schema, got)
	}
}

func TestTrackStaysAsItIs(t *testing.T) {
	db := installed(t)
	wantTracking(t, db, "public", false)
	track(t, db, "public", true)
	wantTracking(t, db, "public", true)
	apply(t, db, "public")
	wantTracking(t, db, "public", true)
	track(t, db, "public", false)
	wantTracking(t, db, "public", false)
	apply(t, db, "public")
	wantTracking(t, db, "public", false)
	if n := value[int](t, db, "SELECT count(*) FROM pg_event_trigger"); n != 0 {
		t.Errorf("%d event triggers are left", n)
	}
}

func TestTrackIsRepaired(t *testing.T) {
	for _, damage := range []string{
		"DROP EVENT TRIGGER materialized_view_refresh_tracked",
		"ALTER EVENT TRIGGER materialized_view_refresh_tracked DISABLE",
		"ALTER EVENT TRIGGER materialized_view_refresh_tracked ENABLE REPLICA",
		"ALTER EVENT TRIGGER materialized_view_refresh_tracked RENAME TO other; ALTER EVENT TRIGGER other ENABLE",
		"DROP FUNCTION materialized_view_refresh_tracked() CASCADE",
		"DROP FUNCTION materialized_view_refresh_record_external(oid, oid, jsonb)",
		"DROP EVENT TRIGGER materialized_view_refresh_tracked; CREATE EVENT TRIGGER materialized_view_refresh_tracked ON ddl_command_start EXECUTE FUNCTION materialized_view_refresh_tracked()",
	} {
		t.Run(damage, func(t *testing.T) {
			db := installed(t)
			track(t, db, "public", true)
			db.Exec(t, damage)
			wantTracking(t, db, "public", false)
			apply(t, db, "public")
			wantTracking(t, db, "public", true)
			if n := value[int](t, db, "SELECT count(*) FROM pg_event_trigger"); n != 1 {
				t.Errorf("%d event triggers", n)
			}
		})
	}
}

// Two installations in one database, each with its own trigger.
func TestTrackInTwoSchemas(t *testing.T) {
	db := postgrestest.New(t)
	const other = `It's "My.Schema"`
	for _, schema := range []string{"public", other} {
		track(t, db, schema, true)
	}
	db.Exec(t, "CREATE MATERIALIZED VIEW v AS SELECT 1; REFRESH MATERIALIZED VIEW v")
	for _, schema := range []string{"public", other} {
		n := value[int](t, db, "SELECT count(*) FROM "+pgx.Identifier{schema, "materialized_view_freshness"}.Sanitize()+" WHERE data_as_of IS NOT NULL")
		if n != 1 {
			t.Errorf("%s: %d views of known age", schema, n)
		}
	}
	if err := migrations.Uninstall(t.Context(), db.Connect(t), "public", migrations.Roles{}, true); err != nil {
		t.Fatal(err)
	}
	wantTracking(t, db, other, true)
	db.Exec(t, "REFRESH MATERIALIZED VIEW v")
}

func TestTrackWithoutTheRight(t *testing.T) {
	db := postgrestest.New(t)
	role, password := db.Role(t, "")
	db.Exec(t, "GRANT ALL ON SCHEMA public TO "+role)
	conn := as(t, db, role, password).conn
	want := installation()
	want.TrackExternal = true
	_, err := migrations.Install(t.Context(), conn, "public", want, migrations.Roles{})
	if postgres.SQLState(err) != "MV001" || !strings.Contains(postgres.Message(err), "Do this once as a superuser (on Amazon RDS and Aurora, as the master user or another member of rds_superuser)") {
		t.Fatalf("got %v", err)
	}
	t.Log(postgres.Message(err))
	if n := value[int](t, db, "SELECT count(*) FROM pg_class WHERE relname LIKE 'materialized_view_%'"); n != 0 {
		t.Errorf("%d relations are left of a failed installation", n)
	}
	// Without it the same role installs, a superuser adds the trigger, and the
	// role goes on.
	want.TrackExternal = false
	if _, err := migrations.Install(t.Context(), conn, "public", want, migrations.Roles{}); err != nil {
		t.Fatal(err)
	}
	track(t, db, "public", true)
	if err := migrations.Apply(t.Context(), conn, "public"); err != nil {
		t.Fatal(err)
	}
	wantTracking(t, db, "public", true)
	if owner := value[string](t, db, "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'materialized_view_refresh_tracked'"); owner != role {
		t.Errorf("the trigger records with the rights of %s, want %s", owner, role)
	}
}

// A trigger on a log that belongs to somebody else must not run as the superuser
// who asked for tracking, nor as whoever refreshes.
func TestTrackRunsAsTheOwnerOfTheLog(t *testing.T) {
	db := postgrestest.New(t)
	owner, _ := db.Role(t, "")
	user, password := db.Role(t, "")
	db.Exec(t, `CREATE SCHEMA app; GRANT USAGE, CREATE ON SCHEMA app TO `+user+`, `+owner+`;
CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMPTZ NOT NULL,
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT);
ALTER TABLE materialized_view_refresh_log OWNER TO `+owner+`;
CREATE TABLE app.ran (as_role text);
GRANT INSERT ON app.ran TO PUBLIC;
CREATE FUNCTION app.spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.ran VALUES (current_user); RETURN NEW; END $$;
CREATE TRIGGER spy BEFORE INSERT ON materialized_view_refresh_log FOR EACH ROW EXECUTE FUNCTION app.spy()`)
	track(t, db, "public", true)
	as(t, db, user, password).must("CREATE MATERIALIZED VIEW app.v AS SELECT 1", "REFRESH MATERIALIZED VIEW app.v")
	if got := value[string](t, db, "SELECT coalesce(max(as_role), 'nobody') FROM app.ran"); got != owner {
		t.Errorf("it ran as %s, want the owner of the log, %s", got, owner)
	}
	if n := value[int](t, db, "SELECT count(*) FROM materialized_view_freshness WHERE view_name = 'app.v' AND stale_reason IS NULL AND data_as_of IS NOT NULL"); n != 1 {
		t.Error("the refresh was not recorded")
	}
	// Nor can its owner turn it into something that runs as whoever refreshes.
	db.Exec(t, "TRUNCATE app.ran; ALTER FUNCTION materialized_view_refresh_tracked() SECURITY INVOKER; REFRESH MATERIALIZED VIEW app.v")
	if n := value[int](t, db, "SELECT count(*) FROM app.ran"); n != 0 {
		t.Error("the log's trigger ran as the superuser who refreshed")
	}
	apply(t, db, "public")
	db.Exec(t, "REFRESH MATERIALIZED VIEW app.v")
	if got := value[string](t, db, "SELECT coalesce(max(as_role), 'nobody') FROM app.ran"); got != owner {
		t.Errorf("repaired, it ran as %s, want %s", got, owner)
	}
	// Switched off, all is the installer's again.
	track(t, db, "public", false)
	if n := value[int](t, db, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND pg_get_userbyid(proowner) = '"+owner+"'"); n != 0 {
		t.Errorf("%d functions belong to the owner of the log", n)
	}
}

// As documented for those who have neither program.
func TestTrackBySimpleProtocol(t *testing.T) {
	db := postgrestest.New(t)
	tables, err := filepath.Glob("tables/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	repeatable, err := filepath.Glob("repeatable/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Concat([]string{"drop.sql"}, tables, repeatable)
	for _, setting := range []string{"on", ""} {
		conn := db.Connect(t)
		if setting != "" {
			if _, err := conn.Exec(t.Context(), "SET matview.track_external_refreshes = "+setting); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.PgConn().Exec(t.Context(), string(text)).ReadAll(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		wantTracking(t, db, "public", true)
		names = append([]string{"drop.sql"}, repeatable...)
	}
}

func TestUninstallWithTracking(t *testing.T) {
	db := installed(t)
	track(t, db, "public", true)
	if err := migrations.Uninstall(t.Context(), db.Connect(t), "public", migrations.Roles{}, true); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "CREATE MATERIALIZED VIEW v AS SELECT 1; REFRESH MATERIALIZED VIEW v")
	if n := value[int](t, db, "SELECT (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)"); n != 0 {
		t.Errorf("%d event triggers or functions are left", n)
	}
}

// Somebody has refreshed two views and not committed: the event trigger has read
// and written our tables in that transaction. To apply again is an error that
// says so, and not a wait that readers queue behind.
func TestApplyWhileExternalRefreshIsOpen(t *testing.T) {
	db := installed(t)
	track(t, db, "public", true)
	db.Exec(t, "CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; CREATE MATERIALIZED VIEW down AS SELECT x FROM v")
	somebody := db.Connect(t)
	if _, err := somebody.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW v; REFRESH MATERIALIZED VIEW down"); err != nil {
		t.Fatal(err)
	}
	err := migrations.Apply(t.Context(), db.Connect(t), "public")
	if postgres.SQLState(err) != pgerrcode.LockNotAvailable || !strings.Contains(err.Error(), "keeps its transaction open; end it") {
		t.Fatalf("got %v", err)
	}
	if _, err := somebody.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	apply(t, db, "public")
}
