package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// In each case our transaction waits for another one, and the server reports a conflict
// when that has ended; Retry then runs it again.
func TestRetryWithServer(t *testing.T) {
	const setup = `CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0), (2, 0)`
	cases := map[string]struct {
		begin       string // of our transaction
		other, ours []string
		then        string // by the other, while ours waits for it
		state       string
		retryable   bool
		atLast      bool // the transaction that is run again succeeds
	}{
		"catalog row updated": {
			other: []string{"GRANT SELECT ON t TO PUBLIC"}, ours: []string{"ALTER TABLE t SET (fillfactor = 50); GRANT INSERT ON t TO PUBLIC"},
			then: "COMMIT", state: "XX000", retryable: true, atLast: true,
		},
		"catalog row updated, of a schema": {
			other: []string{"GRANT USAGE ON SCHEMA public TO pg_monitor"}, ours: []string{"GRANT USAGE ON SCHEMA public TO pg_read_all_stats"},
			then: "COMMIT", state: "XX000", retryable: true, atLast: true,
		},
		"catalog row deleted": {
			other: []string{"DROP FUNCTION f()"}, ours: []string{"GRANT EXECUTE ON FUNCTION f() TO pg_monitor"},
			then: "COMMIT", state: "XX000", retryable: true, // and then there is no such function
		},
		"schema created twice": {
			other: []string{"CREATE SCHEMA s"}, ours: []string{"CREATE SCHEMA IF NOT EXISTS s"},
			then: "COMMIT", state: "23505", retryable: true, atLast: true,
		},
		"type created twice": {
			other: []string{"CREATE TYPE y AS ENUM ()"}, ours: []string{"CREATE TYPE y AS ENUM ()"},
			then: "COMMIT", state: "23505", retryable: true, // and then it says that there is one
		},
		"serialization": {
			begin: "BEGIN ISOLATION LEVEL SERIALIZABLE",
			other: []string{"UPDATE t SET n = 1 WHERE id = 1"}, ours: []string{"UPDATE t SET n = 2 WHERE id = 1"},
			then: "COMMIT", state: "40001", retryable: true, atLast: true,
		},
		"deadlock": {
			// The session whose deadlock_timeout ends first gets the error: ours.
			other: []string{"SET LOCAL deadlock_timeout = '10min'; UPDATE t SET n = 1 WHERE id = 1"},
			ours:  []string{"SET LOCAL deadlock_timeout = '2s'; UPDATE t SET n = 2 WHERE id = 2", "UPDATE t SET n = 2 WHERE id = 1"},
			then:  "UPDATE t SET n = 1 WHERE id = 2; COMMIT", state: "40P01", retryable: true, atLast: true,
		},
		"key of a table taken": {
			other: []string{"INSERT INTO t VALUES (3, 0)"}, ours: []string{"INSERT INTO t VALUES (3, 0)"},
			then: "COMMIT", state: "23505",
		},
		"lock timeout": {
			other: []string{"LOCK TABLE t"}, ours: []string{"SET LOCAL lock_timeout = '2s'; LOCK TABLE t"},
			then: "SELECT 1", state: "55P03",
		},
	}
	if postgrestest.Version(t) >= 180000 { // GRANT locks what it is about since then
		delete(cases, "catalog row deleted")
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := postgrestest.New(t)
			db.Exec(t, setup)
			db.Exec(t, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
			other, ours := db.Connect(t), db.Connect(t)
			execute(t, other, append([]string{"BEGIN"}, c.other...)...)
			if c.begin == "" {
				c.begin = "BEGIN"
			}
			var failures []error
			done := make(chan error)
			go func() {
				done <- postgres.Retry(t.Context(), func() error {
					err := run(t.Context(), ours, append([]string{c.begin}, append(c.ours, "COMMIT")...))
					if err != nil {
						failures = append(failures, err)
					}
					return err
				})
			}()
			waits(t, db, ours)
			execute(t, other, c.then)
			err := <-done
			if len(failures) == 0 || postgres.SQLState(failures[0]) != c.state || postgres.Retryable(failures[0]) != c.retryable {
				t.Fatalf("it failed with %v, want SQLSTATE %s, retryable %t", failures, c.state, c.retryable)
			}
			if (err == nil) != c.atLast || len(failures) > 2 || !c.retryable && len(failures) > 1 {
				t.Errorf("in the end: %v, after %v", err, failures)
			}
		})
	}
}

