package refresh_test

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

var (
	skipSeed  = flag.Uint64("skip.seed", 1, "seed of the random test of skipping")
	skipSteps = flag.Int("skip.steps", 40, "checks that the random test of skipping makes")
)

// Several sessions change at random what a view reads, each counting its changes
// as soon as it can, so that the lag for late counts can be none. Each change
// leaves the time after its commit in a table that the view does not read: no
// change that was committed before the as-of may be missing in the view.
func TestSkipIsHonestAtRandom(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, `
CREATE TABLE facts (id bigint, part int) PARTITION BY LIST (part);
CREATE TABLE facts_0 PARTITION OF facts FOR VALUES IN (0); CREATE TABLE facts_1 PARTITION OF facts FOR VALUES IN (1);
CREATE TABLE beats (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz);
CREATE VIEW all_facts AS SELECT id, part FROM facts WHERE id > 0;
CREATE MATERIALIZED VIEW seen AS SELECT id FROM all_facts WITH NO DATA;
CREATE MATERIALIZED VIEW seen_again AS SELECT id FROM seen WITH NO DATA;
CREATE FUNCTION beat() RETURNS bigint LANGUAGE sql AS 'INSERT INTO beats DEFAULT VALUES RETURNING id';
CREATE PROCEDURE several(n int, pause float8) LANGUAGE plpgsql AS $$
DECLARE beat bigint;
BEGIN
	PERFORM pg_stat_force_next_flush(); -- when it ends
	FOR i IN 1..n LOOP
		beat := beat();
		INSERT INTO facts VALUES (beat, i % 2);
		COMMIT;
		-- Committed before this, and not counted before the end.
		UPDATE beats SET at = clock_timestamp() WHERE id = beat;
		COMMIT;
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;`)
	pool := db.Pool(t)
	refresher := refresh.New(pool, "public", "test")
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for n := range 2 {
		conn := db.Connect(t)
		r := rand.New(rand.NewPCG(*skipSeed, uint64(n))) //nolint:gosec // repeatable
		writers.Go(func() {
			for ctx.Err() == nil {
				if err := change(ctx, conn, r); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(*skipSeed, 99)) //nolint:gosec // repeatable
	outcomes := map[bool]int{}
	for step := 0; (step < *skipSteps || outcomes[true] == 0) && !t.Failed(); step++ {
		view := []string{"seen", "seen_again"}[r.IntN(2)]
		req := skipping(view)
		req.Method, req.SkipUnchanged.Lag = refresh.Blocking, time.Nanosecond
		result, err := refresher.Refresh(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		outcomes[result.Skipped]++
		honest(t, pool)
	}
	stop()
	writers.Wait()
	t.Logf("%d skipped, %d refreshed", outcomes[true], outcomes[false])
}

// change is one thing that a session may do to the table, with its beats.
func change(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	simple := func(sql string, args ...any) error {
		_, err := conn.Exec(ctx, sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
		return err
	}
	if err := simple("SELECT pg_stat_force_next_flush()"); err != nil {
		return err
	}
	switch r.IntN(7) {
	case 0: // one transaction, counted at once
		var beat int64
		err := conn.QueryRow(ctx, "WITH b AS (SELECT beat() AS id), f AS (INSERT INTO facts SELECT id, $1 FROM b) SELECT id FROM b", r.IntN(2)).Scan(&beat)
		if err != nil {
			return err
		}
		return simple("SELECT pg_stat_force_next_flush(); UPDATE beats SET at = clock_timestamp() WHERE id = $1", beat)
	case 1, 2, 3: // one that commits as it goes
		return simple("CALL several($1, $2)", 1+r.IntN(3), r.Float64()/2)
	case 4: // nothing for a while, in a transaction or not
		if r.IntN(2) == 0 {
			return simple("SELECT pg_sleep($1)", r.Float64()/5)
		}
		return errors.Join(simple("BEGIN; SELECT count(*) FROM facts"), simple("SELECT pg_sleep($1)", r.Float64()/5), simple("SELECT pg_stat_force_next_flush()"), simple("COMMIT"))
	case 5: // changed in a transaction that is rolled back
		return errors.Join(simple("BEGIN; INSERT INTO facts VALUES (-1, 0)"), simple("SELECT pg_stat_force_next_flush()"), simple("ROLLBACK"))
	default:
		return simple("SELECT pg_sleep($1)", r.Float64()/2)
	}
}

// honest compares what is claimed with what is there, in one snapshot.
func honest(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
SELECT v.view_name, v.data_as_of, b.id, b.at
FROM materialized_view_freshness AS v
JOIN beats AS b ON b.at < v.data_as_of AND EXISTS (SELECT FROM facts AS f WHERE f.id = b.id)
WHERE NOT EXISTS (SELECT FROM seen AS s WHERE v.view_name = 'seen' AND s.id = b.id
                  UNION ALL SELECT FROM seen_again AS s WHERE v.view_name = 'seen_again' AND s.id = b.id)
  AND v.is_populated`)
	if err != nil {
		t.Fatal(err)
	}
	var view string
	var asOf, at time.Time
	var beat int64
	_, err = pgx.ForEachRow(rows, []any{&view, &asOf, &beat, &at}, func() error {
		t.Errorf("%s claims as-of %s and misses %d, which was committed before %s", view, asOf, beat, at)
		return nil
	})
	var notPopulated interface{ SQLState() string }
	if err != nil && (!errors.As(err, &notPopulated) || notPopulated.SQLState() != "55000") {
		t.Fatal(err)
	}
}
