package freshness_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// tracked is a database whose event trigger records refreshes by others, with a
// view v, and a view over it through a plain one.
func tracked(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "tracked", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Track(ctx, conn, "public", true); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `CREATE TABLE source AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW v AS SELECT x FROM source; CREATE UNIQUE INDEX ON v (x);
CREATE VIEW between AS SELECT x FROM v;
CREATE MATERIALIZED VIEW down AS SELECT x FROM between`)
		return err
	})
}

func execOn(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func clock(t *testing.T, conn *pgx.Conn) (now time.Time) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&now); err != nil {
		t.Fatal(err)
	}
	return now
}

// attempts are method and outcome of each external attempt on a view.
func attempts(t *testing.T, db *postgrestest.Database, view string) string {
	t.Helper()
	var text string
	err := db.Connect(t).QueryRow(t.Context(), `SELECT coalesce(string_agg(coalesce(method, 'unknown') || ' ' || outcome, ', ' ORDER BY id), '')
FROM materialized_view_refresh_history WHERE view_name = $1 AND trigger = 'external'`, view).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func wantReason(t *testing.T, db *postgrestest.Database, view, reason string) {
	t.Helper()
	v := find(t, db.Pool(t), view)
	if got := text(v.StaleReason); got != reason {
		t.Errorf("%s: stale_reason is %s, want %s", view, got, reason)
	}
	if reason != "null" && v.DataAsOf != nil {
		t.Errorf("%s is %s, yet its as-of is given as %s", view, reason, v.DataAsOf)
	}
}

// wantAsOf: the as-of is known, and within the bounds.
func wantAsOf(t *testing.T, db *postgrestest.Database, view string, from, to time.Time) {
	t.Helper()
	v := find(t, db.Pool(t), view)
	if v.DataAsOf == nil {
		t.Fatalf("%s: the as-of is unknown: %s", view, text(v.StaleReason))
	}
	if v.DataAsOf.Before(from) || v.DataAsOf.After(to) {
		t.Errorf("%s: as-of %s, want from %s to %s", view, v.DataAsOf, from, to)
	}
}

func TestExternalRefresh(t *testing.T) {
	cases := map[string]struct {
		statements []string // each a message of its own, on one connection
		attempts   string
		reason     string
	}{
		"blocking":         {[]string{"REFRESH MATERIALIZED VIEW v"}, "blocking succeeded", "null"},
		"concurrently":     {[]string{"REFRESH MATERIALIZED VIEW CONCURRENTLY v"}, "concurrently succeeded", "null"},
		"extended":         {[]string{"/* $1 */ REFRESH MATERIALIZED VIEW v"}, "unknown succeeded", "null"},
		"DO":               {[]string{"DO $$ BEGIN REFRESH MATERIALIZED VIEW v; END $$"}, "unknown succeeded", "null"},
		"caught error":     {[]string{"DO $$ BEGIN REFRESH MATERIALIZED VIEW v; PERFORM 1/0; EXCEPTION WHEN OTHERS THEN NULL; END $$"}, "", "never_refreshed"},
		"subtransaction":   {[]string{"BEGIN", "SAVEPOINT a", "REFRESH MATERIALIZED VIEW v", "RELEASE a", "COMMIT"}, "blocking succeeded", "null"},
		"nested":           {[]string{"BEGIN", "SAVEPOINT a", "SAVEPOINT b", "REFRESH MATERIALIZED VIEW CONCURRENTLY v", "SAVEPOINT c", "COMMIT"}, "concurrently succeeded", "null"},
		"rolled back":      {[]string{"BEGIN", "REFRESH MATERIALIZED VIEW v", "ROLLBACK"}, "", "never_refreshed"},
		"to savepoint":     {[]string{"BEGIN", "REFRESH MATERIALIZED VIEW v", "SAVEPOINT a", "REFRESH MATERIALIZED VIEW v", "ROLLBACK TO a", "COMMIT"}, "blocking succeeded", "null"},
		"twice":            {[]string{"BEGIN", "REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW CONCURRENTLY v", "COMMIT"}, "blocking succeeded, concurrently succeeded", "null"},
		"without data":     {[]string{"REFRESH MATERIALIZED VIEW v WITH NO DATA"}, "", "not_populated"},
		"replica":          {[]string{"SET session_replication_role = replica", "REFRESH MATERIALIZED VIEW v"}, "blocking succeeded", "null"},
		"forged as ours":   {[]string{"BEGIN", "SELECT set_config('matview.own', txid_current()::text, true)", "REFRESH MATERIALIZED VIEW v", "COMMIT"}, "", "never_refreshed"},
		"left of an older": {[]string{"SELECT set_config('matview.own', txid_current()::text, false)", "REFRESH MATERIALIZED VIEW v"}, "blocking succeeded", "null"},
		"no log":           {[]string{"DROP TABLE materialized_view_refresh_log", "REFRESH MATERIALIZED VIEW v"}, "blocking succeeded", "never_refreshed"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			db := tracked(t)
			db.Exec(t, everyHour)
			conn := db.Connect(t)
			execOn(t, conn, c.statements...)
			if got := attempts(t, db, "v"); got != c.attempts {
				t.Errorf("history: %q, want %q", got, c.attempts)
			}
			wantReason(t, db, "v", c.reason)
		})
	}
}

