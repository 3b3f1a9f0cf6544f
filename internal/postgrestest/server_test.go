package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var value T
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func execSQL(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// processRuns reports whether a process exists and is no zombie, which waits until
// the process that adopted it takes notice.
func processRuns(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		// On Linux the process has just ended; elsewhere there is no /proc.
		return !exists("/proc/self/stat")
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestStartAppliesSettings(t *testing.T) {
	t.Parallel()
	tricky := `it's a \ and "` // what needs quoting
	s := start(t, Options{Settings: map[string]string{"fsync": "on", "cluster_name": tricky}})
	for name, want := range map[string]string{
		"fsync": "on", "cluster_name": tricky, "max_connections": "200",
		"synchronous_commit": "on", "full_page_writes": "off",
		"listen_addresses": "127.0.0.1", "port": strconv.Itoa(s.Port()),
		"server_version_num": strconv.Itoa(s.Version()),
		"TimeZone":           "UTC", "server_encoding": "UTF8",
	} {
		if got := query[string](t, s.URL("postgres"), "SHOW "+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestStartFailureShowsTheLog(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), Options{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil {
		t.Fatal("started", s)
	}
	if !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("error %q does not show the log", err)
	}
}

func TestStartCanceled(t *testing.T) {
	t.Parallel()
	// Before initdb, during initdb, and perhaps while the server starts.
	for _, after := range []time.Duration{0, 200 * time.Millisecond, time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		s, err := Start(ctx, Options{})
		cancel()
		if err == nil { // on a fast machine
			t.Logf("started in less than %s", after)
			err = s.Stop()
			if err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %s: error %v, want %v", after, err, context.DeadlineExceeded)
		}
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	socket := "postgres://postgres@/postgres?sslmode=disable&host=" + s.SocketDir() + "&port=" + strconv.Itoa(s.Port())
	if got := query[string](t, socket, "SELECT current_user"); got != "postgres" {
		t.Errorf("connected as %q over the socket", got)
	}
	for _, password := range []string{"wrong", ""} {
		url := strings.Replace(s.URL("postgres"), s.password, password, 1)
		_, err := pgx.Connect(t.Context(), url)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
			t.Errorf("password %q: error %v, want SQLSTATE 28P01", password, err)
		}
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	pid := s.postmaster.cmd.Process.Pid
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if exists(s.dir) {
		t.Error("the directory is still there")
	}
	if processRuns(pid) {
		t.Error("the postmaster is still there")
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Error("restarted a stopped server")
	}
}

func TestCrashAndRestart(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 42 AS answer"); err != nil {
		t.Fatal(err)
	}
	url := s.URL("postgres")

	if err := s.Crash(); err != nil {
		t.Fatal(err)
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the connection survived the crash")
	}
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Error("connected to a crashed server")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := query[int](t, url, "SELECT answer FROM kept"); got != 42 {
		t.Errorf("got %d after the crash", got)
	}
	if !strings.Contains(s.LogTail(), "database system was not properly shut down") {
		t.Errorf("no recovery in the log:\n%s", s.LogTail())
	}
	if err := s.Restart(t.Context()); err != nil { // while it runs
		t.Fatal(err)
	}
	if got := query[int](t, url, "SELECT answer FROM kept"); got != 42 {
		t.Errorf("got %d after the restart", got)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	if err := s.Crash(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.Host(), strconv.Itoa(s.Port())))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); !errors.Is(err, errPortTaken) {
		t.Errorf("error %v, want %v", err, errPortTaken)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMakeDirPassesOverUnusablePlaces(t *testing.T) {
	a, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	long := t.TempDir() + "/" + strings.Repeat("long", 30)
	if err := os.Mkdir(long, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{long, "/nonexistent"} {
		t.Setenv("TMPDIR", dir)
		got, err := makeDir(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(got); err != nil {
			t.Error(err)
		}
		if strings.HasPrefix(got, dir) {
			t.Errorf("made %s", got)
		}
	}
}
