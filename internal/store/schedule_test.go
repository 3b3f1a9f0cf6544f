package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

func installed(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "installed", func(ctx context.Context, conn *pgx.Conn) error {
		return migrations.Apply(ctx, conn, "My.Schema")
	})
}

var tables = store.New("My.Schema")

var full = store.Schedule{
	ViewName:         `app."Odd, ""view"""`,
	Spec:             schedule.Spec{Cron: "*/5 * * * *", TimeZone: "Europe/Berlin", Jitter: 1500 * time.Microsecond},
	Method:           "concurrently",
	LockTimeout:      1234 * time.Millisecond,
	StatementTimeout: 90 * time.Minute,
	MaxStaleness:     100 * 24 * time.Hour,
	SkipUnchanged:    true,
	Settings:         map[string]string{"work_mem": "64MB"},
	TotalJobs:        "count(*)",
	TotalObjects:     "sum(total) -- all",
}

func TestScheduleRoundTrip(t *testing.T) {
	pool := installed(t).Pool(t)
	ctx := t.Context()
	get := func(name string, want store.Schedule) {
		t.Helper()
		row, found, err := tables.Schedule(ctx, pool, name)
		if err != nil || !found {
			t.Fatalf("found %v, error %v", found, err)
		}
		if diff := cmp.Diff(want, row); diff != "" {
			t.Error(diff)
		}
	}
	if _, found, err := tables.Schedule(ctx, pool, full.ViewName); found || err != nil {
		t.Fatalf("found %v, error %v", found, err)
	}
	if err := tables.InsertSchedule(ctx, pool, full); err != nil {
		t.Fatal(err)
	}
	get(full.ViewName, full)
	if err := tables.InsertSchedule(ctx, pool, full); !errors.Is(err, store.ErrScheduleExists) {
		t.Errorf("inserted twice: %v", err)
	}

	least := store.Schedule{ViewName: "v", Spec: schedule.Spec{Every: time.Microsecond}, Method: "auto", Enabled: true}
	stored := least
	stored.TimeZone, stored.LockTimeout, stored.Settings = "UTC", store.DefaultLockTimeout, map[string]string{}
	if err := tables.UpdateSchedule(ctx, pool, full.ViewName, least); err != nil {
		t.Fatal(err)
	}
	get("v", stored)
	if err := tables.UpdateSchedule(ctx, pool, full.ViewName, full); !errors.Is(err, store.ErrScheduleNotFound) {
		t.Errorf("the old name is still there: %v", err)
	}
	if err := tables.InsertSchedule(ctx, pool, full); err != nil {
		t.Fatal(err)
	}
	if err := tables.UpdateSchedule(ctx, pool, full.ViewName, least); !errors.Is(err, store.ErrScheduleExists) {
		t.Errorf("onto another's name: %v", err)
	}
	for range 2 {
		if err := tables.DeleteSchedule(ctx, pool, "v"); err != nil {
			t.Error(err)
		}
	}
}

func TestLongestGapIsStored(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	gap := func() (gap *time.Duration) {
		t.Helper()
		if err := pool.QueryRow(t.Context(), `SELECT longest_gap FROM "My.Schema".materialized_view_refresh_schedule`).Scan(&gap); err != nil {
			t.Fatal(err)
		}
		return gap
	}
	row := store.Schedule{ViewName: "v", Spec: schedule.Spec{Cron: "@hourly"}, Method: "auto"}
	if err := tables.InsertSchedule(t.Context(), pool, row); err != nil {
		t.Fatal(err)
	}
	if got := gap(); got == nil || *got != time.Hour {
		t.Errorf("gap of @hourly is %v", got)
	}
	row.Cron = "@daily"
	if err := tables.UpdateSchedule(t.Context(), pool, "v", row); err != nil {
		t.Fatal(err)
	}
	if got := gap(); got == nil || *got != 24*time.Hour {
		t.Errorf("gap of @daily is %v", got)
	}
	// By hand, by somebody who cannot tell the gap.
	db.Exec(t, `UPDATE "My.Schema".materialized_view_refresh_schedule SET cron = '@weekly'`)
	if got := gap(); got != nil {
		t.Errorf("gap is %v after the cron changed", got)
	}
}