// CONCURRENTLY keeps one of two equal rows with a null.
func TestExternalConcurrentlyWithNulls(t *testing.T) {
	db := tracked(t)
	db.Exec(t, `CREATE TABLE tags (item text, note text); INSERT INTO tags VALUES ('a', NULL), ('b', 'x'); CREATE MATERIALIZED VIEW tagged AS SELECT * FROM tags; CREATE UNIQUE INDEX ON tagged (item)`)
	conn := db.Connect(t)
	execOn(t, conn, "REFRESH MATERIALIZED VIEW tagged", "INSERT INTO tags VALUES ('a', NULL)")
	wantReason(t, db, "tagged", "null")
	execOn(t, conn, "REFRESH MATERIALIZED VIEW CONCURRENTLY tagged")
	wantReason(t, db, "tagged", "unverified")
	var warning string
	if err := conn.QueryRow(t.Context(), "SELECT warning FROM materialized_view_refresh_history ORDER BY id DESC LIMIT 1").Scan(&warning); err != nil || !strings.Contains(warning, "may have lost rows") {
		t.Errorf("warning %q, %v", warning, err)
	}
	execOn(t, conn, "UPDATE tags SET note = ctid::text", "REFRESH MATERIALIZED VIEW tagged WITH NO DATA", "DELETE FROM tags WHERE ctid <> (SELECT min(ctid) FROM tags AS t WHERE t.item = tags.item)",
		"REFRESH MATERIALIZED VIEW tagged", "REFRESH MATERIALIZED VIEW CONCURRENTLY tagged")
	wantReason(t, db, "tagged", "null")
}

// What comes after a record of ours.
func TestExternalRefreshAfterOurs(t *testing.T) {
	db := tracked(t)
	pool := db.Pool(t)
	recordedRefresh(t, pool, "v")
	if got := attempts(t, db, "v"); got != "" {
		t.Errorf("our own refresh was recorded by the event trigger: %s", got)
	}
	conn := db.Connect(t)
	execOn(t, conn, "UPDATE materialized_view_refresh_state SET consecutive_failures = 3, last_error = 'x', change_counters = '{}'")
	from := clock(t, conn)
	execOn(t, conn, "REFRESH MATERIALIZED VIEW v")
	to := clock(t, conn)
	wantAsOf(t, db, "v", from, to)
	v := find(t, pool, "v")
	if v.ConsecutiveFailures != 0 || v.LastError != nil || v.LastOutcome == nil || *v.LastOutcome != "succeeded" || v.RefreshDurationMS == nil ||
		v.LastRefreshedAt.Before(from) || v.LastRefreshedAt.After(to) {
		t.Errorf("%+v", v)
	}
	execOn(t, conn, "BEGIN", "SELECT set_config('matview.own', txid_current()::text, true)", "REFRESH MATERIALIZED VIEW v", "COMMIT")
	wantReason(t, db, "v", "changed_outside")
	execOn(t, conn, "DROP MATERIALIZED VIEW v CASCADE; CREATE MATERIALIZED VIEW v AS SELECT 1 AS x")
	wantReason(t, db, "v", "recreated")
	execOn(t, conn, "DROP MATERIALIZED VIEW v")
	wantReason(t, db, "v", "missing")
}

