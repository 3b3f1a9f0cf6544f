package refresh_test

import (
	"context"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// To a snapshot from before it, a TRUNCATE has emptied the table, and what the
// same transaction then inserted is not there; so too where it exchanged a
// partition for another. A refresh that waited for it is tried again.
func TestTruncatedMeanwhile(t *testing.T) {
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently, refresh.Swap} {
		for name, change := range map[string]string{
			"truncate": "TRUNCATE parts; INSERT INTO parts VALUES (1, 2)",
			"exchange": `CREATE TABLE other (id int, n int); INSERT INTO other VALUES (1, 2);
ALTER TABLE parts DETACH PARTITION part_1; ALTER TABLE parts ATTACH PARTITION other FOR VALUES IN (1)`,
			"view": "CREATE TABLE other (id int, n int); INSERT INTO other VALUES (1, 2); CREATE OR REPLACE VIEW plain AS SELECT id, n FROM other",
			"drop": "DROP TABLE part_1; CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1, 2)",
		} {
			t.Run(string(method)+" "+name, func(t *testing.T) { testRewrittenMeanwhile(t, method, change) })
		}
	}
}

func testRewrittenMeanwhile(t *testing.T, method refresh.Method, change string) {
	t.Helper()
	db := installed(t)
	db.Exec(t, `CREATE TABLE parts (id int, n int) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, 1);
CREATE VIEW plain AS SELECT id, n FROM parts;
CREATE MATERIALIZED VIEW v AS SELECT id, n FROM plain;
CREATE UNIQUE INDEX ON v (id);`)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("v", method))

	truncating := db.Connect(t)
	if _, err := truncating.Exec(t.Context(), "BEGIN; "+change); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), manual("v", method))
		ended <- err
	}()
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation IN ('parts'::regclass, 'plain'::regclass))`)
	committed := scan[time.Time](t, pool, "SELECT clock_timestamp()")
	if _, err := truncating.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := scan[int](t, pool, "SELECT coalesce(sum(n), 0) FROM v"); n != 2 {
		t.Errorf("the view has %d, want what was there after that", n)
	}
	if v := fresh(t, pool, "v"); v.DataAsOf.Before(committed) {
		t.Errorf("as of %s, which is of the try that saw nothing", v.DataAsOf)
	}
}
