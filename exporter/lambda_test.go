//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// lambdaRuntime stands in for the endpoint by which AWS Lambda hands invocations
// to the process of a function and takes what comes of them.
type lambdaRuntime struct {
	invocations chan lambdaInvocation
	outcomes    chan lambdaOutcome
}

type lambdaInvocation struct {
	event    string
	deadline time.Time
}

// lambdaOutcome is what the process posted: an answer or an error.
type lambdaOutcome struct {
	failed bool
	body   string
	at     time.Time
}

func (l *lambdaRuntime) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/2018-06-01/runtime/invocation/")
	switch {
	case ok && r.Method == http.MethodGet && path == "next":
		select {
		case <-r.Context().Done():
		case i := <-l.invocations:
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd")
			w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(i.deadline.UnixMilli()))
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, i.event)
		}
	case ok && r.Method == http.MethodPost && (strings.HasSuffix(path, "/response") || strings.HasSuffix(path, "/error")):
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		l.outcomes <- lambdaOutcome{strings.HasSuffix(path, "/error"), string(body), time.Now()}
	default:
		http.NotFound(w, r)
	}
}

// lambdaFunction is our program as Lambda runs it: without arguments.
type lambdaFunction struct {
	*lambdaRuntime
	cmd            *osexec.Cmd
	stdout, stderr *syncBuffer
}

func startFunction(t *testing.T, bootstrap, databaseURL string, environment ...string) *lambdaFunction {
	t.Helper()
	f := &lambdaFunction{
		lambdaRuntime: &lambdaRuntime{invocations: make(chan lambdaInvocation), outcomes: make(chan lambdaOutcome, 1)},
		cmd:           osexec.Command(bootstrap), stdout: &syncBuffer{}, stderr: &syncBuffer{},
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	f.cmd.Env = append(os.Environ(), append(environment,
		lambdaVariable+"="+strings.TrimPrefix(server.URL, "http://"), "MATVIEW_DATABASE_URL="+databaseURL)...)
	f.cmd.Stdout, f.cmd.Stderr = f.stdout, f.stderr
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
		if t.Failed() {
			t.Logf("stdout: %s\nstderr: %s", f.stdout.String(), f.stderr.String())
		}
	})
	return f
}

// invoke is one invocation, which must be over by its deadline.
func (f *lambdaFunction) invoke(t *testing.T, event string, timeout time.Duration) lambdaOutcome {
	t.Helper()
	deadline := time.Now().Add(timeout)
	select {
	case f.invocations <- lambdaInvocation{event, deadline}:
	case <-time.After(30 * time.Second):
		t.Fatal("the function asks for no invocation")
	}
	select {
	case o := <-f.outcomes:
		if o.at.After(deadline) {
			t.Errorf("over %s after the deadline: %s", o.at.Sub(deadline), o.body)
		}
		return o
	case <-time.After(timeout + 30*time.Second):
		t.Fatal("nothing came of the invocation")
	}
	return lambdaOutcome{}
}

// refreshed are the views that an invocation that succeeded refreshed.
func (o lambdaOutcome) refreshed(t *testing.T) []string {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(o.body), &a); err != nil || o.failed {
		t.Fatalf("failed: %t %s %v", o.failed, o.body, err)
	}
	views := []string{}
	for _, v := range a.Refreshed {
		views = append(views, v.ViewName)
	}
	return views
}

// error is the kind and the message of an invocation that failed.
func (o lambdaOutcome) error(t *testing.T) string {
	t.Helper()
	var e struct{ ErrorType, ErrorMessage string }
	if err := json.Unmarshal([]byte(o.body), &e); err != nil || !o.failed {
		t.Fatalf("failed: %t %s %v", o.failed, o.body, err)
	}
	return e.ErrorType + ": " + e.ErrorMessage
}

const ample = 5 * time.Minute

