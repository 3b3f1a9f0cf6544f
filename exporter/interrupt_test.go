package main

import (
	"errors"
	"io"
	"os"
	osexec "os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// A refresh whose terminal is closed, or whose output nobody reads any more, is
// recorded as ended, and not left behind as running.
func TestRefreshEndsWithItsReader(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *process, io.Closer){
		"interrupt signal": func(t *testing.T, p *process, _ io.Closer) { p.signal(t, syscall.SIGINT) },
		"hangup":           func(t *testing.T, p *process, _ io.Closer) { p.signal(t, syscall.SIGHUP) },
		"broken pipe":      func(_ *testing.T, _ *process, output io.Closer) { _ = output.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			handleHangups(t)
			db := stuck(t)
			db.Exec(t, `CREATE FUNCTION gate2() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM (SELECT pg_advisory_xact_lock_shared(43)) AS gate';
CREATE MATERIALIZED VIEW first AS SELECT gate2() AS x WITH NO DATA`)
			conn := db.Connect(t)
			if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(42), pg_advisory_lock(43)"); err != nil {
				t.Fatal(err)
			}
			p := prepareProcess(t, db.URL(), "refresh", "first", "v")
			p.Stdout = nil
			pipe, err := p.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			p.begin(t)
			waitFor(t, conn, `SELECT count(*) = 2 FROM pg_stat_activity WHERE query LIKE 'REFRESH %' AND state = 'active' AND datname = current_database()`)
			end(t, p, pipe)
			if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_unlock(43)"); err != nil {
				t.Fatal(err)
			}
			var exit *osexec.ExitError
			if err := p.ends(t); !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
				t.Errorf("ended with %v:\n%s", err, p.log.String())
			}
			var ended bool
			err = conn.QueryRow(t.Context(), `SELECT bool_and(outcome <> 'running') AND bool_or(view_name = 'v' AND outcome = 'failed' AND error LIKE $1) FROM materialized_view_refresh_history`,
				"%"+name+"%").Scan(&ended)
			if err != nil || !ended {
				t.Errorf("not recorded as ended by the %s, %v:\n%s", name, err, p.log.String())
			}
		})
	}
}

// handleHangups keeps the programs that a test starts from inheriting that SIGHUP is
// ignored, as it is where the tests run under nohup: what a process handles is reset
// to the default in those that it starts.
func handleHangups(t *testing.T) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
}

func TestRefreshGoesOnUnderNohup(t *testing.T) {
	db := stuck(t)
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	p := prepareProcess(t, db.URL(), "refresh", "v")
	p.Path, p.Args = "/bin/sh", append([]string{"sh", "-c", `trap '' HUP; exec "$@"`, "sh"}, p.Args...)
	p.begin(t)
	waitFor(t, conn, underway)
	p.signal(t, syscall.SIGHUP)
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
		t.Fatal(err)
	}
	if err := p.ends(t); err != nil || !strings.Contains(p.log.String(), "v: refreshed") {
		t.Errorf("%v:\n%s", err, p.log.String())
	}
}
