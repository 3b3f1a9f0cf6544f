package migrations_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

const retention = 24 * time.Hour

func installation(writers ...string) migrations.Installation {
	return migrations.Installation{HistoryRetention: retention, Roles: migrations.Roles{Writers: writers}}
}

// session is a login of a role that has been granted something, or not.
type session struct {
	t    *testing.T
	conn *pgx.Conn
}

func as(t *testing.T, db *postgrestest.Database, role, password string) session {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URLFor(role, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return session{t, conn}
}

func (s session) must(statements ...string) {
	s.t.Helper()
	for _, statement := range statements {
		if _, err := s.conn.Exec(s.t.Context(), statement); err != nil {
			s.t.Errorf("%s: %v", statement, err)
		}
	}
}

func (s session) mustNot(statements ...string) {
	s.t.Helper()
	for _, statement := range statements {
		_, err := s.conn.Exec(s.t.Context(), statement)
		if postgres.SQLState(err) != pgerrcode.InsufficientPrivilege {
			s.t.Errorf("%s: got %v, want permission denied", statement, err)
		}
	}
}

const odd = `"My.Schema".`

func TestGrantsAreJustWhatIsNeeded(t *testing.T) {
	db := postgrestest.New(t)
	// As hardened servers have it.
	db.Exec(t, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
	writer, writerPassword := db.Role(t, "")
	reader, readerPassword := db.Role(t, "")
	nobody, nobodyPassword := db.Role(t, "")
	roles := migrations.Roles{Writers: []string{writer}, Readers: []string{reader}}
	_, err := migrations.Install(t.Context(), db.Connect(t), "My.Schema", migrations.Installation{HistoryRetention: retention, Roles: roles}, migrations.Roles{})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `CREATE MATERIALIZED VIEW up AS SELECT 1 AS x; CREATE MATERIALIZED VIEW v AS SELECT * FROM up;
INSERT INTO "My.Schema".materialized_view_refresh_schedule (view_name, cron) VALUES ('v', '* * * * *');
INSERT INTO "My.Schema".materialized_view_refresh_log VALUES ('v', now() - interval '1 second', 5);`)

	w := as(t, db, writer, writerPassword)
	w.must(
		"SELECT * FROM "+odd+"materialized_view_freshness",
		"SELECT * FROM "+odd+"materialized_view_names",
		"SELECT * FROM "+odd+"materialized_view_refresh_schedule",
		"SELECT history_retention FROM "+odd+"materialized_view_refresh_settings",
		"SELECT version FROM "+odd+"matview_schema_version",
		"UPDATE "+odd+"materialized_view_refresh_schedule SET longest_gap = '1 minute'",
		"INSERT INTO "+odd+"materialized_view_refresh_log VALUES ('v', now(), 1) ON CONFLICT (view_name) DO UPDATE SET last_refreshed_at = EXCLUDED.last_refreshed_at",
		"INSERT INTO "+odd+"materialized_view_refresh_state (view_name) VALUES ('v') ON CONFLICT (view_name) DO UPDATE SET last_error = NULL",
		"INSERT INTO "+odd+"materialized_view_refresh_history (view_name, trigger, outcome) VALUES ('v', 'manual', 'running')",
		"INSERT INTO "+odd+"materialized_view_refresh_publication (destination) VALUES ('d')",
		"UPDATE "+odd+"materialized_view_refresh_history SET outcome = 'succeeded'",
		"DELETE FROM "+odd+"materialized_view_refresh_unpublished",
		"DELETE FROM "+odd+"materialized_view_refresh_history",
	)
	w.mustNot(
		"UPDATE "+odd+"materialized_view_refresh_schedule SET enabled = false",
		"INSERT INTO "+odd+"materialized_view_refresh_schedule (view_name, every) VALUES ('x', '1 minute')",
		"DELETE FROM "+odd+"materialized_view_refresh_schedule",
		"UPDATE "+odd+"materialized_view_refresh_settings SET history_retention = '1 second'",
		"UPDATE "+odd+"matview_schema_version SET version = 0",
		"INSERT INTO "+odd+"materialized_view_refresh_unpublished (attempt_id, destination) VALUES (1, 'd')",
		"TRUNCATE "+odd+"materialized_view_refresh_log",
		"CREATE TABLE "+odd+"x ()",
	)
	r := as(t, db, reader, readerPassword)
	r.must(
		"SELECT * FROM "+odd+"materialized_view_freshness",
		"SELECT * FROM "+odd+"materialized_view_names",
		"SELECT * FROM "+odd+"materialized_view_refresh_log",
		"SELECT * FROM "+odd+"materialized_view_refresh_schedule",
		"SELECT * FROM "+odd+"materialized_view_refresh_history",
		"SELECT * FROM "+odd+"materialized_view_refresh_settings",
	)
	r.mustNot(
		"INSERT INTO "+odd+"materialized_view_refresh_log VALUES ('x', now())",
		"UPDATE "+odd+"materialized_view_refresh_log SET total_jobs = 0",
		"DELETE FROM "+odd+"materialized_view_refresh_log",
		"INSERT INTO "+odd+"materialized_view_refresh_state (view_name) VALUES ('x')",
		"DELETE FROM "+odd+"materialized_view_refresh_history",
		"UPDATE "+odd+"materialized_view_refresh_schedule SET longest_gap = NULL",
		"UPDATE "+odd+"materialized_view_refresh_settings SET history_retention = '1 second'",
	)
	as(t, db, nobody, nobodyPassword).mustNot("SELECT * FROM "+odd+"materialized_view_freshness", "SELECT "+odd+"materialized_view_upstreams(0)")

	equipped, err := migrations.Equipped(t.Context(), db.Connect(t), "My.Schema",
		migrations.Roles{Writers: []string{writer, reader, "no such role"}, Readers: []string{reader, nobody}})
	if err != nil {
		t.Fatal(err)
	}
	if len(equipped.Writers) != 1 || equipped.Writers[0] != writer || len(equipped.Readers) != 1 || equipped.Readers[0] != reader {
		t.Errorf("equipped: %+v", equipped)
	}
}

// What runs with the rights of its owner finds nothing where others may create.
func TestDefinersArePinned(t *testing.T) {
	db := installed(t)
	if names := value[string](t, db, `SELECT coalesce(string_agg(proname, ', '), '') FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND prosecdef AND proconfig[1] IS DISTINCT FROM 'search_path=pg_catalog, pg_temp'`); names != "" {
		t.Errorf("not pinned: %s", names)
	}
	if n := value[int](t, db, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"); n < 2 {
		t.Errorf("%d functions run with the rights of their owner", n)
	}
}

func TestRevokeLeavesNothing(t *testing.T) {
	db := postgrestest.New(t)
	turned, turnedPassword := db.Role(t, "") // from writer to reader
	gone, gonePassword := db.Role(t, "")
	db.Exec(t, "CREATE SCHEMA app; CREATE TABLE app.other (x int); GRANT USAGE ON SCHEMA app TO "+turned+"; GRANT SELECT ON app.other TO "+turned)
	before := migrations.Roles{Writers: []string{turned, gone, "dropped long ago"}}
	conn := db.Connect(t)
	want := installation(turned, gone)
	if _, err := migrations.Install(t.Context(), conn, "app", want, migrations.Roles{}); err != nil {
		t.Fatal(err)
	}
	want.Roles = migrations.Roles{Readers: []string{turned}}
	if _, err := migrations.Install(t.Context(), conn, "app", want, before); err != nil {
		t.Fatal(err)
	}
	reader := as(t, db, turned, turnedPassword)
	reader.must("SELECT * FROM app.materialized_view_freshness")
	reader.mustNot("DELETE FROM app.materialized_view_refresh_log")
	as(t, db, gone, gonePassword).mustNot("SELECT * FROM app.materialized_view_refresh_log")
	db.Exec(t, "DROP ROLE "+gone) // as an apply does that removes the role itself
	db.Exec(t, "CREATE ROLE "+gone)

	if err := migrations.Uninstall(t.Context(), conn, "app", want.Roles, true); err != nil {
		t.Fatal(err)
	}
	as(t, db, turned, turnedPassword).must("SELECT * FROM app.other")
}

func TestGrantToMissingRole(t *testing.T) {
	db := postgrestest.New(t)
	_, err := migrations.Install(t.Context(), db.Connect(t), "public", installation("not_there"), migrations.Roles{})
	if want := `grant privileges in schema "public": role "not_there" does not exist; create it first`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	wantVersion(t, db, "public", 0)
	if n := value[int](t, db, "SELECT count(*) FROM pg_class WHERE relname LIKE 'materialized_view_%'"); n != 0 {
		t.Errorf("%d relations are left of a failed installation", n)
	}
}

// The log belongs to another role, as the Lambda's that made it.
func TestGrantOnForeignLog(t *testing.T) {
	db := postgrestest.New(t)
	owner, _ := db.Role(t, "")
	installer, installerPassword := db.Role(t, "")
	writer, writerPassword := db.Role(t, "")
	db.Exec(t, `CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMPTZ NOT NULL,
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT);
ALTER TABLE materialized_view_refresh_log OWNER TO `+owner+`;
GRANT SELECT, INSERT ON materialized_view_refresh_log TO `+installer+`;
GRANT ALL ON SCHEMA public TO `+installer)
	conn := as(t, db, installer, installerPassword).conn
	_, err := migrations.Install(t.Context(), conn, "public", installation(writer), migrations.Roles{})
	if err == nil || !strings.Contains(err.Error(), "materialized_view_refresh_log") {
		t.Fatalf("got %v, want an error about the log", err)
	}
	t.Log(err)
	db.Exec(t, "GRANT SELECT, INSERT, UPDATE, DELETE ON materialized_view_refresh_log TO "+writer)
	if _, err := migrations.Install(t.Context(), conn, "public", installation(writer), migrations.Roles{}); err != nil {
		t.Fatal(err)
	}
	as(t, db, writer, writerPassword).must("DELETE FROM materialized_view_refresh_log")
}