// run runs statements, and rolls back after an error.
func run(ctx context.Context, conn *pgx.Conn, statements []string) error {
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			_, rollbackErr := conn.Exec(ctx, "ROLLBACK")
			return errors.Join(err, rollbackErr)
		}
	}
	return nil
}

func execute(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%v\n%s", err, sql)
		}
	}
}

// waits waits until another session blocks conn.
func waits(t *testing.T, db *postgrestest.Database, conn *pgx.Conn) {
	t.Helper()
	watcher := db.Connect(t)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		var blocked bool
		if err := watcher.QueryRow(t.Context(), "SELECT pg_blocking_pids($1) <> '{}'", conn.PgConn().PID()).Scan(&blocked); err != nil {
			t.Fatal(err)
		}
		if blocked {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no session is blocked")
		}
	}
}

func TestRetryGivesUp(t *testing.T) {
	deadlock := &pgconn.PgError{Code: pgerrcode.DeadlockDetected, Message: "deadlock detected"}
	synctest.Test(t, func(t *testing.T) {
		attempts, start := 0, time.Now()
		err := postgres.Retry(t.Context(), func() error { attempts++; return deadlock })
		if attempts != 10 || !errors.Is(err, deadlock) || !strings.Contains(err.Error(), "gave up after 10 attempts") {
			t.Errorf("%d attempts, then %v", attempts, err)
		}
		if took := time.Since(start); took < 4*time.Second || took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := postgres.Retry(ctx, func() error { return deadlock })
		if time.Since(start) != time.Second || !errors.Is(err, deadlock) {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
	other, attempts := errors.New("another"), 0
	if err := postgres.Retry(t.Context(), func() error { attempts++; return other }); attempts != 1 || err != other { //nolint:errorlint // as it is
		t.Errorf("%d attempts at what no attempt can mend, then %v", attempts, err)
	}
}

func TestRetryable(t *testing.T) {
	gone := &pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: pgerrcode.UndefinedTable}
	denied := &pgconn.PgError{Code: pgerrcode.InsufficientPrivilege}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"not there":               {gone, false},
		"not there any more":      {fmt.Errorf("read: %w", postgres.Vanished(gone)), true},
		"seen before, but denied": {postgres.Vanished(denied), false},
		"nothing":                 {postgres.Vanished(nil), false},
	} {
		if got := postgres.Retryable(c.err); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if err := postgres.Vanished(gone); !errors.Is(err, gone) || postgres.SQLState(err) != gone.Code {
		t.Errorf("%v hides its cause", err)
	}
}

// An error of COMMIT is certain only if the server says so; an uncertain one is not
// retried.
func TestCommit(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, `CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1);
CREATE FUNCTION ended() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE TABLE u (n int); CREATE CONSTRAINT TRIGGER ended AFTER INSERT ON u DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ended()`)
	commit := func(ctx context.Context, sql string, end func(*pgx.Conn)) error {
		conn := db.Connect(t)
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = tx.Exec(t.Context(), sql)
		end(conn)
		if err != nil && !strings.HasPrefix(sql, "SELECT 1/0") {
			t.Fatal(err)
		}
		return postgres.Commit(ctx, tx)
	}
	nothing := func(*pgx.Conn) {}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		err       error
		uncertain bool
	}{
		"refused":       {commit(t.Context(), "INSERT INTO t VALUES (1)", nothing), false},
		"failed before": {commit(t.Context(), "SELECT 1/0", nothing), false},
		"closed before": {commit(t.Context(), "SELECT 1", func(c *pgx.Conn) { _ = c.Close(t.Context()) }), false},
		"too late":      {commit(over, "SELECT 1", nothing), false},
		"session ended": {commit(t.Context(), "INSERT INTO u VALUES (1)", nothing), true},
	} {
		var uncertain *postgres.UncertainError
		if c.err == nil || errors.As(c.err, &uncertain) != c.uncertain || postgres.Retryable(c.err) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if err := commit(t.Context(), "INSERT INTO t VALUES (2)", nothing); err != nil {
		t.Error(err)
	}
}