// What the specification promises to people with psql.
func TestScheduleByHand(t *testing.T) {
	db := installed(t)
	for column, text := range map[string]string{"cron": "@daily", "every": "2 months 1 day", "target_staleness": "5 minutes"} {
		db.Exec(t, `INSERT INTO "My.Schema".materialized_view_refresh_schedule (view_name, `+column+`) VALUES ($1, $2)`, column, text)
		row, found, err := tables.Schedule(t.Context(), db.Pool(t), column)
		if err != nil || !found {
			t.Fatalf("found %v, error %v", found, err)
		}
		if !row.Enabled || row.Method != "auto" || row.TimeZone != "UTC" || row.LockTimeout != store.DefaultLockTimeout {
			t.Errorf("%+v", row)
		}
	}
}

func TestScheduleTableRefuses(t *testing.T) {
	conn := installed(t).Connect(t)
	for _, columns := range []string{
		"(view_name) VALUES ('v')",
		"(view_name, cron, every) VALUES ('v', '@daily', '1 day')",
		"(view_name, every) VALUES ('v', '0')",
		"(view_name, every) VALUES ('v', '-1 day')",
		"(view_name, every) VALUES ('v', '300 years')",
		"(view_name, every, method) VALUES ('v', '1 day', 'magic')",
		"(view_name, every, jitter) VALUES ('v', '1 day', '-1 second')",
		"(view_name, every, settings) VALUES ('v', '1 day', '[]')",
	} {
		_, err := conn.Exec(t.Context(), `INSERT INTO "My.Schema".materialized_view_refresh_schedule `+columns)
		if postgres.SQLState(err) != "23514" {
			t.Errorf("%s: %v", columns, err)
		}
	}
}

func TestScheduleChangesAreNotified(t *testing.T) {
	db := installed(t)
	listener := db.Connect(t)
	if _, err := listener.Exec(t.Context(), "LISTEN "+store.ScheduleChannel); err != nil {
		t.Fatal(err)
	}
	notified := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n, err := listener.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return n.Payload
	}
	pool := db.Pool(t)
	row := store.Schedule{ViewName: "v", Spec: schedule.Spec{Every: time.Hour}, Method: "auto"}
	if err := tables.InsertSchedule(t.Context(), pool, row); err != nil {
		t.Fatal(err)
	}
	if got := notified(); got != "v" {
		t.Errorf("inserted: %s", got)
	}
	if err := tables.UpdateSchedule(t.Context(), pool, "v", row); err != nil { // nothing changes
		t.Fatal(err)
	}
	row.ViewName, row.Enabled = "w", true
	if err := tables.UpdateSchedule(t.Context(), pool, "v", row); err != nil {
		t.Fatal(err)
	}
	if got := notified(); got != "w" {
		t.Errorf("updated: %s", got)
	}
	if err := tables.DeleteSchedule(t.Context(), pool, "w"); err != nil {
		t.Fatal(err)
	}
	if got := notified(); got != "w" {
		t.Errorf("deleted: %s", got)
	}
}

func TestResolveTarget(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE MATERIALIZED VIEW app.daily AS SELECT 1 AS x; CREATE MATERIALIZED VIEW "app.daily" AS SELECT 1 AS x;
INSERT INTO "My.Schema".materialized_view_refresh_schedule (view_name, every) VALUES ('daily', '1 hour')`)
	for name, want := range map[string]store.ScheduleTarget{
		"app.daily":   {ViewName: "app.daily", Schema: "app", Relation: "daily", StoredAs: "daily"},
		"daily":       {ViewName: "app.daily", Schema: "app", Relation: "daily", StoredAs: "daily"},
		`"app.daily"`: {ViewName: `"app.daily"`, Schema: "public", Relation: "app.daily"},
	} {
		if err := pool.QueryRow(t.Context(), "SELECT $1::regclass::oid", postgres.QuoteIdent(want.Schema, want.Relation)).Scan(&want.OID); err != nil {
			t.Fatal(err)
		}
		got, found, err := tables.ResolveTarget(t.Context(), pool, name)
		if err != nil || !found || got != want {
			t.Errorf("%s: %+v, found %v, error %v", name, got, found, err)
		}
	}
	if _, found, err := tables.ResolveTarget(t.Context(), pool, "weekly"); found || err != nil {
		t.Errorf("found %v, error %v", found, err)
	}
}
