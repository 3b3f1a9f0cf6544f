package freshness_test

import "testing"

// To a snapshot from before it, a TRUNCATE has emptied the table, and what the
// same transaction then inserted is not there: a REFRESH that waited for it
// empties the view, of which nothing can be recorded. So too where it exchanged a
// partition for another.
func TestExternalRefreshOfTruncatedTable(t *testing.T) {
	for name, change := range map[string][]string{
		"truncate": {"TRUNCATE source", "INSERT INTO source VALUES (2)"},
		"exchange": {
			"CREATE TABLE other (LIKE source)", "INSERT INTO other VALUES (1)",
			"ALTER TABLE source DETACH PARTITION source_1", "ALTER TABLE source ATTACH PARTITION other FOR VALUES IN (1)",
		},
		"drop": {"DROP TABLE source_1", "CREATE TABLE source_1 PARTITION OF source FOR VALUES IN (1)", "INSERT INTO source VALUES (1)"},
	} {
		t.Run(name, func(t *testing.T) { testExternalRefreshOfRewrittenTable(t, change) })
	}
}

func testExternalRefreshOfRewrittenTable(t *testing.T, change []string) {
	t.Helper()
	db := tracked(t)
	db.Exec(t, `DROP TABLE source CASCADE; CREATE TABLE source (x int) PARTITION BY LIST (x);
CREATE TABLE source_1 PARTITION OF source FOR VALUES IN (1); CREATE TABLE source_2 PARTITION OF source DEFAULT;
INSERT INTO source VALUES (1);
CREATE MATERIALIZED VIEW v AS SELECT x FROM source`)
	truncating, refreshing := db.Connect(t), db.Connect(t)
	execOn(t, truncating, "REFRESH MATERIALIZED VIEW v")
	before := attempts(t, db, "v")
	if v := find(t, db.Pool(t), "v"); before == "" || v.DataAsOf == nil {
		t.Fatalf("attempts %q, as of %v before", before, v.DataAsOf)
	}
	execOn(t, truncating, append([]string{"BEGIN"}, change...)...)
	refreshed := make(chan error)
	go func() {
		_, err := refreshing.Exec(t.Context(), "REFRESH MATERIALIZED VIEW v")
		refreshed <- err
	}()
	for waiting := false; !waiting; {
		if err := truncating.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'source'::regclass)").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	execOn(t, truncating, "COMMIT")
	if err := <-refreshed; err != nil {
		t.Fatal(err)
	}
	v := find(t, db.Pool(t), "v")
	if attempts(t, db, "v") != before || v.DataAsOf != nil || text(v.StaleReason) != "changed_outside" {
		t.Errorf("attempts %q, as of %v, stale reason %s", attempts(t, db, "v"), v.DataAsOf, text(v.StaleReason))
	}
	execOn(t, refreshing, "REFRESH MATERIALIZED VIEW v")
	if v := find(t, db.Pool(t), "v"); v.DataAsOf == nil || v.StaleReason != nil {
		t.Errorf("as of %v, stale reason %s after another REFRESH", v.DataAsOf, text(v.StaleReason))
	}
}
