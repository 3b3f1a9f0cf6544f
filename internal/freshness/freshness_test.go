package freshness_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// installed is a database with our tables and a view v of one row.
func installed(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "installed", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "CREATE TABLE source AS SELECT 1 AS x; CREATE MATERIALIZED VIEW v AS SELECT x FROM source")
		return err
	})
}

func find(t *testing.T, pool *pgxpool.Pool, name string) freshness.View {
	t.Helper()
	view, found, err := freshness.Find(t.Context(), pool, "public", name)
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Fatalf("%s is unknown", name)
	}
	return view
}

// recordedRefresh refreshes a view as our own programs do.
func recordedRefresh(t *testing.T, pool *pgxpool.Pool, view string) {
	t.Helper()
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), refresh.Request{View: view, Method: refresh.Blocking, Trigger: "manual"})
	if err != nil {
		t.Fatal(err)
	}
}

func text(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

const (
	// foreignRow is by a program that we know nothing of.
	foreignRow = "INSERT INTO materialized_view_refresh_log VALUES ('v', clock_timestamp() - interval '10 seconds', 500);"
	everyHour  = "INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 hour');"
)

func TestStaleReason(t *testing.T) {
	cases := map[string]struct {
		before  string // SQL before a recorded refresh
		refresh bool
		after   string
		reason  string
		asOf    bool // whether data_as_of is known
	}{
		"ours":                    {refresh: true, reason: "null", asOf: true},
		"foreign":                 {after: foreignRow, reason: "null", asOf: true},
		"scheduled, never":        {after: everyHour, reason: "never_refreshed"},
		"not populated":           {refresh: true, after: "REFRESH MATERIALIZED VIEW v WITH NO DATA", reason: "not_populated"},
		"not populated, foreign":  {after: foreignRow + "REFRESH MATERIALIZED VIEW v WITH NO DATA", reason: "not_populated"},
		"old":                     {before: everyHour, after: "UPDATE materialized_view_refresh_schedule SET every = '1 microsecond', max_staleness = '1 microsecond'", refresh: true, reason: "older_than_max_staleness", asOf: true},
		"old, foreign":            {after: "INSERT INTO materialized_view_refresh_log VALUES ('v', now() - interval '3 hours', 500);" + everyHour, reason: "older_than_max_staleness", asOf: true},
		"young enough":            {after: "INSERT INTO materialized_view_refresh_log VALUES ('v', now() - interval '119 minutes', 500);" + everyHour, reason: "null", asOf: true},
		"recreated":               {refresh: true, after: "DROP MATERIALIZED VIEW v; CREATE MATERIALIZED VIEW v AS SELECT x FROM source", reason: "recreated"},
		"refreshed in psql":       {refresh: true, after: "REFRESH MATERIALIZED VIEW v", reason: "changed_outside"},
		"concurrently in psql":    {before: "CREATE UNIQUE INDEX ON v (x)", refresh: true, after: "REFRESH MATERIALIZED VIEW CONCURRENTLY v", reason: "changed_outside"},
		"psql and a row of it":    {refresh: true, after: "REFRESH MATERIALIZED VIEW v; UPDATE materialized_view_refresh_log SET last_refreshed_at = clock_timestamp(), refresh_duration_ms = 5", reason: "null", asOf: true},
		"a row and no refresh":    {refresh: true, after: "UPDATE materialized_view_refresh_log SET last_refreshed_at = clock_timestamp() + interval '1 hour'", reason: "null", asOf: true},
		"vacuum, index, analyze":  {refresh: true, after: "CREATE INDEX ON v (x); ANALYZE v", reason: "null", asOf: true},
		"no duration":             {after: "INSERT INTO materialized_view_refresh_log VALUES ('v', now() - interval '1 second')", reason: "unverified"},
		"negative duration":       {after: "INSERT INTO materialized_view_refresh_log VALUES ('v', now() - interval '1 second', -5)", reason: "unverified"},
		"in the future":           {after: "INSERT INTO materialized_view_refresh_log VALUES ('v', now() + interval '1 hour', 5)", reason: "unverified"},
		"at infinity":             {after: "INSERT INTO materialized_view_refresh_log VALUES ('v', 'infinity', 5)", reason: "unverified"},
		"before time":             {after: "INSERT INTO materialized_view_refresh_log VALUES ('v', '-infinity', 5)", reason: "unverified"},
		"of the stone age":        {after: "INSERT INTO materialized_view_refresh_log VALUES ('v', '4713-01-01 00:00+00 BC', 2147483647)", reason: "unverified"},
		"of a wide adopted table": {after: "ALTER TABLE materialized_view_refresh_log ALTER refresh_duration_ms TYPE bigint; INSERT INTO materialized_view_refresh_log VALUES ('v', now(), 9223372036854775807)", reason: "unverified"},
		"missing":                 {after: foreignRow + everyHour + "DROP MATERIALIZED VIEW v", reason: "missing"},
		"missing, logged alone":   {after: foreignRow + "DROP MATERIALIZED VIEW v", reason: "missing"},
		"log dropped":             {before: everyHour, refresh: true, after: "DROP TABLE materialized_view_refresh_log", reason: "never_refreshed"},
		"over a foreign upstream": {
			before: "CREATE MATERIALIZED VIEW up AS SELECT x FROM source; CREATE VIEW between AS SELECT x FROM up; DROP MATERIALIZED VIEW v; CREATE MATERIALIZED VIEW v AS SELECT x FROM between",
			after:  foreignRow, reason: "unverified",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			db := installed(t)
			pool := db.Pool(t)
			db.Exec(t, c.before)
			if c.refresh {
				recordedRefresh(t, pool, "v")
			}
			db.Exec(t, c.after)
			view := find(t, pool, "v")
			if got := text(view.StaleReason); got != c.reason {
				t.Errorf("stale_reason is %s, want %s", got, c.reason)
			}
			if got := view.DataAsOf != nil; got != c.asOf {
				t.Errorf("data_as_of is %v", view.DataAsOf)
			}
			if (view.StalenessSeconds != nil) != c.asOf {
				t.Error("staleness_seconds goes with data_as_of")
			}
			if view.IsStale == nil || *view.IsStale != (c.reason != "null") {
				t.Errorf("is_stale is %v", view.IsStale)
			}
			if view.DataAsOf != nil && view.DataAsOf.After(time.Now()) {
				t.Errorf("data_as_of %s is in the future", view.DataAsOf)
			}
		})
	}
}