// TestLambda runs our program, through the real client library, against a
// stand-in of Lambda's endpoint.
func TestLambda(t *testing.T) {
	bootstrap := filepath.Join(t.TempDir(), "bootstrap")
	if out, err := osexec.Command("go", "build", "-o", bootstrap, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for name, test := range map[string]func(*testing.T, string){
		"events": lambdaEvents, "document": lambdaDocument, "publishes": lambdaPublishes, "deadline": lambdaDeadline,
		"frozen": lambdaFrozen, "terminated": lambdaTerminated,
	} {
		t.Run(name, func(t *testing.T) { test(t, bootstrap) })
	}
}

func lambdaEvents(t *testing.T, bootstrap string) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW base AS SELECT 1 AS x; CREATE MATERIALIZED VIEW above AS SELECT x FROM base; CREATE MATERIALIZED VIEW other AS SELECT 1 AS x;
CREATE TABLE zero AS SELECT 0 AS x; CREATE MATERIALIZED VIEW broken AS SELECT 1 / x AS y FROM zero WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('above', '1 day'), ('base', '1 day')`)
	f := startFunction(t, bootstrap, db.URL())
	for _, c := range []struct {
		event string
		want  []string
	}{
		{`{}`, []string{"above", "base"}}, // due at first
		{`{}`, []string{}},
		{`{"version": "0", "detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}`, []string{}},
		{`"what is due"`, []string{}},
		{`null`, []string{}},
		{`{"views": ["other"]}`, []string{"other"}},
		{`{"views": ["above", "public.other", "base"]}`, []string{"above", "base", "other"}},
	} {
		got := f.invoke(t, c.event, ample).refreshed(t)
		if above := slices.Index(got, "above"); above >= 0 && slices.Index(got, "base") > above {
			t.Errorf("%s refreshed %v: above is refreshed after base, which it reads", c.event, got)
		}
		if slices.Sort(got); !slices.Equal(got, c.want) {
			t.Errorf("%s refreshed %v, want %v", c.event, got, c.want)
		}
	}
	for event, want := range map[string]string{
		`{"views": ["nowhere"]}`:         "RefreshFailed: there is no materialized view nowhere",
		`{"views": "base"}`:              `InvalidEvent: the event's "views" must be a list of the names of views`,
		`{"views": []}`:                  "InvalidEvent: ",
		`{"views": [1]}`:                 "InvalidEvent: ",
		`{"views": ["a`:                  "errorString: unexpected EOF",
		`{"views": ["broken", "other"]}`: "RefreshFailed: refresh broken: blocking: division by zero (SQLSTATE 22012)",
	} {
		got := f.invoke(t, event, ample).error(t)
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", event, got, want)
		}
	}
	var refreshes int
	conn := db.Connect(t)
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM materialized_view_refresh_history WHERE view_name = 'other' AND outcome = 'succeeded'`).Scan(&refreshes); err != nil || refreshes != 3 {
		t.Errorf("other was refreshed %d times, also after broken had failed: %v", refreshes, err)
	}
	if out := f.stdout.String(); out != "" {
		t.Errorf("nothing is to be published, but: %s", out)
	}
	for line, want := range map[string]int{
		`msg=refreshed view=\w+ trigger=schedule method=\w+ duration=`:      2,
		`msg=refreshed view=\w+ trigger=manual method=\w+ duration=`:        5,
		`msg="refresh failed" view=broken trigger=manual duration=\S+ err=`: 1,
	} {
		expression := regexp.MustCompile(line)
		eventually(t, "one line an attempt: "+line, func() bool { return len(expression.FindAllString(f.stderr.String(), -1)) == want })
	}
}

// lambdaDocument: the refresher of the document, its upsert into the log and its
// metrics.
func lambdaDocument(t *testing.T, bootstrap string) {
	db := documentDatabase(t)
	createView(t, db)
	if code, _, errs := exec(t, db.URL(), "migrate"); code != exitOK {
		t.Fatal(errs)
	}
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every, total_jobs, total_objects)
VALUES ('job_progress', '1 minute', 'count(*)', 'sum(total)')`)
	f := startFunction(t, bootstrap, db.URL(), "MATVIEW_CLOUDWATCH_NAMESPACE=S3Scanner", "MATVIEW_CLOUDWATCH_PLAIN_JOB_COUNT=job_progress")
	for range 2 {
		o := f.invoke(t, `{"views": ["job_progress"]}`, ample)
		if got := o.refreshed(t); !slices.Equal(got, []string{"job_progress"}) {
			t.Fatalf("%v", got)
		}
		var a answer
		if err := json.Unmarshal([]byte(o.body), &a); err != nil {
			t.Fatal(err)
		}
		var finished time.Time
		var milliseconds, jobs, objects int64
		conn := db.Connect(t)
		err := conn.QueryRow(t.Context(), `SELECT last_refreshed_at, refresh_duration_ms, total_jobs, total_objects FROM materialized_view_refresh_log WHERE view_name = 'job_progress'`).
			Scan(&finished, &milliseconds, &jobs, &objects)
		got := a.Refreshed[0]
		if err != nil || !got.LastRefreshedAt.Equal(finished) || got.RefreshDurationMS != milliseconds || *got.TotalJobs != jobs || *got.TotalObjects != objects || jobs == 0 {
			t.Errorf("the answer %s, the log %s %d %d %d, %v", o.body, finished, milliseconds, jobs, objects, err)
		}
	}
	eventually(t, "the count is published", func() bool { return strings.Contains(f.stdout.String(), "MatViewJobCount") })
	plain := false
	for _, line := range emfLines(t, f.stdout.String()) {
		if line["MatViewJobCount"] != nil && line["ViewName"] == nil {
			plain = true
		}
	}
	if !plain {
		t.Error("no MatViewJobCount without a dimension")
	}
}

