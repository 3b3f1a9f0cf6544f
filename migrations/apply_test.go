package migrations_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

func TestApplyFreshAndTwice(t *testing.T) {
	db := postgrestest.New(t)
	wantVersion(t, db, "public", 0)
	for range 2 {
		apply(t, db, "public")
		wantVersion(t, db, "public", migrations.Version())
	}
	if n := value[int](t, db, "SELECT count(*) FROM materialized_view_freshness"); n != 0 {
		t.Errorf("%d rows in an empty database", n)
	}
	columns := value[string](t, db, `SELECT string_agg(attname || ' ' || format_type(atttypid, NULL), ', ' ORDER BY attnum)
FROM pg_attribute WHERE attrelid = 'materialized_view_refresh_log'::regclass AND attnum > 0`)
	if want := "view_name text, last_refreshed_at timestamp with time zone, refresh_duration_ms integer, total_jobs integer, total_objects bigint"; columns != want {
		t.Errorf("the log is a contract: got %s", columns)
	}
}

func TestApplyManyAtOnce(t *testing.T) {
	db := postgrestest.New(t)
	role, _ := db.Role(t, "")
	db.Exec(t, `ALTER DATABASE "`+db.Name+`" SET default_transaction_isolation = 'repeatable read'`)
	var group errgroup.Group
	for i := range 8 {
		conn := db.Connect(t)
		group.Go(func() error {
			if i%2 == 0 {
				return migrations.Apply(t.Context(), conn, "public")
			}
			_, err := migrations.Install(t.Context(), conn, "public", installation(role), migrations.Roles{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	wantVersion(t, db, "public", migrations.Version())
	if n := value[int](t, db, "SELECT count(*) FROM matview_schema_version"); n != 1 {
		t.Errorf("%d rows in the version table", n)
	}
}

func TestApplyInSchemaWithOddName(t *testing.T) {
	db := postgrestest.New(t)
	for _, schema := range []string{"My.Schema", `say "hi"`, "select", "größe"} {
		for range 2 {
			apply(t, db, schema)
			wantVersion(t, db, schema, migrations.Version())
		}
	}
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1;
INSERT INTO "My.Schema".materialized_view_refresh_log VALUES ('v', now(), 5);`)
	if n := value[int](t, db, `SELECT count(*) FROM "My.Schema".materialized_view_freshness WHERE is_stale IS NOT NULL`); n != 1 {
		t.Errorf("the log of the schema is not what its read model reads")
	}
	if n := value[int](t, db, `SELECT count(*) FROM "select".materialized_view_freshness WHERE is_stale IS NOT NULL`); n != 0 {
		t.Errorf("one schema reads the log of another")
	}
	wantVersion(t, db, "public", 0)
}

// Every object in turn is dropped, with whatever depends on it.
func TestApplyRepairs(t *testing.T) {
	drops := []string{
		"TABLE materialized_view_refresh_log",
		"TABLE materialized_view_refresh_schedule",
		"TABLE materialized_view_refresh_state",
		"TABLE materialized_view_refresh_history",
		"TABLE materialized_view_refresh_settings",
		"TABLE materialized_view_refresh_publication",
		"TABLE materialized_view_refresh_unpublished",
		"TABLE matview_schema_version",
		"VIEW materialized_view_names",
		"VIEW materialized_view_freshness",
		"FUNCTION materialized_view_refresh_log_rows(text[])",
		"FUNCTION materialized_view_known_as(oid, name, name)",
		"FUNCTION materialized_view_oid(text)",
		"FUNCTION materialized_view_replicated()",
		"FUNCTION materialized_view_freshness_row",
		"FUNCTION materialized_view_freshness_of(oid)",
		"FUNCTION materialized_view_upstreams(oid)",
		"FUNCTION materialized_view_name(name, name)",
		"FUNCTION materialized_view_attempt_timeout()",
		"FUNCTION materialized_view_refresh_schedule_changed()",
		"TRIGGER materialized_view_refresh_schedule_changed ON materialized_view_refresh_schedule",
		"FUNCTION materialized_view_refresh_attempt_ended()",
		"TRIGGER materialized_view_refresh_attempt_ended ON materialized_view_refresh_history",
	}
	for _, drop := range drops {
		t.Run(drop, func(t *testing.T) {
			db := installed(t)
			db.Exec(t, "DROP "+drop+" CASCADE")
			wantVersion(t, db, "public", 0)
			apply(t, db, "public")
			wantVersion(t, db, "public", migrations.Version())
			db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 minute');
INSERT INTO materialized_view_refresh_log VALUES ('v', now() - interval '1 second', 5);
INSERT INTO materialized_view_refresh_publication (destination) VALUES ('d');
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome) VALUES ('v', 'manual', 'failed');
SELECT * FROM materialized_view_freshness;`)
			if n := value[int](t, db, "SELECT count(*) FROM materialized_view_refresh_unpublished JOIN materialized_view_refresh_history ON id = attempt_id"); n != 1 {
				t.Errorf("%d unpublished attempts, want 1", n)
			}
			db.Exec(t, "DELETE FROM materialized_view_refresh_history")
			if n := value[int](t, db, "SELECT count(*) FROM materialized_view_refresh_unpublished"); n != 0 {
				t.Errorf("%d unpublished attempts without a history, want 0", n)
			}
		})
	}
	t.Run("indexes", func(t *testing.T) {
		db := installed(t)
		const count = "SELECT count(*) FROM pg_indexes WHERE tablename LIKE 'materialized_view_%'"
		before := value[int](t, db, count)
		db.Exec(t, `DROP INDEX materialized_view_refresh_state_due, materialized_view_refresh_history_view,
materialized_view_refresh_history_started, materialized_view_refresh_history_running`)
		apply(t, db, "public")
		if after := value[int](t, db, count); after != before {
			t.Errorf("%d indexes, want %d", after, before)
		}
	})
}

// TestApplyWaitsForNoPublisher: migrating locks no table that a publisher writes.
func TestApplyWaitsForNoPublisher(t *testing.T) {
	db := installed(t)
	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), `BEGIN; LOCK materialized_view_refresh_publication, materialized_view_refresh_unpublished,
materialized_view_refresh_history IN ROW EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	apply(t, db, "public")
}

func TestApplyWithEmptiedVersionTable(t *testing.T) {
	db := installed(t)
	db.Exec(t, "DELETE FROM matview_schema_version")
	wantVersion(t, db, "public", 0)
	apply(t, db, "public")
	wantVersion(t, db, "public", migrations.Version())
}

func TestApplyToNewerVersion(t *testing.T) {
	db := installed(t)
	// Nothing is dropped before that is found out, or this view would be the error.
	db.Exec(t, "UPDATE matview_schema_version SET version = 99; CREATE VIEW theirs AS SELECT * FROM materialized_view_freshness")
	err := migrations.Apply(t.Context(), db.Connect(t), "public")
	var newer *migrations.NewerError
	if !errors.As(err, &newer) {
		t.Fatalf("got %v, want a NewerError", err)
	}
	if want := fmt.Sprintf(`the tables in schema "public" are at version 99, and this program knows only up to %d: use a newer release of matview`, migrations.Version()); err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	wantVersion(t, db, "public", 99)
}

// The document's Option 1, while ours is installed: nothing depends on the log.
func TestLogDroppedAndCreatedAgain(t *testing.T) {
	db := installed(t)
	writer, writerPassword := db.Role(t, "")
	reader, readerPassword := db.Role(t, "")
	_, err := migrations.Install(t.Context(), db.Connect(t), "public", migrations.Installation{
		HistoryRetention: retention,
		Roles:            migrations.Roles{Writers: []string{writer}, Readers: []string{reader}},
	}, migrations.Roles{})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "DROP TABLE materialized_view_refresh_log")
	if n := value[int](t, db, "SELECT count(*) FROM materialized_view_freshness"); n != 0 {
		t.Errorf("%d rows without a log", n)
	}
	apply(t, db, "public")
	as(t, db, writer, writerPassword).must("INSERT INTO materialized_view_refresh_log VALUES ('v', now(), 1)")
	as(t, db, reader, readerPassword).must("SELECT * FROM materialized_view_freshness")
	as(t, db, reader, readerPassword).mustNot("DELETE FROM materialized_view_refresh_log")
}

// What the documentation tells those who have neither program: psql runs the files.
func TestFilesByPsql(t *testing.T) {
	tables, err := filepath.Glob("tables/*.sql")
	if err != nil || len(tables) != int(migrations.Version()) {
		t.Fatalf("files %v, error %v", tables, err)
	}
	repeatable, err := filepath.Glob("repeatable/*.sql")
	if err != nil || len(repeatable) == 0 {
		t.Fatalf("files %v, error %v", repeatable, err)
	}
	db := postgrestest.New(t)
	psql := func(files ...string) error {
		args := []string{db.URL(), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction"}
		for _, file := range files {
			args = append(args, "--file="+file)
		}
		out, err := exec.CommandContext(t.Context(), "psql", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := psql(slices.Concat([]string{"drop.sql"}, tables, repeatable)...); err != nil {
		t.Fatal(err)
	}
	wantVersion(t, db, "public", migrations.Version())
	if err := psql(append([]string{"drop.sql"}, repeatable...)...); err != nil {
		t.Fatal(err)
	}
	if err := psql(tables...); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("the numbered files a second time: %v", err)
	}
	db.Exec(t, "SELECT * FROM materialized_view_freshness")
	// Either program takes over from there.
	apply(t, db, "public")
	wantVersion(t, db, "public", migrations.Version())
}

func TestApplyLeavesNothingAfterAnError(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, "CREATE VIEW materialized_view_refresh_state AS SELECT 1") // in the way of the second file
	conn := db.Connect(t)
	if err := migrations.Apply(t.Context(), conn, "public"); err == nil {
		t.Fatal("no error")
	}
	if n := value[int](t, db, "SELECT count(*) FROM pg_class WHERE relname IN ('materialized_view_refresh_log', 'matview_schema_version')"); n != 0 {
		t.Errorf("%d tables are left", n)
	}
	if n := value[int](t, db, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"); n != 0 {
		t.Errorf("%d advisory locks are left", n)
	}
	if conn.IsClosed() {
		t.Error("the connection is closed")
	}
}
