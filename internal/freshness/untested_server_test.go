package freshness_test

import "testing"

// A server of a major that was not tested may not change the view's pg_class row at
// every REFRESH, and so hide one by somebody else. Nothing is fresh there.
func TestUntestedServer(t *testing.T) {
	db := tracked(t)
	recordedRefresh(t, db.Pool(t), "v")
	wantReason(t, db, "v", "null")
	db.Exec(t, "CREATE OR REPLACE FUNCTION materialized_view_server_is_tested() RETURNS BOOLEAN LANGUAGE sql STABLE AS 'SELECT false'")
	wantReason(t, db, "v", "unverified")
	recordedRefresh(t, db.Pool(t), "v")
	wantReason(t, db, "v", "unverified")
}
