package refresh_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// What the query reads is looked up before the wait for the view's lock. Whoever
// has that, as Terraform while it replaces the view, may leave another query.
func TestSkipAfterReplacement(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, "CREATE TABLE a (n int); CREATE TABLE b (n int); CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM a")
	pool := db.Pool(t)
	mustNotSkip(t, pool, "v", "")
	db.Exec(t, aged)

	terraform := db.Connect(t)
	if _, err := terraform.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, err := terraform.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1, hashtext('v'))", matview.LockClass); err != nil {
		t.Fatal(err)
	}
	writer{db.Connect(t)}.exec(t, "INSERT INTO a VALUES (1)")
	ended := make(chan error)
	go func() {
		_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), skipping("v"))
		ended <- err
	}()
	waitFor(t, pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
	if _, err := terraform.Exec(t.Context(), "DROP MATERIALIZED VIEW v; CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM b; COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	writer{db.Connect(t)}.exec(t, "INSERT INTO b VALUES (1)")
	mustNotSkip(t, pool, "v", "nothing is known of what it read")
	if n := scan[int](t, pool, "SELECT n FROM v"); n != 1 {
		t.Errorf("the view has %d rows, want that of the table that it reads now", n)
	}
	mustSkip(t, pool, "v")
}

// Somebody, such as the event trigger in another's REFRESH, changes the state
// while it is about to be skipped. What comes of the refresh instead is recorded.
func TestSkipOvertaken(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, "CREATE TABLE a (n int); CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM a")
	pool := db.Pool(t)
	mustNotSkip(t, pool, "v", "")
	other := db.Connect(t)
	if _, err := other.Exec(t.Context(), "BEGIN; UPDATE materialized_view_refresh_state SET data_as_of = data_as_of - interval '1 second'"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := refresh.New(pool, "public", "test").Refresh(context.WithoutCancel(t.Context()), skipping("v"))
		ended <- err
	}()
	waitFor(t, pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted)")
	if _, err := other.Exec(t.Context(), "DROP MATERIALIZED VIEW v; COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || errors.Is(err, refresh.ErrTakenOver) {
		t.Errorf("err = %v", err)
	}
	failedWith(t, pool, pgerrcode.UndefinedTable)
}
