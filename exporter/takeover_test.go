package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	osexec "os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const asExporter = "MATVIEW_TEST_IS_EXPORTER"

// TestMain makes this program an exporter where a test starts it as one.
func TestMain(m *testing.M) {
	if os.Getenv(asExporter) != "" {
		go func() { // never to outlive the test, which may end without a word
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// process is an exporter in a process of its own.
type process struct {
	*osexec.Cmd
	log  *syncBuffer
	done chan error
}

func startProcess(t testing.TB, url string, args ...string) *process {
	t.Helper()
	p := prepareProcess(t, url, args...)
	p.begin(t)
	return p
}

// prepareProcess is of `run` unless the arguments begin with `refresh`.
func prepareProcess(t testing.TB, url string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case len(args) > 0 && args[0] == "refresh":
	case len(args) > 0 && strings.HasPrefix(args[0], "--web.listen-address"):
		args = append([]string{"run"}, args...)
	default:
		args = append([]string{"run", "--web.listen-address=127.0.0.1:0"}, args...)
	}
	p := &process{
		Cmd: osexec.Command(self, append([]string{"--database.url=" + url}, args...)...),
		log: &syncBuffer{}, done: make(chan error, 1),
	}
	p.Env = append(os.Environ(), asExporter+"=1")
	p.Stdout, p.Stderr = p.log, p.log
	if _, err := p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) begin(t testing.TB) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.Wait() }()
	t.Cleanup(func() { _ = p.Process.Kill() })
}

// kill ends the process as a crash does, and waits for its end.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	if err := p.ends(t); err == nil {
		t.Error("ended well before it was killed")
	}
}

func (p *process) signal(t testing.TB, signal os.Signal) {
	t.Helper()
	if err := p.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

func (p *process) says(t testing.TB, text string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(p.log.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("does not say %q:\n%s", text, p.log.String())
		}
	}
}

func (p *process) ends(t testing.TB) error {
	t.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatalf("does not end:\n%s", p.log.String())
		return nil
	}
}

func waitFor(t *testing.T, conn *pgx.Conn, condition string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var holds bool
		if err := conn.QueryRow(t.Context(), condition).Scan(&holds); err != nil {
			t.Fatal(err)
		}
		if holds {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", condition)
		}
	}
}

// stuck has a view whose refresh does not end while the test holds a lock, or as
// long as an exporter called stuck makes it.
func stuck(t *testing.T) *postgrestest.Database {
	t.Helper()
	db := installed(t)
	db.Exec(t, `CREATE FUNCTION gate() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(42);
    IF current_setting('application_name') = 'stuck' THEN PERFORM pg_sleep(600); END IF;
    RETURN 1;
END $$;
CREATE MATERIALIZED VIEW v AS SELECT gate() AS x WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every, method) VALUES ('v', '1 d', 'blocking')`)
	return db
}

const underway = `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'REFRESH %' AND state = 'active' AND datname = current_database())`

func TestSIGTERMLetsRefreshesFinish(t *testing.T) {
	db := stuck(t)
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, db.URL())
	waitFor(t, conn, underway)
	p.signal(t, syscall.SIGTERM)
	p.says(t, "stopping")
	// Nothing more is claimed.
	db.Exec(t, `CREATE MATERIALIZED VIEW late AS SELECT 1 AS x; INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('late', '1 s')`)
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
		t.Fatal(err)
	}
	if err := p.ends(t); err != nil {
		t.Errorf("%v:\n%s", err, p.log.String())
	}
	var outcomes string
	if err := conn.QueryRow(t.Context(), `SELECT string_agg(view_name || ' ' || outcome, ', ') FROM materialized_view_refresh_history`).Scan(&outcomes); err != nil || outcomes != "v succeeded" {
		t.Errorf("%s, %v", outcomes, err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	db := stuck(t)
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, db.URL(), "--shutdown-timeout=10m")
	waitFor(t, conn, underway)
	p.signal(t, syscall.SIGTERM)
	p.says(t, "stopping")
	p.signal(t, syscall.SIGTERM)
	var exit *osexec.ExitError
	if err := p.ends(t); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want the signal", err)
	}
}

