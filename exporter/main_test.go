package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// installed is a database with the tables of matview.
func installed(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "installed", func(ctx context.Context, conn *pgx.Conn) error {
		return migrations.Apply(ctx, conn, "public")
	})
}

// exec runs a command of the exporter to its end.
func exec(t *testing.T, url string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs syncBuffer // refreshes side by side write to them
	code = run(t.Context(), append([]string{"--database.url=" + url}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// testToken is in the file called tokens beside the configuration.
const testToken = "test-token"

// daemonUnderTest is a `run` in this process.
type daemonUnderTest struct {
	url    string
	config string     // the file
	stop   func() int // tells it to end and waits for that
	log    *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// freeAddress is one that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func startDaemon(t *testing.T, url, config string, args ...string) daemonUnderTest {
	t.Helper()
	address := freeAddress(t)
	file := filepath.Join(t.TempDir(), "exporter.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "tokens"), []byte(testToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	d := daemonUnderTest{config: file, url: "http://" + address, log: &syncBuffer{}}
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"--database.url=" + url, "run", "--config.file=" + file, "--web.listen-address=" + address}, args...), d.log, d.log)
	}()
	d.stop = sync.OnceValue(func() int { cancel(); return <-done })
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Log(d.log.String())
		}
	})
	deadline := time.Now().Add(20 * time.Second)
	for {
		// Over TLS this is a bad request, but an answer.
		if code, _ := fetch(t, d.url+"/-/healthy"); code != 0 {
			return d
		}
		select {
		case code := <-done:
			done <- code
			t.Fatalf("the exporter ended with %d: %s", code, d.log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the exporter does not answer: %s", d.log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Where the tables are missing, or not for this login, the exporter goes on and
// says what to do.
func TestRunSaysWhatIsMissing(t *testing.T) {
	db := postgrestest.New(t)
	d := startDaemon(t, db.URL(), "")
	eventually(t, "the log says how to install the tables", func() bool {
		return strings.Contains(d.log.String(), "cannot schedule; will try again") && strings.Contains(d.log.String(), "run `matview-exporter migrate`")
	})
	if err := migrations.Apply(t.Context(), db.Connect(t), "public"); err != nil {
		t.Fatal(err)
	}
	role, password := db.Role(t, "")
	d = startDaemon(t, db.URLFor(role, password), "")
	eventually(t, "the log says that the login must be a writer", func() bool {
		return strings.Contains(d.log.String(), "put it into writer_roles")
	})
}

// fetch gets a URL; code 0 means that nothing answered.
func fetch(t testing.TB, url string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, b.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestMigrateRefreshStatusCheck(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW "Odd.View" AS SELECT 1 AS x; CREATE MATERIALIZED VIEW above AS SELECT x FROM "Odd.View"`)
	type want struct {
		args           []string
		code           int
		stdout, stderr string
	}
	for _, w := range []want{
		{[]string{"status"}, exitFailed, "", "not installed in schema public: run `matview-exporter migrate`"},
		{[]string{"check"}, exitUnknown, "", "not installed"},
		{[]string{"migrate"}, exitOK, fmt.Sprintf("complete, at version %d.\n", migrations.Version()), ""},
		{[]string{"migrate", "--track-external-refreshes"}, exitOK, "Refreshes by others are recorded.", ""},
		{[]string{"migrate"}, exitOK, "Refreshes by others are recorded.", ""},
		{[]string{"migrate", "--no-track-external-refreshes"}, exitOK, fmt.Sprintf("complete, at version %d.\n", migrations.Version()), ""},
		{[]string{"check"}, exitUnknown, "", "nothing to check"},
		{[]string{"check", "no_such_view"}, exitUnknown, "", "there is no materialized view no_such_view"},
		{[]string{"check", "above"}, exitStale, "above: STALE (never_refreshed), of unknown age", ""},
		{[]string{"refresh"}, exitUsage, "", "Name views, or give one of --all and --due"},
		{[]string{"refresh", "no_such_view"}, exitFailed, "", "there is no materialized view no_such_view"},
		{[]string{"refresh", "--due"}, exitOK, "Nothing to refresh", ""},
		{[]string{"refresh", "above", "Odd.View"}, exitOK, `"Odd.View": refreshed in `, ""},
		{[]string{"check"}, exitOK, "above: not known to be stale, as it has no schedule and no --max-age was given, data as of ", ""},
		{[]string{"check", "--max-age=1h"}, exitOK, "above: fresh, data as of ", ""},
		{[]string{"check", "--max-age=0s"}, exitUnknown, "", "--max-age=0s is no age"},
		{[]string{"check", "--max-age=-5m"}, exitUnknown, "", "--max-age=-5m0s is no age"},
		{[]string{"check", "--max-age=1ns"}, exitStale, `"Odd.View": STALE (older than 1ns)`, ""},
		{[]string{"refresh", "above", "--method=concurrently"}, exitFailed, "", "above: FAILED: refresh above: concurrently needs a unique index"},
		{[]string{"status"}, exitOK, "concurrently needs a unique index", ""},
		{[]string{"status", "--output=json", "above"}, exitOK, `"consecutive_failures": 1`, ""},
		{[]string{"refresh", "--all"}, exitOK, "above: refreshed", ""},
		{[]string{"frobnicate"}, exitUsage, "", "frobnicate"},
		{[]string{"--version"}, exitOK, "matview-exporter, version ", ""},
	} {
		code, stdout, stderr := exec(t, db.URL(), w.args...)
		if code != w.code || !strings.Contains(stdout, w.stdout) || !strings.Contains(stderr, w.stderr) {
			t.Errorf("%v: exit %d, stdout %q, stderr %q, want %+v", w.args, code, stdout, stderr, w)
		}
	}
	if _, stdout, _ := exec(t, db.URL(), "--version"); strings.Contains(stdout, "usage:") {
		t.Errorf("--version shows the help too: %s", stdout)
	}
	if _, stdout, _ := exec(t, db.URL(), "--help"); strings.Count(stdout, "usage:") != 1 {
		t.Errorf("--help: %s", stdout)
	}
	// In the order of their dependencies, whatever the order given.
	_, stdout, _ := exec(t, db.URL(), "refresh", "above", "Odd.View")
	if strings.Index(stdout, `"Odd.View":`) > strings.Index(stdout, "above:") {
		t.Errorf("refreshed in the wrong order: %s", stdout)
	}
}

func TestRefreshDue(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW a AS SELECT 1 AS x; CREATE MATERIALIZED VIEW b AS SELECT x FROM a;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('b', '1 h'), ('a', '1 h')`)
	if code, stdout, stderr := exec(t, db.URL(), "refresh", "--due"); code != exitOK || !strings.HasPrefix(stdout, "a: refreshed") || !strings.Contains(stdout, "\nb: refreshed") {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	if code, stdout, stderr := exec(t, db.URL(), "refresh", "--due"); code != exitOK || stdout != "Nothing to refresh.\n" {
		t.Errorf("a second time: exit %d, %q, %q", code, stdout, stderr)
	}
	if code, _, stderr := exec(t, db.URL(), "check"); code != exitOK {
		t.Errorf("check: exit %d, %s", code, stderr)
	}
}

func TestConnectionErrors(t *testing.T) {
	db := postgrestest.New(t)
	role, _ := db.Role(t, "")
	for _, c := range []struct{ url, want string }{
		{db.URLFor(role, "not-the-password"), "password authentication failed for user"},
		{"postgres://someone:hidden@127.0.0.1:1/x", "cannot connect to PostgreSQL at 127.0.0.1:1, database \"x\", as user \"someone\": connect: connection refused"},
		{"nonsense", "the url must start with postgres://"},
	} {
		code, _, stderr := exec(t, c.url, "check")
		if code != exitUnknown || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q, want %q in one line", c.url, code, stderr, c.want)
		}
		if strings.Contains(stderr, "hidden") || strings.Contains(stderr, "not-the-password") {
			t.Errorf("the message shows the password: %s", stderr)
		}
	}
}

func TestRunServesAndDrains(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS id; CREATE UNIQUE INDEX ON v (id);
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 h')`)
	d := startDaemon(t, db.URL(), "public: true\nroutes:\n  - {path: '/v/{id}', view: v}\n")
	eventually(t, "the first refresh", func() bool {
		_, body := fetch(t, d.url+"/metrics")
		return strings.Contains(body, `matview_refreshes_total{view="v"} 1`)
	})
	for path, want := range map[string]string{
		"/":             "matview-exporter",
		"/v/1":          `"data_source":"cached"`,
		"/cache/status": `"view_name":"v"`,
		"/metrics":      "matview_up 1",
		"/-/ready":      "",
	} {
		if code, body := fetch(t, d.url+path); code != http.StatusOK || !strings.Contains(strings.ReplaceAll(body, `": `, `":`), want) {
			t.Errorf("%s: %d, %s, want %s", path, code, body, want)
		}
	}
	if code, body := fetch(t, d.url+"/no/such/route"); code != http.StatusNotFound || !strings.Contains(body, "type") {
		t.Errorf("unknown route: %d, %s", code, body)
	}
	if code := d.stop(); code != exitOK {
		t.Errorf("exit %d after the end of its context", code)
	}
	if want := " schedules=1 paused=0"; strings.Count(d.log.String(), "msg=scheduling") != 1 || !strings.Contains(d.log.String(), want) {
		t.Errorf("want one line that says what was found (%s):\n%s", want, d.log.String())
	}
	if strings.Count(d.log.String(), "msg=refreshed") != 1 {
		t.Errorf("want one line an attempt:\n%s", d.log.String())
	}
}

func TestRunWithoutDatabase(t *testing.T) {
	d := startDaemon(t, "postgres://someone:hidden@127.0.0.1:1/x", "")
	// Anybody may ask, so only the log says where the database is.
	const notReady = "not ready: the database does not answer; the exporter's log says why\n"
	if code, body := fetch(t, d.url+"/-/ready"); code != http.StatusServiceUnavailable || body != notReady {
		t.Errorf("/-/ready: %d, %s", code, body)
	}
	if log := d.log.String(); !strings.Contains(log, "127.0.0.1:1") || !strings.Contains(log, "connection refused") || strings.Contains(log, "hidden") {
		t.Errorf("the log: %s", log)
	}
	if code, body := fetch(t, d.url+"/metrics"); code != http.StatusOK || !strings.Contains(body, "matview_up 0") {
		t.Errorf("/metrics: %d, %s", code, body)
	}
	if code := d.stop(); code != exitOK {
		t.Errorf("exit %d", code)
	}
}

func TestRunWithBadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bad.yml")
	if err := os.WriteFile(file, []byte("routes:\n  - path: /metrics\n    view: v\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := exec(t, "postgres://127.0.0.1:1/x", "run", "--config.file="+file)
	if code != exitFailed || !strings.Contains(stderr, "bad.yml:2") {
		t.Errorf("exit %d, %s, want the file and line", code, stderr)
	}
}

// One route's missing index stops neither the refreshes nor anything else.
func TestRunWithRoutesThatDoNotFitTheView(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS id; CREATE MATERIALIZED VIEW w AS SELECT 1 AS id; CREATE UNIQUE INDEX ON w (id);
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 h')`)
	d := startDaemon(t, db.URL(), "public: true\nroutes:\n  - {path: '/v/{id}', view: v}\n  - {path: '/w/{id}', view: w}\n")
	if code, body := fetch(t, d.url+"/v/1"); code != http.StatusServiceUnavailable || !strings.Contains(body, "The view v has no unique index on exactly (id)") {
		t.Errorf("%d, %s", code, body)
	}
	if code, body := fetch(t, d.url+"/w/1"); code != http.StatusOK {
		t.Errorf("%d, %s", code, body)
	}
	if log := d.log.String(); !strings.Contains(log, "exporter.yml:3: routes[0].path: the view v has no unique index") {
		t.Errorf("the log names neither the file nor the line:\n%s", log)
	}
	eventually(t, "the refresh", func() bool {
		_, body := fetch(t, d.url+"/cache/status/v")
		return strings.Contains(body, `"last_outcome":"succeeded"`)
	})
}

func TestNoSchedulerObservesOnly(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS id; INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 s')`)
	d := startDaemon(t, db.URL(), "public: true\n", "--no-scheduler")
	if code, body := fetch(t, d.url+"/cache/status/v"); code != http.StatusOK || !strings.Contains(body, "never_refreshed") {
		t.Errorf("%d, %s", code, body)
	}
	d.stop()
	conn := db.Connect(t)
	var attempts int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM materialized_view_refresh_history").Scan(&attempts); err != nil || attempts != 0 {
		t.Errorf("%d attempts, %v", attempts, err)
	}
}
