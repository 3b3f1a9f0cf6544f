package freshness_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// The fingerprint holds pg_class.xmin as it is stored, which no VACUUM changes:
// neither does a fresh view turn stale, nor one changed outside fresh.
func TestVacuumKeepsFingerprint(t *testing.T) {
	db := tracked(t)
	pool := db.Pool(t)
	vacuums := []string{"VACUUM FREEZE pg_class", "VACUUM FULL pg_class", "VACUUM FREEZE v", "ANALYZE v", "REINDEX TABLE v"}
	recordedRefresh(t, pool, "v")
	execOn(t, db.Connect(t), "REFRESH MATERIALIZED VIEW down")
	for _, sql := range vacuums {
		db.Exec(t, sql)
		wantReason(t, db, "v", "null")
		wantReason(t, db, "down", "null")
	}
	execOn(t, db.Connect(t), "BEGIN", "SELECT set_config('matview.own', txid_current()::text, true)", "REFRESH MATERIALIZED VIEW CONCURRENTLY v", "COMMIT")
	for _, sql := range vacuums {
		db.Exec(t, sql)
		wantReason(t, db, "v", "changed_outside")
	}
}

// A subscriber has the rows of the publisher's tables, and views of its own that
// nobody has refreshed for as long. They are never as fresh as those rows say.
func TestLogicalReplica(t *testing.T) {
	server, err := postgrestest.Start(t.Context(), postgrestest.Options{Settings: map[string]string{"wal_level": "logical"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	connect := func(database string) *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), server.URL(database))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(t.Context()) })
		return conn
	}
	admin := connect("postgres")
	cases := map[string]struct{ tables, reason string }{
		"log":           {"materialized_view_refresh_log", "unverified"},
		"log and state": {"materialized_view_refresh_log, materialized_view_refresh_state", "recreated"},
	}
	n := 0
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			n++
			published, subscribed := fmt.Sprintf("published%d", n), fmt.Sprintf("subscribed%d", n)
			execOn(t, admin, "CREATE DATABASE "+published, "CREATE DATABASE "+subscribed)
			from, to := connect(published), connect(subscribed)
			for _, conn := range []*pgx.Conn{from, to} {
				if err := migrations.Track(t.Context(), conn, "public", true); err != nil {
					t.Fatal(err)
				}
			}
			execOn(t, to, "CREATE TABLE other (x int)") // so that no OID is the same
			for _, conn := range []*pgx.Conn{from, to} {
				execOn(t, conn, "CREATE MATERIALIZED VIEW v AS SELECT 1 AS x", "CREATE MATERIALIZED VIEW empty AS SELECT 1 AS x WITH NO DATA")
			}
			slot := "s" + subscribed
			execOn(t, from, "CREATE PUBLICATION p FOR TABLE "+c.tables, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
			execOn(t, to, fmt.Sprintf("CREATE SUBSCRIPTION %s CONNECTION '%s' PUBLICATION p WITH (create_slot = false, slot_name = '%s')", slot, server.URL(published), slot))
			t.Cleanup(func() { _, _ = to.Exec(t.Context(), "DROP SUBSCRIPTION "+slot) })
			execOn(t, from, "REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW empty")
			view := func(conn *pgx.Conn, name string) freshness.View {
				t.Helper()
				v, found, err := freshness.Find(t.Context(), conn, "public", name)
				if err != nil || !found {
					t.Fatalf("%s: %t, %v", name, found, err)
				}
				return v
			}
			if v := view(from, "v"); v.DataAsOf == nil {
				t.Fatalf("on the publisher: %+v", v)
			}
			want := "v " + c.reason + ", empty not_populated"
			got := ""
			// Tables arrive one after the other.
			for deadline := time.Now().Add(time.Minute); got != want; time.Sleep(20 * time.Millisecond) {
				v, empty := view(to, "v"), view(to, "empty")
				if v.DataAsOf != nil || empty.DataAsOf != nil {
					t.Fatalf("on the subscriber: as-of %v and %v", v.DataAsOf, empty.DataAsOf)
				}
				got = "v " + text(v.StaleReason) + ", empty " + text(empty.StaleReason)
				if time.Now().After(deadline) {
					t.Fatalf("on the subscriber: %s, want %s\n%s", got, want, server.LogTail())
				}
			}
		})
	}
}