// Somebody claims a later refresh than ours, but nobody has touched the view.
func TestRowWithoutRefreshDoesNotMakeFresher(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	recordedRefresh(t, pool, "v")
	before := find(t, pool, "v")
	db.Exec(t, "UPDATE materialized_view_refresh_log SET last_refreshed_at = clock_timestamp(), refresh_duration_ms = 0")
	if after := find(t, pool, "v"); !after.DataAsOf.Equal(*before.DataAsOf) {
		t.Errorf("data_as_of went from %s to %s", before.DataAsOf, after.DataAsOf)
	}
}

func TestForeignRow(t *testing.T) {
	db := installed(t)
	db.Exec(t, "INSERT INTO materialized_view_refresh_log VALUES ('v', '2025-11-09 10:14:30.123456+00', 920, 150, 1250000)")
	view := find(t, db.Pool(t), "v")
	if want := time.Date(2025, 11, 9, 10, 14, 29, 202456000, time.UTC); !view.DataAsOf.Equal(want) {
		t.Errorf("data_as_of is %s, want last_refreshed_at less the duration and a millisecond, %s", view.DataAsOf.UTC(), want)
	}
	if *view.StalenessSeconds <= *view.SecondsSinceRefresh {
		t.Errorf("%f seconds stale, %f since the refresh", *view.StalenessSeconds, *view.SecondsSinceRefresh)
	}
	if *view.TotalJobs != 150 || *view.TotalObjects != 1250000 || view.IsScheduled {
		t.Errorf("%+v", view)
	}
}

func TestNobodyAsked(t *testing.T) {
	db := installed(t)
	view := find(t, db.Pool(t), "v")
	if view.Asked() || view.StaleReason != nil || view.DataAsOf != nil {
		t.Errorf("%+v", view)
	}
}

func TestPerformanceRating(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	for ms, want := range map[string]string{"0": "Fast", "999": "Fast", "1000": "Normal", "4999": "Normal", "5000": "Slow", "NULL": "null"} {
		db.Exec(t, "INSERT INTO materialized_view_refresh_log VALUES ('v', now(), "+ms+") ON CONFLICT (view_name) DO UPDATE SET refresh_duration_ms = EXCLUDED.refresh_duration_ms")
		if got := text(find(t, pool, "v").PerformanceRating); got != want {
			t.Errorf("%s ms: %s, want %s", ms, got, want)
		}
	}
}

func TestMaxStaleness(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	db.Exec(t, "INSERT INTO materialized_view_refresh_log VALUES ('v', now(), 4000)")
	for columns, want := range map[string]float64{
		"(view_name, every) VALUES ('v', '10 minutes')":                                    1204,
		"(view_name, every, jitter) VALUES ('v', '10 minutes', '1 minute')":                1324,
		"(view_name, cron, longest_gap) VALUES ('v', '@hourly', '1 hour')":                 7204,
		"(view_name, every, max_staleness) VALUES ('v', '10 minutes', '90 seconds')":       90,
		"(view_name, target_staleness) VALUES ('v', '5 minutes')":                          604,
		"(view_name, every, enabled) VALUES ('v', '10 minutes', false)":                    1204,
		"(view_name, every, max_staleness) VALUES ('public.v', '10 minutes', '2 minutes')": 120,
	} {
		db.Exec(t, "DELETE FROM materialized_view_refresh_schedule")
		db.Exec(t, "INSERT INTO materialized_view_refresh_schedule "+columns)
		view := find(t, pool, "v")
		if view.MaxStalenessSeconds == nil || *view.MaxStalenessSeconds != want {
			t.Errorf("%s: %v, want %f", columns, view.MaxStalenessSeconds, want)
		}
	}
}

// Reading waits for no refresh: another session holds ACCESS EXCLUSIVE on v.
func TestReadingDoesNotWaitForRefresh(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	recordedRefresh(t, pool, "v")
	db.Exec(t, everyHour)
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW v"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := freshness.All(ctx, pool, "public"); err != nil {
		t.Fatal(err)
	}
	if view := find(t, pool, "v"); view.StaleReason != nil {
		t.Errorf("what is not committed shows: %s", *view.StaleReason)
	}
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if got := text(find(t, pool, "v").StaleReason); got != "changed_outside" {
		t.Errorf("stale_reason is %s", got)
	}
}