// Whoever refreshes has no rights on our tables, nor on their schema.
func TestExternalRefreshByAnyRole(t *testing.T) {
	db := postgrestest.New(t)
	role, password := db.Role(t, "")
	if err := migrations.Track(t.Context(), db.Connect(t), "Our.Schema", true); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `CREATE SCHEMA app AUTHORIZATION `+role+`; REVOKE ALL ON SCHEMA public FROM PUBLIC`)
	conn, err := pgx.Connect(t.Context(), db.URLFor(role, password))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	execOn(t, conn, `CREATE MATERIALIZED VIEW app."V 1" AS SELECT 1`, `SET search_path = ''`, `REFRESH MATERIALIZED VIEW app."V 1"`)
	var recorded string
	err = db.Connect(t).QueryRow(t.Context(), `SELECT view_name || ' ' || attempted_by FROM "Our.Schema".materialized_view_refresh_history`).Scan(&recorded)
	if want := `app."V 1" ` + role; err != nil || recorded != want {
		t.Errorf("recorded %q (%v), want %q", recorded, err, want)
	}
	for _, sql := range []string{
		`SELECT * FROM "Our.Schema".materialized_view_refresh_log`,
		`SELECT "Our.Schema".materialized_view_refresh_record_external('app."V 1"'::regclass, 0, NULL)`,
	} {
		if _, err := conn.Exec(t.Context(), sql); postgres.SQLState(err) != pgerrcode.InsufficientPrivilege {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// The as-of of a refresh in a transaction of another kind than one of its own.
func TestExternalAsOf(t *testing.T) {
	const change = "INSERT INTO source SELECT max(x) + 1 FROM source"
	t.Run("repeatable read", func(t *testing.T) {
		db := tracked(t)
		conn, other := db.Connect(t), db.Connect(t)
		recordedRefresh(t, db.Pool(t), "v")
		execOn(t, conn, "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
		began := clock(t, other)
		execOn(t, other, change)
		execOn(t, conn, "REFRESH MATERIALIZED VIEW v", "COMMIT")
		wantAsOf(t, db, "v", time.Time{}, began)
	})
	t.Run("repeatable read by default", func(t *testing.T) {
		db := tracked(t)
		conn := db.Connect(t)
		execOn(t, conn, "SET default_transaction_isolation = 'repeatable read'")
		began := clock(t, conn)
		execOn(t, conn, "REFRESH MATERIALIZED VIEW v")
		wantAsOf(t, db, "v", began, clock(t, conn))
	})
	t.Run("serializable", func(t *testing.T) {
		db := tracked(t)
		conn := db.Connect(t)
		execOn(t, conn, "SET default_transaction_isolation = 'serializable'")
		began := clock(t, conn)
		execOn(t, conn, "REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW down")
		wantAsOf(t, db, "v", began, clock(t, conn))
		wantReason(t, db, "down", "unverified")
		execOn(t, conn, "BEGIN", "SELECT", "REFRESH MATERIALIZED VIEW v", "COMMIT")
		wantReason(t, db, "v", "unverified")
	})
	for name, refresh := range map[string]string{
		"imported snapshot":                 "BEGIN ISOLATION LEVEL REPEATABLE READ|SET TRANSACTION SNAPSHOT '%s'|REFRESH MATERIALIZED VIEW v|REFRESH MATERIALIZED VIEW v|COMMIT",
		"imported snapshot, in one message": "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '%s'; REFRESH MATERIALIZED VIEW v; COMMIT",
	} {
		t.Run(name, func(t *testing.T) {
			db := tracked(t)
			conn, other := db.Connect(t), db.Connect(t)
			recordedRefresh(t, db.Pool(t), "v")
			execOn(t, other, "BEGIN ISOLATION LEVEL REPEATABLE READ")
			var snapshot string
			if err := other.QueryRow(t.Context(), "SELECT pg_export_snapshot()").Scan(&snapshot); err != nil {
				t.Fatal(err)
			}
			before := clock(t, other)
			db.Exec(t, change)
			execOn(t, conn, strings.Split(fmt.Sprintf(refresh, snapshot), "|")...)
			var rows int
			if err := db.Connect(t).QueryRow(t.Context(), "SELECT count(*) FROM v").Scan(&rows); err != nil || rows != 1 {
				t.Fatalf("%d rows, %v: the snapshot was not used", rows, err)
			}
			wantAsOf(t, db, "v", time.Time{}, before)
		})
	}
	t.Run("several statements in a message", func(t *testing.T) {
		db := tracked(t)
		conn := db.Connect(t)
		execOn(t, conn, "SELECT pg_sleep(0.01); REFRESH MATERIALIZED VIEW v")
		wantAsOf(t, db, "v", time.Time{}, clock(t, conn))
	})
	// Each of its transactions is later than the statement.
	t.Run("procedure that commits", func(t *testing.T) {
		db := tracked(t)
		conn := db.Connect(t)
		execOn(t, conn, "CREATE TABLE marks (at timestamptz)",
			`CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN
COMMIT; PERFORM pg_sleep(0.01); INSERT INTO marks VALUES (clock_timestamp()); COMMIT; REFRESH MATERIALIZED VIEW v; COMMIT; END $$`, "CALL p()")
		var mark time.Time
		if err := conn.QueryRow(t.Context(), "SELECT at FROM marks").Scan(&mark); err != nil {
			t.Fatal(err)
		}
		wantAsOf(t, db, "v", mark, clock(t, conn))
	})
	// The snapshot precedes the wait.
	t.Run("wait for a lock", func(t *testing.T) {
		db := tracked(t)
		holder, conn := db.Connect(t), db.Connect(t)
		execOn(t, holder, "BEGIN", "ALTER MATERIALIZED VIEW v ALTER COLUMN x SET STATISTICS 10")
		done := make(chan error, 1)
		go func() {
			_, err := conn.Exec(t.Context(), "REFRESH MATERIALIZED VIEW v")
			done <- err
		}()
		waiting(t, db, "REFRESH")
		waits := clock(t, holder)
		execOn(t, holder, change, "COMMIT")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wantAsOf(t, db, "v", time.Time{}, waits)
	})
}

// waiting returns once a session waits for a lock in a statement that begins so.
func waiting(t *testing.T, db *postgrestest.Database, statement string) {
	t.Helper()
	conn := db.Connect(t)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var found bool
		err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1 || '%')`, statement).Scan(&found)
		if err != nil {
			t.Fatal(err)
		}
		if found {
			return
		}
	}
	t.Fatalf("%s does not wait", statement)
}

func TestExternalOverUpstreams(t *testing.T) {
	t.Run("unknown, then known", func(t *testing.T) {
		db := tracked(t)
		conn := db.Connect(t)
		execOn(t, conn, "REFRESH MATERIALIZED VIEW down")
		wantReason(t, db, "down", "unverified")
		from := clock(t, conn)
		execOn(t, conn, "REFRESH MATERIALIZED VIEW v")
		to := clock(t, conn)
		execOn(t, conn, "REFRESH MATERIALIZED VIEW down")
		wantAsOf(t, db, "down", from, to)
	})
	t.Run("together", func(t *testing.T) {
		for _, chain := range []string{
			"BEGIN; REFRESH MATERIALIZED VIEW v; REFRESH MATERIALIZED VIEW down; COMMIT",
			"BEGIN|REFRESH MATERIALIZED VIEW v|SAVEPOINT s|REFRESH MATERIALIZED VIEW down|COMMIT",
			"DO $$ BEGIN REFRESH MATERIALIZED VIEW CONCURRENTLY v; REFRESH MATERIALIZED VIEW down; END $$",
			"SET default_transaction_isolation = 'repeatable read'|BEGIN; REFRESH MATERIALIZED VIEW v; REFRESH MATERIALIZED VIEW down; COMMIT",
		} {
			db := tracked(t)
			conn := db.Connect(t)
			from := clock(t, conn)
			execOn(t, conn, strings.Split(chain, "|")...)
			wantAsOf(t, db, "down", from, clock(t, conn))
			wantReason(t, db, "v", "null")
		}
	})
	t.Run("changed outside", func(t *testing.T) {
		db := tracked(t)
		conn := db.Connect(t)
		execOn(t, conn, "REFRESH MATERIALIZED VIEW v",
			"BEGIN", "SELECT set_config('matview.own', txid_current()::text, true)", "REFRESH MATERIALIZED VIEW v", "COMMIT",
			"REFRESH MATERIALIZED VIEW down")
		wantReason(t, db, "down", "unverified")
		recordedRefresh(t, db.Pool(t), "down")
		wantReason(t, db, "down", "unverified")
	})
	// Between the downstream's snapshot and its end, its upstream is refreshed:
	// what it has read is older than the upstream's as-of at the end.
	for _, method := range []string{"", "CONCURRENTLY"} {
		t.Run("refreshed in between "+method, func(t *testing.T) {
			db := tracked(t)
			holder, conn, other := db.Connect(t), db.Connect(t), db.Connect(t)
			execOn(t, other, "REFRESH MATERIALIZED VIEW v")
			first := clock(t, other)
			execOn(t, holder, "BEGIN", "ALTER MATERIALIZED VIEW down ALTER COLUMN x SET STATISTICS 10")
			done := make(chan error, 1)
			go func() {
				_, err := conn.Exec(t.Context(), "REFRESH MATERIALIZED VIEW down")
				done <- err
			}()
			waiting(t, db, "REFRESH")
			execOn(t, other, "INSERT INTO source SELECT 2", "REFRESH MATERIALIZED VIEW "+method+" v")
			execOn(t, holder, "COMMIT")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			wantAsOf(t, db, "down", time.Time{}, first)
		})
	}
	// An old snapshot reads the rows that replaced the upstream's since.
	t.Run("replaced since an old snapshot", func(t *testing.T) {
		db := tracked(t)
		old, conn := db.Connect(t), db.Connect(t)
		execOn(t, conn, "REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW v")
		execOn(t, old, "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
		execOn(t, conn, "REFRESH MATERIALIZED VIEW v")
		execOn(t, old, "REFRESH MATERIALIZED VIEW down", "COMMIT")
		wantReason(t, db, "down", "unverified")
	})
}

// Whatever is wrong with our tables, the REFRESH succeeds and nothing is claimed.
func TestExternalRefreshNeverFails(t *testing.T) {
	damages := map[string]string{
		"no state":             "DROP TABLE materialized_view_refresh_state CASCADE",
		"no history":           "DROP TABLE materialized_view_refresh_history CASCADE",
		"no function":          "DROP FUNCTION materialized_view_refresh_record_external(oid, oid, jsonb)",
		"trigger of the log":   "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; CREATE TRIGGER broken BEFORE INSERT ON materialized_view_refresh_log FOR EACH ROW EXECUTE FUNCTION broken()",
		"assertion in the log": "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ASSERT false; END $$; CREATE TRIGGER broken BEFORE INSERT ON materialized_view_refresh_log FOR EACH ROW EXECUTE FUNCTION broken()",
		"other log":            "DROP TABLE materialized_view_refresh_log; CREATE TABLE materialized_view_refresh_log (x int)",
		"uninstalled":          "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE MATERIALIZED VIEW v AS SELECT 1 AS x",
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			db := tracked(t)
			db.Exec(t, damage)
			db.Exec(t, "REFRESH MATERIALIZED VIEW v")
			if err := migrations.Apply(t.Context(), db.Connect(t), "public"); err != nil && name != "other log" {
				t.Fatal(err)
			}
			if name == "other log" {
				return // nothing to read
			}
			if v := find(t, db.Pool(t), "v"); v.DataAsOf != nil {
				t.Errorf("as-of %s", v.DataAsOf)
			}
		})
	}
}

// Option 1 of the document, while the trigger is there.
func TestExternalRefreshAfterLogIsRecreated(t *testing.T) {
	db := tracked(t)
	conn := db.Connect(t)
	execOn(t, conn, "REFRESH MATERIALIZED VIEW v", "DROP TABLE materialized_view_refresh_log", "REFRESH MATERIALIZED VIEW v",
		`CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT)`)
	from := clock(t, conn)
	execOn(t, conn, "REFRESH MATERIALIZED VIEW v")
	wantAsOf(t, db, "v", from, clock(t, conn))
}

// A row of ours is locked: the REFRESH goes on without its record.
func TestExternalRefreshDoesNotWait(t *testing.T) {
	for _, table := range []string{"log", "state"} {
		t.Run(table, func(t *testing.T) {
			db := tracked(t)
			holder, conn := db.Connect(t), db.Connect(t)
			execOn(t, conn, "REFRESH MATERIALIZED VIEW v")
			execOn(t, holder, "BEGIN", "SELECT * FROM materialized_view_refresh_"+table+" FOR UPDATE")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if _, err := conn.Exec(ctx, "REFRESH MATERIALIZED VIEW v"); err != nil {
				t.Fatal(err)
			}
			execOn(t, holder, "COMMIT")
			wantReason(t, db, "v", "changed_outside")
			if got := attempts(t, db, "v"); got != "blocking succeeded" {
				t.Errorf("history: %s", got)
			}
		})
	}
}

// The user's own cancel and statement_timeout go through, also while the trigger
// waits, and end the REFRESH.
func TestExternalRefreshIsCancelled(t *testing.T) {
	db := tracked(t)
	conn := db.Connect(t)
	execOn(t, conn, "REFRESH MATERIALIZED VIEW v",
		`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT ON materialized_view_refresh_log FOR EACH ROW EXECUTE FUNCTION slow()`,
		"SET statement_timeout = '300ms'")
	if _, err := conn.Exec(t.Context(), "REFRESH MATERIALIZED VIEW v"); postgres.SQLState(err) != pgerrcode.QueryCanceled {
		t.Errorf("got %v, want the user's statement_timeout", err)
	}
	wantReason(t, db, "v", "null") // it was undone
}

// lock_timeout within the trigger is no longer than 50 ms, and the session's own
// is as it was afterwards.
func TestExternalRefreshKeepsSettings(t *testing.T) {
	db := tracked(t)
	conn := db.Connect(t)
	execOn(t, conn, "SET lock_timeout = '7s'", "SET search_path = public", "REFRESH MATERIALIZED VIEW v")
	var settings string
	err := conn.QueryRow(t.Context(), "SELECT current_setting('lock_timeout') || ' ' || current_setting('search_path')").Scan(&settings)
	if err != nil || settings != "7s public" {
		t.Errorf("%s, %v", settings, err)
	}
}

// A blocking refresh shows its rows to older snapshots, too, but not what is recorded of
// them: the older record says nothing about the newer rows. Here the rows are of an even
// older time than that: the refresh had waited for its lock.
func TestRowsNewerThanTheSnapshot(t *testing.T) {
	db := tracked(t)
	db.Exec(t, "CREATE TABLE counted (n int); INSERT INTO counted VALUES (1); CREATE MATERIALIZED VIEW c AS SELECT count(*) AS n FROM counted")
	first, second, reader := db.Connect(t), db.Connect(t), db.Connect(t)
	execOn(t, first, "REFRESH MATERIALIZED VIEW c", "BEGIN", "LOCK TABLE counted IN ACCESS EXCLUSIVE MODE")
	execOn(t, reader, "SET default_transaction_isolation = 'repeatable read'", "BEGIN")
	wantIn := func(reason string) {
		t.Helper()
		views := map[string]func() (freshness.View, bool, error){
			"all": func() (v freshness.View, found bool, err error) {
				views, err := freshness.All(t.Context(), reader, "public")
				i := slices.IndexFunc(views, func(v freshness.View) bool { return v.Name == "c" })
				return views[i], true, err
			},
			"one": func() (freshness.View, bool, error) { return freshness.Find(t.Context(), reader, "public", "c") },
		}
		for name, read := range views {
			if v, _, err := read(); err != nil || text(v.StaleReason) != reason || (v.DataAsOf == nil) != (reason != "null") {
				t.Errorf("%s: %s, %v, %v; want %s", name, text(v.StaleReason), v.DataAsOf, err, reason)
			}
		}
		var asOf *time.Time
		if err := reader.QueryRow(t.Context(), "SELECT data_as_of FROM materialized_view_freshness_of('c'::regclass)").Scan(&asOf); err != nil || (asOf == nil) != (reason != "null") {
			t.Errorf("of one: %v, %v", asOf, err)
		}
	}
	wantIn("null")
	done := make(chan error, 1)
	go func() {
		_, err := second.Exec(t.Context(), "REFRESH MATERIALIZED VIEW c")
		done <- err
	}()
	execOn(t, first, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	execOn(t, reader, "SELECT n FROM c") // the newer rows
	wantIn("changed_outside")
	execOn(t, reader, "COMMIT", "BEGIN")
	wantIn("null")
}
