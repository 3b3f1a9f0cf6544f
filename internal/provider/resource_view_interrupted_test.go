package provider

import (
	"bufio"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// Whatever ends a replacement half-way leaves the view as it was, no lock and
// nothing that was being built; the next apply does it all.
func TestAccViewSwapInterrupted(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	const building = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 4711 AND NOT granted"
	const exchanging = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'ALTER MATERIALIZED VIEW%RENAME TO%' AND wait_event_type = 'Lock'"
	db := viewDatabase(t)
	installTables(t, db)
	db.Exec(t, `CREATE FUNCTION gate() RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN 1; END'`)
	body := func(n int) string {
		return workspaceConfig(withDefinition(fmt.Sprintf("SELECT id, name, %d AS n, gate() AS g FROM jobs", n)) + "  indexes = { i = { keys = [\"id\"], unique = true } }")
	}
	w := newWorkspace(t, db.URL(), body(0))
	w.run(t, "apply", "-auto-approve")
	const all = `SELECT string_agg(concat_ws(' ', relname, oid, xmin), ', ' ORDER BY oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ '^materialized_view'`
	const recorded = `SELECT concat_ws(' ', last_refreshed_at, data_as_of, stale_reason, last_outcome, (SELECT count(*) FROM materialized_view_refresh_history))
FROM materialized_view_freshness WHERE view_name = 'job_progress'`
	const locks = "SELECT count(*) = 0 FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation WHERE c.relname = 'job_progress' AND l.mode <> 'AccessShareLock'"
	const filling, reading = "SELECT pg_advisory_lock(4711)", "BEGIN; SELECT FROM job_progress"
	for i, test := range []struct {
		name   string
		hold   string // what keeps it from ending
		until  string
		killed bool // the provider, and not its session
	}{
		{"provider killed while it fills", filling, building, true},
		{"provider killed while it exchanges", reading, exchanging, true},
		{"session ended while it fills", filling, building, false},
		{"session ended while it exchanges", reading, exchanging, false},
	} {
		before, freshness := valueOf(t, db, all), valueOf(t, db, recorded)
		holder := db.Connect(t)
		if _, err := holder.Exec(t.Context(), test.hold); err != nil {
			t.Fatal(err)
		}
		attached, kill := attach(t, w)
		w.write(t, body(i+1))
		done := make(chan error, 1)
		go func() {
			_, err := attached.try(t.Context(), "apply", "-auto-approve")
			done <- err
		}()
		wait(t, db, test.until, done)
		if test.killed {
			kill()
		} else {
			db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1", applicationName)
		}
		if err := <-done; err == nil {
			t.Errorf("%s: apply succeeded", test.name)
		}
		if postgrestest.Version(t) < 140000 { // no client_connection_check_interval
			_ = holder.Close(t.Context())
		}
		wait(t, db, locks, nil)
		if after := valueOf(t, db, all); after != before {
			t.Errorf("%s: there is\n%s\nwhere there was\n%s", test.name, after, before)
		}
		if after := valueOf(t, db, recorded); after != freshness {
			t.Errorf("%s: recorded is\n%s\nwhere there was\n%s", test.name, after, freshness)
		}
		_ = holder.Close(t.Context())
		w.run(t, "apply", "-auto-approve")
		if got := valueOf(t, db, "SELECT min(n) FROM job_progress"); got != strconv.Itoa(i+1) {
			t.Errorf("%s: the next apply makes it %s", test.name, got)
		}
	}
	w.plan(t)
}

// wait waits until a condition holds; done should not be before.
func wait(t *testing.T, db *postgrestest.Database, sql string, done chan error) {
	t.Helper()
	conn := db.Connect(t)
	for deadline, holds := time.Now().Add(30*time.Second), false; !holds; time.Sleep(20 * time.Millisecond) {
		if err := conn.QueryRow(t.Context(), sql).Scan(&holds); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			t.Fatalf("it ended too soon: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", sql)
		}
	}
}

// attach is w with a provider that runs already, and can be killed.
func attach(t *testing.T, w workspace) (attached workspace, kill func()) {
	t.Helper()
	cmd := osexec.Command(filepath.Join(w.dir, "terraform-provider-matview"), "-debug")
	cmd.Env = w.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
	t.Cleanup(kill)
	where := regexp.MustCompile(`(TF_REATTACH_PROVIDERS)='(.*)'`)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if found := where.FindStringSubmatch(lines.Text()); found != nil {
			w.env = append(slices.Clone(w.env), found[1]+"="+found[2])
			return w, kill
		}
	}
	t.Fatal("the provider does not say how to attach to it")
	return w, kill
}
