package postgrestest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestNewIsIsolated(t *testing.T) {
	t.Parallel()
	a, b := New(t), New(t)
	a.Exec(t, "CREATE TABLE mine (id int); INSERT INTO mine VALUES (1), (2)")
	a.Exec(t, "INSERT INTO mine VALUES ($1)", 3)
	if got := query[int](t, a.URL(), "SELECT count(*) FROM mine"); got != 3 {
		t.Errorf("%d rows, want 3", got)
	}
	if !query[bool](t, b.URL(), "SELECT to_regclass('mine') IS NULL") {
		t.Error("the other database has the table, too")
	}
	if got := query[string](t, a.URL(), "SELECT current_database()"); got != a.Name {
		t.Errorf("the URL leads to %q, want %q", got, a.Name)
	}
	if got := query[int](t, a.URL(), "SELECT current_setting('server_version_num')::int"); got != Version(t) {
		t.Errorf("Version is %d, the server says %d", Version(t), got)
	}
}

// TestServerVersion logs which server the tests run with; make test shows it first.
func TestServerVersion(t *testing.T) {
	t.Log(query[string](t, New(t).URL(), "SELECT version()"))
}

// The database and roles are dropped even if the test leaves connections open.
func TestCleanup(t *testing.T) {
	t.Parallel()
	var name, role string
	watch := New(t)
	t.Run("test", func(t *testing.T) {
		d := New(t)
		name = d.Name
		var password string
		role, password = d.Role(t, "")
		d.Exec(t, "GRANT CREATE ON DATABASE "+d.Name+" TO "+role)
		d.Exec(t, "SET ROLE "+role+"; CREATE SCHEMA own; CREATE TABLE own.t (id int)")

		tx, err := d.Connect(t).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "LOCK TABLE own.t"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Pool(t).Exec(t.Context(), "SELECT 1"); err != nil {
			t.Fatal(err)
		}
		// The test does not close this one.
		leaked, err := pgx.Connect(t.Context(), d.URLFor(role, password))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaked.Exec(t.Context(), "BEGIN; CREATE TABLE own.u (id int)"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Exec(t, "SELECT 1") }) // still possible here
	})
	if got := query[int](t, watch.URL(), "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'"); got != 0 {
		t.Errorf("database %s is still there", name)
	}
	if got := query[int](t, watch.URL(), "SELECT count(*) FROM pg_roles WHERE rolname = '"+role+"'"); got != 0 {
		t.Errorf("role %s is still there", role)
	}
}

func TestRole(t *testing.T) {
	t.Parallel()
	d := New(t)
	name, password := d.Role(t, "CREATEROLE IN ROLE pg_monitor")
	url := d.URLFor(name, password)
	if got := query[string](t, url, "SELECT current_user"); got != name {
		t.Errorf("connected as %q, want %q", got, name)
	}
	if !query[bool](t, url, "SELECT rolcreaterole AND NOT rolsuper AND pg_has_role('pg_monitor', 'MEMBER') "+
		"FROM pg_roles WHERE rolname = current_user") {
		t.Error("the role has not the options asked for")
	}
	if d.Server() == nil {
		return // a given server may trust everyone
	}
	_, err := pgx.Connect(t.Context(), d.URLFor(name, "wrong"))
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
		t.Errorf("wrong password: error %v, want SQLSTATE 28P01", err)
	}
}

func TestNewFromRunsSetupOnce(t *testing.T) {
	var setups atomic.Int32
	setup := func(ctx context.Context, conn *pgx.Conn) error {
		setups.Add(1)
		_, err := conn.Exec(ctx, "CREATE TABLE filled AS SELECT generate_series(1, 10)")
		return err
	}
	key := t.Name() + rand4(t)
	t.Run("copies", func(t *testing.T) {
		for range 4 {
			t.Run("copy", func(t *testing.T) {
				t.Parallel()
				d := NewFrom(t, key, setup)
				if got := query[int](t, d.URL(), "SELECT count(*) FROM filled"); got != 10 {
					t.Errorf("%d rows, want 10", got)
				}
				d.Exec(t, "DELETE FROM filled")
			})
		}
	})
	if got := setups.Load(); got != 1 {
		t.Errorf("setup ran %d times", got)
	}
}

// rand4 makes keys unique: with -count=2, a test runs twice in one process.
func rand4(t *testing.T) string {
	t.Helper()
	run := newRun()
	return run[len(run)-4:]
}

func TestTemplateErrorsStay(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	fails := func(context.Context, *pgx.Conn) error { return errors.New("no luck") }
	panics := func(context.Context, *pgx.Conn) error { panic("no luck") }
	never := func(context.Context, *pgx.Conn) error {
		t.Error("setup ran again")
		return nil
	}
	key := t.Name() + rand4(t)
	if _, err := c.template(t.Context(), key, fails); err == nil || err.Error() != "no luck" {
		t.Errorf("error %v, want that of setup", err)
	}
	if _, err := c.template(t.Context(), key, never); err == nil || err.Error() != "no luck" {
		t.Errorf("error %v, want that of setup again", err)
	}
	key += "panics"
	for _, setup := range []func(context.Context, *pgx.Conn) error{panics, never} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_, _ = c.template(t.Context(), key, setup)
		}()
	}
}