// cuttable is a proxy that can stop forwarding, in both directions and for new
// connections, without closing any: a network that is cut.
type cuttable struct {
	url string
	mu  sync.Mutex
	is  bool
}

func cuttableTo(t *testing.T, target string) *cuttable {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	c, server := &cuttable{}, u.Host
	u.Host = listener.Addr().String()
	c.url = u.String()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			go c.forward(upstream, client)
			go c.forward(client, upstream)
		}
	}()
	return c
}

func (c *cuttable) forward(to io.WriteCloser, from io.Reader) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		c.mu.Lock()
		cut := c.is
		c.mu.Unlock()
		if cut {
			return // neither this nor the end of it arrives
		}
		if n > 0 {
			_, _ = to.Write(buffer[:n])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

func (c *cuttable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.is = true
}

// An exporter that is lost in the middle of a refresh, in whatever way: readers of
// the view are free again and another exporter has the view within ten seconds.
func TestLostExporterIsReplaced(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, *process, *cuttable){
		"kill -9": func(t *testing.T, p *process, _ *cuttable) { p.signal(t, syscall.SIGKILL) },
		"SIGSTOP": func(t *testing.T, p *process, _ *cuttable) { p.signal(t, syscall.SIGSTOP) },
		"network": func(_ *testing.T, _ *process, c *cuttable) { c.cut() },
	} {
		t.Run(name, func(t *testing.T) {
			db := stuck(t)
			proxy := cuttableTo(t, db.URL())
			lost := startProcess(t, proxy.url+"&application_name=stuck")
			conn := replaced(t, db, func() { lose(t, lost, proxy) })
			if name != "SIGSTOP" {
				return
			}
			// When it goes on it finds out, and does no harm.
			lost.signal(t, syscall.SIGCONT)
			lost.says(t, "taken this refresh over")
			lost.signal(t, syscall.SIGTERM)
			if err := lost.ends(t); err != nil {
				t.Errorf("%v:\n%s", err, lost.log.String())
			}
			var succeeded int
			if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'succeeded'`).Scan(&succeeded); err != nil || succeeded != 1 {
				t.Errorf("%d refreshes, %v", succeeded, err)
			}
		})
	}
}

// replaced loses an exporter once it is stuck in its refresh, and measures what
// becomes of it.
func replaced(t *testing.T, db *postgrestest.Database, lose func()) *pgx.Conn {
	t.Helper()
	conn := db.Connect(t)
	waitFor(t, conn, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database())`)
	startDaemon(t, db.URL(), "public: true\n")
	reader := db.Connect(t)
	var at time.Time
	if err := conn.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&at); err != nil {
		t.Fatal(err)
	}
	lose()
	if _, err := reader.Exec(t.Context(), "SELECT count(*) FROM v"); err != nil && !strings.Contains(err.Error(), "has not been populated") {
		t.Error(err)
	}
	var readable time.Time
	if err := conn.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&readable); err != nil {
		t.Fatal(err)
	}
	waitFor(t, conn, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE outcome = 'succeeded')`)
	var taken time.Time
	var abandoned int
	err := conn.QueryRow(t.Context(), `SELECT max(started_at) FILTER (WHERE outcome = 'succeeded'), count(*) FILTER (WHERE outcome IN ('abandoned', 'failed')) FROM materialized_view_refresh_history`).Scan(&taken, &abandoned)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("readable after %s, taken over after %s", readable.Sub(at), taken.Sub(at))
	if readable.Sub(at) > 10*time.Second || taken.Sub(at) > 10*time.Second || abandoned != 1 {
		t.Errorf("readable after %s, taken over after %s, %d attempts abandoned", readable.Sub(at), taken.Sub(at), abandoned)
	}
	return conn
}
