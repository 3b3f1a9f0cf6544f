package freshness_test

import (
	"os"
	"strings"
	"testing"
)

// untested makes the server one of a major that nobody has tested.
const untested = `CREATE OR REPLACE FUNCTION materialized_view_server_is_tested() RETURNS BOOLEAN LANGUAGE sql STABLE AS 'SELECT false'`

// escapes stands for a REFRESH CONCURRENTLY that leaves the view's pg_class row as it
// was: afterwards the state has the fingerprint that the view has.
const escapes = `UPDATE materialized_view_refresh_state AS s SET view_xmin = c.xmin FROM pg_class AS c WHERE c.oid = s.view_oid AND s.view_name = 'v'`

// On a server that may hide a refresh by somebody else, nothing is fresh without
// the event trigger.
func TestUntestedServerWithoutTracking(t *testing.T) {
	db := tracked(t)
	recordedRefresh(t, db.Pool(t), "v")
	wantReason(t, db, "v", "null")
	db.Exec(t, untested)
	wantReason(t, db, "v", "null")
	db.Exec(t, "ALTER EVENT TRIGGER materialized_view_refresh_tracked ENABLE")
	wantReason(t, db, "v", "unverified")
	db.Exec(t, "DROP EVENT TRIGGER materialized_view_refresh_tracked")
	execOn(t, db.Connect(t), "REFRESH MATERIALIZED VIEW CONCURRENTLY v", escapes)
	wantReason(t, db, "v", "unverified")
	recordedRefresh(t, db.Pool(t), "v")
	wantReason(t, db, "v", "unverified")
	// What may have been refreshed unseen is not believed once refreshes are tracked.
	file, err := os.ReadFile("../../migrations/004_external_refreshes.sql")
	if err != nil {
		t.Fatal(err)
	}
	execOn(t, db.Connect(t), "SET matview.track_external_refreshes = on", string(file))
	wantReason(t, db, "v", "unverified")
	recordedRefresh(t, db.Pool(t), "v")
	wantReason(t, db, "v", "null")
}

// A refresh that the event trigger does not record changes the fingerprint.
func TestUntestedServerWithUnrecordedRefresh(t *testing.T) {
	for name, block := range map[string]string{
		"locked state": "SELECT FROM materialized_view_refresh_state FOR UPDATE",
		"no state":     "ALTER TABLE materialized_view_refresh_state RENAME TO gone",
	} {
		t.Run(name, func(t *testing.T) {
			db := tracked(t)
			recordedRefresh(t, db.Pool(t), "v")
			db.Exec(t, untested)
			holder, refreshing := db.Connect(t), db.Connect(t)
			if name == "locked state" {
				execOn(t, holder, "BEGIN", block)
				execOn(t, refreshing, "REFRESH MATERIALIZED VIEW CONCURRENTLY v")
				execOn(t, holder, "ROLLBACK")
			} else {
				execOn(t, refreshing, block, "REFRESH MATERIALIZED VIEW CONCURRENTLY v", "ALTER TABLE gone RENAME TO materialized_view_refresh_state")
			}
			wantReason(t, db, "v", "changed_outside")
			execOn(t, refreshing, "REFRESH MATERIALIZED VIEW CONCURRENTLY v")
			wantReason(t, db, "v", "null")
			db.Exec(t, "CREATE OR REPLACE FUNCTION materialized_view_refresh_mark_unrecorded() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'marked'; END $$")
			db.Exec(t, "ALTER TABLE materialized_view_refresh_state RENAME TO gone")
			if _, err := refreshing.Exec(t.Context(), "REFRESH MATERIALIZED VIEW CONCURRENTLY v"); err == nil || !strings.Contains(err.Error(), "marked") {
				t.Errorf("an unrecorded refresh does not change the fingerprint: %v", err)
			}
		})
	}
}

func TestMarkUnrecordedChangesOnlyTheRow(t *testing.T) {
	db := tracked(t)
	conn := db.Connect(t)
	const row = "SELECT (to_jsonb(c) - 'xmin')::text || c.relfilenode FROM pg_class AS c WHERE oid = 'v'::regclass"
	var before, after, xmin, xminAfter string
	if err := conn.QueryRow(t.Context(), row).Scan(&before); err != nil {
		t.Fatal(err)
	}
	const xminSQL = "SELECT xmin::text FROM pg_class WHERE oid = 'v'::regclass"
	if err := conn.QueryRow(t.Context(), xminSQL).Scan(&xmin); err != nil {
		t.Fatal(err)
	}
	execOn(t, conn, "ALTER MATERIALIZED VIEW v RESET (matview_unrecorded)")
	if err := conn.QueryRow(t.Context(), row).Scan(&after); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), xminSQL).Scan(&xminAfter); err != nil {
		t.Fatal(err)
	}
	if before != after || xmin == xminAfter {
		t.Errorf("the row was %s (xmin %s) and is %s (xmin %s)", before, xmin, after, xminAfter)
	}
}