// emfLines are the events on a standard output that has nothing else.
func emfLines(t *testing.T, out string) (events []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil || event["_aws"] == nil {
			t.Errorf("not an embedded metric: %s", line)
		}
		events = append(events, event)
	}
	return events
}

// lambdaPublishes: how old the view was, before, and then what became of it; as
// Embedded Metric Format unless the flag says otherwise.
func lambdaPublishes(t *testing.T, bootstrap string) {
	db := installed(t)
	old := `INSERT INTO materialized_view_refresh_log VALUES ('v', now() - interval '1 hour', 1000)
ON CONFLICT (view_name) DO UPDATE SET last_refreshed_at = EXCLUDED.last_refreshed_at, refresh_duration_ms = 1000`
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; `+old)
	f := startFunction(t, bootstrap, db.URL(), "MATVIEW_CLOUDWATCH_NAMESPACE=S3Scanner", "MATVIEW_CLOUDWATCH_DIMENSION=Database=app\nStage=test")
	f.invoke(t, `{"views": ["v"]}`, ample).refreshed(t)
	// The answer may overtake the pipe.
	eventually(t, "the duration is published", func() bool { return strings.Contains(f.stdout.String(), "MatViewRefreshDuration") })
	var staleness, duration, heartbeat bool
	for _, e := range emfLines(t, f.stdout.String()) {
		if e["Database"] != "app" || e["Stage"] != "test" {
			t.Errorf("%v", e)
		}
		switch age := e["MatViewStaleness"].(type) {
		case float64:
			staleness = staleness || age > 3600 && age < 3700
		case []any:
			for _, a := range age {
				staleness = staleness || a.(float64) > 3600
			}
		}
		duration, heartbeat = duration || e["MatViewRefreshDuration"] != nil, heartbeat || e["MatViewExporterHeartbeat"] == 1.0
	}
	if !staleness || !duration || !heartbeat {
		t.Errorf("staleness of before: %t, duration: %t, heartbeat: %t in %s", staleness, duration, heartbeat, f.stdout.String())
	}

	service, flags := cloudWatch(t)
	environment := []string{"MATVIEW_CLOUDWATCH_EMF=false", "PGAPPNAME=lambda"}
	for _, flag := range flags {
		name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
		environment = append(environment, "MATVIEW_"+strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(name))+"="+value)
	}
	f = startFunction(t, bootstrap, db.URL(), environment...)
	f.invoke(t, `{"views": ["v"]}`, ample).refreshed(t)
	if got := metricsOf(service, "v"); !slices.Equal(got, []string{"MatViewStaleness", "MatViewRefreshDuration"}) || f.stdout.String() != "" {
		t.Errorf("%v %s", got, f.stdout.String())
	}
}

// lambdaDeadline: what cannot be done in time is cancelled, recorded, and an
// error; the next invocation is none the worse.
func lambdaDeadline(t *testing.T, bootstrap string) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(60)::text WITH NO DATA;
CREATE MATERIALIZED VIEW slow_too AS SELECT pg_sleep(60)::text WITH NO DATA; CREATE MATERIALIZED VIEW v AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW locked AS SELECT 1 AS x`)
	f := startFunction(t, bootstrap, db.URL(), "MATVIEW_CLOUDWATCH_NAMESPACE=S3Scanner")
	const why = "cancelled before the deadline of the Lambda invocation"
	got := f.invoke(t, `{"views": ["slow", "slow_too", "v"]}`, 5*time.Second).error(t) // two at once
	for _, want := range []string{"refresh slow: " + why, "refresh slow_too: " + why, "not refreshed: v: " + why} {
		if !strings.Contains(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; SELECT * FROM locked"); err != nil {
		t.Fatal(err)
	}
	if got := f.invoke(t, `{"views": ["locked"]}`, 3*time.Second).error(t); !strings.Contains(got, why) {
		t.Error(got)
	}
	var failed, running int
	err := holder.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE outcome = 'failed' AND error LIKE '%deadline of the Lambda%'), count(*) FILTER (WHERE outcome = 'running')
