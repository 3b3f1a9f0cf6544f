package matview

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// What locks readers out waits for a long reader without the others waiting
// behind it, and has changed nothing where it waits in vain.
func TestLockOutReaders(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", WithData: true, Indexes: map[string]Index{"i": {Keys: []string{"id"}}}})
	reader := db.Connect(t)
	if _, err := reader.Exec(t.Context(), "BEGIN; SELECT * FROM v"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	slowest := make(chan time.Duration)
	go func() { slowest <- slowestRead(ctx, db.URL(), "SELECT count(*) FROM v") }()
	err := change(t, pool, func(tx pgx.Tx) error { return LockOutReaders(t.Context(), tx, v, time.Second) })
	stop()
	if stall := <-slowest; stall > 500*time.Millisecond { // of the second that it tried
		t.Errorf("another reader waited for %s", stall)
	}
	if !IsLockTimeout(err) {
		t.Errorf("error %v, want a lock timeout", err)
	}
	done := make(chan error, 2)
	go func() {
		done <- change(t, pool, func(tx pgx.Tx) error { return SetIndexes(t.Context(), tx, v, nil, nil) })
	}()
	waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()", done)
	if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || len(read(t, pool, v.Name).Indexes) > 0 {
		t.Errorf("when the reader has gone: %v", err)
	}
	err = change(t, pool, func(tx pgx.Tx) error {
		if err := LockOutReaders(t.Context(), tx, v, time.Second); err != nil {
			return err
		}
		if got := value[string](t, tx, "SHOW lock_timeout"); got != LockTimeout {
			t.Errorf("lock_timeout is %s after it, want %s", got, LockTimeout)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Both ways to build an index let readers go on and every REFRESH wait: why
// SetIndexes takes the shorter one.
func TestIndexBuildLocks(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", WithData: true, Indexes: map[string]Index{"u": {Keys: []string{"id"}, Unique: true}}})
	// The function holds the build up for as long as another session has the lock.
	db.Exec(t, `INSERT INTO jobs VALUES (1); REFRESH MATERIALIZED VIEW v;
CREATE FUNCTION held(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN $1; END $$`)
	builder := db.Connect(t)
	for create, build := range map[string]func() error{
		"SetIndexes": func() error {
			v := read(t, pool, Name{PublicSchema, "v"})
			return change(t, pool, func(tx pgx.Tx) error {
				if err := Comment(t.Context(), tx, v.Name, "as an apply does first"); err != nil {
					return err
				}
				return SetIndexes(t.Context(), tx, v, map[string]Index{"a": {Keys: []string{"held(id)"}}, "u": {Keys: []string{"id"}, Unique: true}}, nil)
			})
		},
		"CONCURRENTLY": func() error {
			_, err := builder.Exec(t.Context(), "CREATE INDEX CONCURRENTLY b ON v (held(id))")
			return err
		},
	} {
		holder, other := db.Connect(t), db.Connect(t)
		if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(7)"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 2)
		go func() { done <- build() }()
		waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()", done)
		if _, err := other.Exec(t.Context(), "SET lock_timeout = '100ms'; SELECT * FROM v"); err != nil {
			t.Errorf("%s: a reader: %v", create, err)
		}
		for _, refresh := range []string{"REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW CONCURRENTLY v"} {
			if _, err := other.Exec(t.Context(), refresh); !IsLockTimeout(err) {
				t.Errorf("%s: %s: error %v, want a lock timeout", create, refresh, err)
			}
		}
		if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(7)"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", create, err)
		}
	}
}

// A REFRESH that comes while an index is built waits for it, and then goes on;
// with CONCURRENTLY one of the two fails, since each waits for the other.
func TestIndexBuildAndRefresh(t *testing.T) {
	for create, deadlock := range map[string]bool{"CREATE INDEX i ON v (held(id))": false, "CREATE INDEX CONCURRENTLY i ON v (held(id))": true} {
		t.Run(create, func(t *testing.T) {
			db := jobs(t)
			pool := db.Pool(t)
			db.Exec(t, `INSERT INTO jobs VALUES (1); CREATE MATERIALIZED VIEW v AS SELECT id FROM jobs;
CREATE FUNCTION held(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN $1; END $$`)
			holder := db.Connect(t)
			if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(7)"); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 2)
			builder, refresher := db.Connect(t), db.Connect(t)
			go func() { _, err := builder.Exec(t.Context(), create); done <- err }()
			waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()", done)
			go func() { _, err := refresher.Exec(t.Context(), "REFRESH MATERIALIZED VIEW v"); done <- err }()
			waitFor(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database()", done)
			if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(7)"); err != nil {
				t.Fatal(err)
			}
			err := errors.Join(<-done, <-done)
			if got := postgres.SQLState(err) == "40P01"; got != deadlock || !deadlock && err != nil {
				t.Errorf("error %v; want a deadlock: %t", err, deadlock)
			}
		})
	}
}

// storages makes a tablespace and an access method that are not the default's.
func storages(t *testing.T) (db *postgrestest.Database, tablespace string) {
	t.Helper()
	if postgrestest.Version(t) < 150000 {
		t.Skip("it takes PostgreSQL 15 to make a tablespace without a folder for it, and to change an access method")
	}
	admin := postgrestest.New(t)
	tablespace = "ts " + admin.Name
	quoted := pgx.Identifier{tablespace}.Sanitize()
	conn := admin.Connect(t)
	for _, sql := range []string{"SET allow_in_place_tablespaces = on", "CREATE TABLESPACE " + quoted + " LOCATION ''"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	// When the database that uses it has gone.
	t.Cleanup(func() {
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), "DROP TABLESPACE "+quoted); err != nil {
			t.Error(err)
		}
	})
	db = jobs(t)
	db.Exec(t, `CREATE ACCESS METHOD "Heap 2" TYPE TABLE HANDLER heap_tableam_handler`)
	return db, tablespace
}

func TestSwapKeepsStorage(t *testing.T) {
	db, tablespace := storages(t)
	pool := db.Pool(t)
	odd := Storage{Tablespace: tablespace, AccessMethod: "Heap 2"}
	plain := Storage{Tablespace: "pg_default", AccessMethod: "heap"}
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", Storage: odd, WithData: true, Indexes: map[string]Index{
		"there": {Keys: []string{"id"}, Tablespace: tablespace}, "here": {Keys: []string{"name"}},
	}})
	// What is new goes by the database's defaults, what is there by its own.
	db.Exec(t, "ALTER DATABASE "+pgx.Identifier{db.Name}.Sanitize()+" SET default_tablespace = "+pgx.Identifier{tablespace}.Sanitize())
	pool = db.Pool(t)
	before := value[string](t, pool, everything)
	if err := swap(t, pool, Swap{View: v}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, value[string](t, pool, everything)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
	for _, want := range []Storage{plain, odd, plain} {
		v = read(t, pool, v.Name)
		if err := change(t, pool, func(tx pgx.Tx) error { return SetStorage(t.Context(), tx, v, want) }); err != nil {
			t.Fatal(err)
		}
		moved := read(t, pool, v.Name)
		if diff := cmp.Diff(want, moved.Storage); diff != "" || moved.OID != v.OID {
			t.Errorf("it was not moved in place: %s", diff)
		}
		if diff := cmp.Diff(v.Indexes, moved.Indexes); diff != "" {
			t.Errorf("its indexes were:\n%s", diff)
		}
	}
	v = read(t, pool, v.Name)
	if err := swap(t, pool, Swap{View: v, Storage: odd}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, value[string](t, pool, everything)); diff != "" {
		t.Errorf("storage given to the swap: changed:\n%s", diff)
	}
}

// Before PostgreSQL 15 the server takes it for a mistake in the syntax.
func TestAccessMethodInPlace(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs"})
	v.Major = 14
	err := change(t, pool, func(tx pgx.Tx) error { return SetStorage(t.Context(), tx, v, Storage{AccessMethod: "other"}) })
	if want := "takes PostgreSQL 15 or later to change an access method in place, and this is 14"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}
