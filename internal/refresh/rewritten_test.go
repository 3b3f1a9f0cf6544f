package refresh_test

import (
	"context"
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// To a snapshot from before it, a TRUNCATE has emptied the table, and what the
// same transaction then inserted is not there.
func TestTruncatedMeanwhile(t *testing.T) {
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently} {
		t.Run(string(method), func(t *testing.T) {
			db := installed(t)
			db.Exec(t, `CREATE TABLE parts (id int, n int) PARTITION BY LIST (id);
CREATE TABLE "part 1" PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, 1);
CREATE VIEW plain AS SELECT id, n FROM parts;
CREATE MATERIALIZED VIEW v AS SELECT id, n FROM plain;
CREATE UNIQUE INDEX ON v (id);`)
			pool := db.Pool(t)
			mustRefresh(t, pool, manual("v", method))
			before := fresh(t, pool, "v")

			truncating := db.Connect(t)
			if _, err := truncating.Exec(t.Context(), `BEGIN; TRUNCATE parts; INSERT INTO parts VALUES (1, 2)`); err != nil {
				t.Fatal(err)
			}
			failed := make(chan error)
			go func() {
				_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), manual("v", method))
				failed <- err
			}()
			waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND datname = current_database() AND wait_event_type = 'Lock')`)
			if _, err := truncating.Exec(t.Context(), `COMMIT`); err != nil {
				t.Fatal(err)
			}
			if err := <-failed; err == nil || !strings.Contains(err.Error(), `: "part 1" was truncated or rewritten meanwhile`) {
				t.Errorf("err = %v", err)
			}
			if n := scan[int](t, pool, "SELECT n FROM v"); n != 1 {
				t.Errorf("the view has %d, want what it had", n)
			}
			if after := fresh(t, pool, "v"); !after.DataAsOf.Equal(*before.DataAsOf) || after.ConsecutiveFailures != 1 {
				t.Errorf("freshness %+v", after)
			}
			mustRefresh(t, pool, manual("v", method))
			if n := scan[int](t, pool, "SELECT n FROM v"); n != 2 {
				t.Errorf("the view has %d, want 2", n)
			}
		})
	}
}