FROM materialized_view_refresh_history`).Scan(&failed, &running)
	if err != nil || failed != 3 || running != 0 {
		t.Errorf("%d attempts recorded as failed, %d still running: %v", failed, running, err)
	}
	failures := func(text, in string) func() bool {
		return func() bool {
			return strings.Count(map[string]*syncBuffer{"stdout": f.stdout, "stderr": f.stderr}[in].String(), text) >= 3
		}
	}
	eventually(t, "three failures are published", failures(`"MatViewRefreshFailure":1`, "stdout"))
	eventually(t, "three failures are logged", failures(`msg="refresh failed"`, "stderr"))
	if got := f.invoke(t, `{"views": ["v"]}`, ample).refreshed(t); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// lambdaFrozen: the process is stopped between invocations while the server
// restarts, and its connections are dead when it goes on. Then the database is
// away, and comes again.
func lambdaFrozen(t *testing.T, bootstrap string) {
	server, err := postgrestest.Start(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	url := server.URL("postgres")
	if code, _, errs := exec(t, url, "migrate"); code != exitOK {
		t.Fatal(errs)
	}
	connected := func(use func(*pgx.Conn) error) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			err = errors.Join(use(conn), conn.Close(t.Context()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	connected(func(conn *pgx.Conn) error {
		_, err := conn.Exec(t.Context(), `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x`)
		return err
	})
	f := startFunction(t, bootstrap, url, "MATVIEW_CLOUDWATCH_NAMESPACE=S3Scanner", "PGAPPNAME=frozen")
	event := `{"views": ["v"]}`
	backends := func() (pids string) {
		connected(func(conn *pgx.Conn) error {
			return conn.QueryRow(t.Context(), "SELECT coalesce(string_agg(pid::text, ' ' ORDER BY pid), '') FROM pg_stat_activity WHERE application_name = 'frozen'").Scan(&pids)
		})
		return pids
	}
	f.invoke(t, event, ample).refreshed(t)
	warm := backends()
	f.invoke(t, event, ample).refreshed(t)
	if again := backends(); warm == "" || again != warm {
		t.Errorf("connections are not kept: %q, then %q", warm, again)
	}
	signal := func(s os.Signal) {
		if err := f.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	signal(syscall.SIGCONT)
	f.invoke(t, event, ample).refreshed(t)
	if err := server.Crash(); err != nil {
		t.Fatal(err)
	}
	if got := f.invoke(t, event, 20*time.Second).error(t); !strings.HasPrefix(got, "RefreshFailed: cannot connect to PostgreSQL at 127.0.0.1") {
		t.Error(got)
	}
	eventually(t, "what was known is published", func() bool {
		known, _, found := strings.Cut(f.stdout.String(), `{"MatViewExporterHeartbeat":0`)
		lines := slices.Collect(strings.Lines(known))
		return found && strings.HasPrefix(lines[len(lines)-1], `{"MatViewStaleness":`)
	})
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.invoke(t, event, ample).refreshed(t)
}

// lambdaTerminated: SIGTERM cancels what is under way, and that is recorded.
func lambdaTerminated(t *testing.T, bootstrap string) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW slow AS SELECT pg_sleep(60)::text WITH NO DATA`)
	f := startFunction(t, bootstrap, db.URL())
	f.invocations <- lambdaInvocation{`{"views": ["slow"]}`, time.Now().Add(ample)}
	conn := db.Connect(t)
	outcome := func() (o string) {
		_ = conn.QueryRow(t.Context(), `SELECT outcome || ' ' || coalesce(error, '') FROM materialized_view_refresh_history`).Scan(&o)
		return o
	}
	eventually(t, "it runs", func() bool { return strings.HasPrefix(outcome(), "running") })
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := f.cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	if got := outcome(); !strings.HasPrefix(got, "failed refresh slow: cancelled, since Lambda ends the process") {
		t.Error(got)
	}
}

func TestLambdaElsewhere(t *testing.T) {
	t.Setenv(lambdaVariable, "")
	code, _, errs := exec(t, "postgres://127.0.0.1:1/x", "lambda")
	if code != exitUsage || !strings.Contains(errs, "matview-exporter refresh --due") {
		t.Errorf("%d %s", code, errs)
	}
}
