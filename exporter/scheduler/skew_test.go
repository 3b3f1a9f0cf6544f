package scheduler_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// skewed gives a database of its own another clock, for everything in it.
const skewed = `
SET allow_system_table_mods = on;
ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO real_clock_timestamp;
ALTER FUNCTION pg_catalog.now() RENAME TO real_now;
CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ SELECT pg_catalog.real_clock_timestamp() + interval '%[1]s' $$;
CREATE FUNCTION pg_catalog.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT pg_catalog.real_now() + interval '%[1]s' $$;
RESET allow_system_table_mods;`

// Database time decides: exporters whose clocks are minutes or hours off, either way,
// share the work as they do with one clock, and record nothing of the future.
func TestClockSkewIsHarmless(t *testing.T) {
	for _, skew := range []string{"3 h", "-3 h", "5 min", "-5 min"} {
		t.Run(skew, func(t *testing.T) {
			db := postgrestest.New(t)
			db.Exec(t, fmt.Sprintf(skewed, skew))
			conn := db.Connect(t)
			if err := migrations.Apply(t.Context(), conn, "public"); err != nil {
				t.Fatal(err)
			}
			p := pool(t, db)
			db.Exec(t, `CREATE MATERIALIZED VIEW by_every AS SELECT 1 AS x; CREATE MATERIALIZED VIEW by_target AS SELECT 1 AS x; CREATE MATERIALIZED VIEW by_cron AS SELECT 1 AS x;
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, attempted_by, heartbeat_at) VALUES ('by_cron', 'schedule', 'running', 'frozen', clock_timestamp());
INSERT INTO materialized_view_refresh_schedule (view_name, every, target_staleness, cron) VALUES ('by_every', '1 s', NULL, NULL), ('by_target', NULL, '5 s', NULL), ('by_cron', NULL, NULL, '0 3 1 1 *')`)
			began := time.Now()
			seen := newAttempts()
			stop, stopOther := start(t, options(t, p, seen)), start(t, options(t, p, seen))
			count := map[string]int{}
			for count["by_every"] < 3 || count["by_target"] < 2 || count["by_cron"] < 1 {
				got := seen.next(t)
				if got.outcome != "succeeded" {
					t.Fatalf("%+v", got)
				}
				count[got.view]++
			}
			stop()
			stopOther()
			// One a second and one at once, not all at once and not in three hours.
			if most := int(time.Since(began)/time.Second) + 2; count["by_every"] > most {
				t.Errorf("refreshed %d times in %s, every second", count["by_every"], time.Since(began))
			}
			for _, view := range []string{"by_every", "by_target", "by_cron"} {
				v, found, err := freshness.Find(t.Context(), p, "public", view)
				if err != nil || !found || v.StalenessSeconds == nil || *v.StalenessSeconds < 0 || *v.StalenessSeconds > 60 {
					t.Errorf("freshness %+v, %v", v, err)
				}
			}
			if !scan[bool](t, p, `SELECT bool_and(next_run_at > clock_timestamp() - interval '1 min') FROM materialized_view_refresh_state`) {
				t.Error("planned by another clock")
			}
		})
	}
}

// The clock of the database is hours ahead for a while. Once it is right again, nothing
// waits until it is that late: no schedule, no attempt of a process that died.
func TestClockSetBack(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, fmt.Sprintf(skewed, "8 h"))
	if err := migrations.Apply(t.Context(), db.Connect(t), "public"); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `CREATE MATERIALIZED VIEW by_every AS SELECT 1 AS x; CREATE MATERIALIZED VIEW by_target AS SELECT 1 AS x; CREATE MATERIALIZED VIEW by_cron AS SELECT 1 AS x; CREATE MATERIALIZED VIEW died AS SELECT 1 AS x;
INSERT INTO materialized_view_refresh_schedule (view_name, every, target_staleness, cron) VALUES ('by_every', '5 s', NULL, NULL), ('by_target', NULL, '20 s', NULL), ('by_cron', NULL, NULL, '* * * * *')`)
	refreshed := func(p *pgxpool.Pool, logger *slog.Logger, views ...string) {
		t.Helper()
		seen := newAttempts()
		o := options(t, p, seen)
		o.Logger = logger
		stop := start(t, o)
		defer stop()
		missing := map[string]bool{}
		for _, view := range views {
			missing[view] = true
		}
		for len(missing) > 0 {
			delete(missing, seen.next(t).view)
		}
	}
	refreshed(pool(t, db), slog.New(slog.DiscardHandler), "by_every", "by_target", "by_cron")
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, attempted_by, heartbeat_at) VALUES ('died', 'schedule', 'running', 'died', clock_timestamp());
CREATE OR REPLACE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ SELECT pg_catalog.real_clock_timestamp() $$;
CREATE OR REPLACE FUNCTION pg_catalog.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT pg_catalog.real_now() $$;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('died', '1 h')`)
	p := pool(t, db)
	if v, found, err := freshness.Find(t.Context(), p, "public", "by_every"); err != nil || !found || v.SecondsSinceRefresh != nil || v.DataAsOf != nil {
		t.Errorf("%+v, %v", v, err)
	}
	logged := &lines{}
	refreshed(p, slog.New(slog.NewTextHandler(logged, nil)), "by_every", "by_target", "by_cron", "died")
	logged.await(t, "the clock of the database was set back")
	if !scan[bool](t, p, "SELECT bool_and(next_run_at < clock_timestamp() + interval '62 min') FROM materialized_view_refresh_state") {
		t.Error("a run is planned too late")
	}
}
