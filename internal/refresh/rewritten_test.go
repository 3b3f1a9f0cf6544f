package refresh_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
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

// Terraform creates a view while somebody truncates and fills what it reads.
func TestCreatedOverTruncatedMeanwhile(t *testing.T) {
	for name, change := range map[string]string{
		"truncate": "TRUNCATE parts; INSERT INTO parts VALUES (1, 2)",
		"exchange": `CREATE TABLE other (id int, n int); INSERT INTO other VALUES (1, 2);
ALTER TABLE parts DETACH PARTITION part_1; ALTER TABLE parts ATTACH PARTITION other FOR VALUES IN (1)`,
		"nothing": "LOCK TABLE parts; INSERT INTO parts VALUES (1, 2)",
	} {
		t.Run(name, func(t *testing.T) {
			db := installed(t)
			db.Exec(t, `CREATE TABLE parts (id int, n int) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, 1);
CREATE VIEW plain AS SELECT id, n FROM parts`)
			pool := db.Pool(t)
			changing := db.Connect(t)
			if _, err := changing.Exec(t.Context(), "BEGIN; "+change); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			go func() {
				ended <- pgx.BeginFunc(context.WithoutCancel(t.Context()), pool, func(tx pgx.Tx) error {
					population, err := refresh.BeginPopulation(t.Context(), tx, "public")
					if err != nil {
						return err
					}
					if _, err := tx.Exec(t.Context(), "CREATE MATERIALIZED VIEW v AS SELECT id, n FROM plain"); err != nil {
						return err
					}
					_, err = refresh.RecordPopulation(t.Context(), tx, "public", population, matview.Name{Schema: "public", Relation: "v"}, "create")
					return err
				})
			}()
			waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'parts'::regclass)`)
			if _, err := changing.Exec(t.Context(), "COMMIT"); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			v, partial := fresh(t, pool, "v"), name != "nothing"
			if (v.DataAsOf == nil) != partial || (v.StaleReason != nil && *v.StaleReason == "unverified") != partial || (v.RefreshDurationMS == nil) != partial {
				t.Errorf("%d rows, freshness %+v", scan[int](t, pool, "SELECT count(*) FROM v"), v)
			}
			if warned := scan[bool](t, pool, "SELECT coalesce(warning, '') LIKE '%truncated, rewritten, detached or replaced meanwhile%' FROM materialized_view_refresh_history"); warned != partial {
				t.Errorf("warned: %t", warned)
			}
			mustRefresh(t, pool, manual("v", refresh.Blocking))
			if v := fresh(t, pool, "v"); v.DataAsOf == nil || v.StaleReason != nil {
				t.Errorf("freshness %+v after a refresh", v)
			}
		})
	}
}
