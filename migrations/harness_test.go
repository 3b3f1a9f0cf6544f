package migrations_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// installed is a database with the tables of matview in schema public.
func installed(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "installed", func(ctx context.Context, conn *pgx.Conn) error {
		return migrations.Apply(ctx, conn, "public")
	})
}

func apply(t *testing.T, db *postgrestest.Database, schema string) {
	t.Helper()
	if err := migrations.Apply(t.Context(), db.Connect(t), schema); err != nil {
		t.Fatal(err)
	}
}

func wantVersion(t *testing.T, db *postgrestest.Database, schema string, want int32) {
	t.Helper()
	got, err := migrations.Installed(t.Context(), db.Connect(t), schema)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("version in schema %s is %d, want %d", schema, got, want)
	}
}

// value is the single value that a query gives.
func value[T any](t *testing.T, db *postgrestest.Database, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := db.Connect(t).QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return v
}
