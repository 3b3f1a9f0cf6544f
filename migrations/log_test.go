package migrations_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

func TestApplyAdoptsLog(t *testing.T) {
	logs := map[string]string{
		"the document's table": `CREATE TABLE materialized_view_refresh_log (
    view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT)`,
		"its Option 2": `CREATE TABLE materialized_view_refresh_log (
    view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT)`,
		"wider types, a unique constraint, a column more": `CREATE TABLE materialized_view_refresh_log (
    note TEXT NOT NULL DEFAULT '', total_objects BIGINT, total_jobs BIGINT, refresh_duration_ms BIGINT,
    last_refreshed_at TIMESTAMPTZ, view_name VARCHAR(200) NOT NULL UNIQUE)`,
	}
	for name, create := range logs {
		t.Run(name, func(t *testing.T) {
			db := postgrestest.New(t)
			db.Exec(t, create)
			db.Exec(t, "CREATE MATERIALIZED VIEW job_progress AS SELECT 1 AS job_id")
			db.Exec(t, `INSERT INTO materialized_view_refresh_log (view_name, last_refreshed_at, refresh_duration_ms, total_jobs, total_objects)
VALUES ('job_progress', '2025-11-09 10:14:30.123+00', 920, 150, 1250000)`)
			oid := value[uint32](t, db, "SELECT 'materialized_view_refresh_log'::regclass::oid")
			for range 2 {
				apply(t, db, "public")
			}
			wantVersion(t, db, "public", migrations.Version())
			if now := value[uint32](t, db, "SELECT 'materialized_view_refresh_log'::regclass::oid"); now != oid {
				t.Error("the table was replaced")
			}
			row := value[string](t, db, `SELECT concat_ws(' ', last_refreshed_at AT TIME ZONE 'UTC', refresh_duration_ms, total_jobs, total_objects)
FROM materialized_view_freshness WHERE view_name = 'job_progress'`)
			if want := "2025-11-09 10:14:30.123 920 150 1250000"; row != want {
				t.Errorf("freshness shows %s, want %s", row, want)
			}
		})
	}
}

func TestApplyRefusesLog(t *testing.T) {
	cases := map[string]struct{ create, problem string }{
		"no view_name": {
			`CREATE TABLE materialized_view_refresh_log (name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMPTZ, refresh_duration_ms INT, total_jobs INT, total_objects BIGINT)`,
			"column view_name (text) is missing; column name is NOT NULL without a default, so that no row could be written; column view_name has no primary key or unique constraint, which INSERT … ON CONFLICT (view_name) needs",
		},
		"time without zone": {
			`CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMP, refresh_duration_ms INT, total_jobs INT, total_objects BIGINT)`,
			"column last_refreshed_at has type timestamp without time zone instead of timestamp with time zone",
		},
		"duration as interval": {
			`CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMPTZ, refresh_duration_ms INTERVAL, total_jobs INT, total_objects BIGINT)`,
			"column refresh_duration_ms has type interval instead of integer",
		},
		"no total_jobs": {
			`CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMPTZ, refresh_duration_ms INT, total_objects BIGINT)`,
			"column total_jobs (integer) is missing",
		},
		"total_objects too small": {
			`CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMPTZ, refresh_duration_ms INT, total_jobs INT, total_objects INT)`,
			"column total_objects has type integer instead of bigint",
		},
		"no unique constraint": {
			`CREATE TABLE materialized_view_refresh_log (view_name TEXT, last_refreshed_at TIMESTAMPTZ, refresh_duration_ms INT, total_jobs INT, total_objects BIGINT)`,
			"column view_name has no primary key or unique constraint, which INSERT … ON CONFLICT (view_name) needs",
		},
		"a column that must be filled": {
			`CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMPTZ, refresh_duration_ms INT, total_jobs INT, total_objects BIGINT, host TEXT NOT NULL)`,
			"column host is NOT NULL without a default, so that no row could be written",
		},
		"a view": {
			`CREATE VIEW materialized_view_refresh_log AS SELECT 'v'::text AS view_name`,
			"it is not a table",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			db := postgrestest.New(t)
			db.Exec(t, c.create)
			err := migrations.Apply(t.Context(), db.Connect(t), "public")
			var incompatible *migrations.IncompatibleLogError
			if !errors.As(err, &incompatible) {
				t.Fatalf("got %v, want an IncompatibleLogError", err)
			}
			want := "the existing table public.materialized_view_refresh_log cannot be used as the refresh log: " + c.problem + "; alter or rename it, nothing was changed"
			if err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
			if strings.ContainsRune(err.Error(), '\n') {
				t.Error("more than one line")
			}
			if n := value[int](t, db, "SELECT count(*) FROM pg_class WHERE relname LIKE 'materialized_view%' AND relkind IN ('r', 'v')"); n != 1 {
				t.Errorf("%d relations, want the log alone", n)
			}
		})
	}
}
