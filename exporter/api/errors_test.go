package api_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// The bodies of those errors that [TestErrors] does not show, and that none is
// without a test. No body holds anything of the server's messages.
func TestEveryErrorsBody(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE FUNCTION raise_it(mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the secret of SELECT' USING DETAIL = 'a secret'; END $$;
CREATE CAST (mood AS json) WITH FUNCTION raise_it(mood);
CREATE MATERIALIZED VIEW raises AS SELECT 1 AS id, 'happy'::mood AS mood; CREATE UNIQUE INDEX ON raises (id);
CREATE FUNCTION divide(n int) RETURNS int LANGUAGE sql AS 'SELECT 1 / n';
CREATE MATERIALIZED VIEW divides AS SELECT 1 AS id, divide(0) AS n WITH NO DATA; CREATE UNIQUE INDEX ON divides (id);
CREATE MATERIALIZED VIEW twice AS SELECT id, 1 AS n FROM (VALUES (1), (1)) AS v (id) WITH NO DATA; CREATE UNIQUE INDEX ON twice (id)`)
	const routes = `real_time: {url: 'postgres://unused@localhost/x', max_concurrent: 1, statement_timeout: 2s}
routes:
  - {path: '/jobs/{job_id}', view: job_progress, public: true}
  - {path: '/closed/{job_id}', view: job_progress}
  - {path: '/raises/{id}', view: raises, public: true}
  - {path: '/divides/{id}', view: divides, public: true}
  - {path: '/twice/{id}', view: twice, public: true}
`
	o := options(t, configured(t, db), routes)
	o.RealTimePool = liveLogin(t, db, readTables)
	shut := serve(t, o)
	withTokens := options(t, o.Pool, routes)
	withTokens.RealTimePool = o.RealTimePool
	withTokens.Config.Tokens = config.NewTokens("a-token")
	h := serve(t, withTokens)
	bare := serve(t, options(t, postgrestest.New(t).Pool(t), jobsRoute))

	const urn = `{"type":"urn:matview:error:`
	const wrongToken = urn + `unauthorized","title":"The bearer token is not valid","status":401}`
	seen := map[string]bool{}
	for _, c := range []struct {
		name    string
		handler http.Handler
		method  string
		path    string
		header  string
		want    string
	}{
		{"no credentials configured", shut, "GET", "/closed/1", "", urn + `closed","title":"This is closed","status":403,"detail":"No credentials are configured. Set auth.bearer_tokens_file, a web configuration with users, or public: true."}`},
		{"no token", h, "GET", "/closed/1", "", urn + `unauthorized","title":"A bearer token is needed","status":401,"detail":"Send Authorization: Bearer TOKEN."}`},
		{"another scheme", h, "GET", "/closed/1", "Authorization: Digest a-token", urn + `unauthorized","title":"A bearer token is needed","status":401,"detail":"Send Authorization: Bearer TOKEN."}`},
		{"a wrong token", h, "GET", "/closed/1", "Authorization: Bearer b-token", wrongToken},
		{"a wrong password", h, "GET", "/cache/status", "Authorization: Basic eDp5", wrongToken},
		{"a method", h, "POST", "/jobs/1", "", urn + `method-not-allowed","title":"Only GET and HEAD are answered here","status":405,"detail":"The method was \"POST\"."}`},
		{"an odd method", h, "A'B", "/-/healthy", "", urn + `method-not-allowed","title":"Only GET and HEAD are answered here","status":405,"detail":"The method was \"A'B\"."}`},
		{"an error of a cast", h, "GET", "/raises/1", "", urn + `internal","title":"Something went wrong","status":500,"detail":"The exporter's log says what."}`},
		{"an error of the query", h, "GET", "/divides/1?real_time=true", "", urn + `live-query-failed","title":"The view's query failed","status":500,"detail":"The exporter's log says why."}`},
		{"two rows", h, "GET", "/twice/1?real_time=true", "", urn + `ambiguous-row","title":"There is more than one such row","status":500,"detail":"The key is not unique in the result of the view's query."}`},
		{"no tables of ours", bare, "GET", "/jobs/1", "", urn + `not-installed","title":"The tables of matview are not installed","status":503,"detail":"Run matview-exporter migrate, or apply a matview_refresh_log."}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var headers []string
			if c.header != "" {
				headers = append(headers, c.header)
			}
			seen[wantProblem(t, ask(t, c.handler, c.method, c.path, headers...).Body.String(), c.want)] = true
		})
	}

	// One live query waits for a lock until it is cancelled, so that the next finds no place.
	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), `BEGIN; LOCK TABLE jobs`); err != nil {
		t.Fatal(err)
	}
	var first sync.WaitGroup
	first.Go(func() {
		if w := get(t, h, "/jobs/job-1?real_time=true"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "view-busy") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
	waitForLock(t, db)
	seen[wantProblem(t, get(t, h, "/jobs/job-1?real_time=true").Body.String(),
		urn+`too-many-live-queries","title":"Too many real-time queries are running","status":503,"detail":"Try again in a moment, or leave out real_time=true and max_age for the cached row."}`)] = true
	first.Wait()
	// A statement that takes too long, by no lock.
	slow := options(t, db.Pool(t), strings.ReplaceAll(routes, "2s", "100ms"))
	slow.RealTimePool = o.RealTimePool
	db.Exec(t, `CREATE OR REPLACE FUNCTION divide(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN 1; END $$`)
	seen[wantProblem(t, get(t, serve(t, slow), "/divides/1?real_time=true").Body.String(), urn+`timeout","title":"The database took too long","status":504}`)] = true

	elsewhere := testSource(t, "api_test.go") + testSource(t, "row_test.go")
	for _, kind := range kindsOfProblems(t) {
		if !seen[kind] && !strings.Contains(elsewhere, kind+`","title":"`) {
			t.Errorf("no test shows the body of %s", kind)
		}
	}
}

// A key that is beyond a limit of its type is the client's mistake.
func TestKeyBeyondALimit(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW words AS SELECT 'a'::tsvector AS id; CREATE UNIQUE INDEX ON words (id)`)
	h := serve(t, options(t, configured(t, db), `{public: true, routes: [{path: "/words/{id}", view: words}]}`))
	if got := body(t, h, "/words/"+strings.Repeat("x", 3000), http.StatusBadRequest); !strings.Contains(got, "invalid-key") {
		t.Error(got)
	}
	body(t, h, "/words/a", http.StatusOK)
}

// wantProblem compares a body, and gives the kind of the problem.
func wantProblem(t *testing.T, body, want string) string {
	t.Helper()
	if diff := cmp.Diff(want, strings.TrimSpace(body)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, after, _ := strings.Cut(want, "urn:matview:error:")
	kind, _, _ := strings.Cut(after, `"`)
	return kind
}

// kindsOfProblems are all that the source makes.
func kindsOfProblems(t *testing.T) []string {
	t.Helper()
	var kinds []string
	for _, found := range regexp.MustCompile(`newProblem\(http\.\w+, "([a-z-]+)"`).FindAllStringSubmatch(testSource(t, "problem.go"), -1) {
		kinds = append(kinds, found[1])
	}
	if len(kinds) < 20 {
		t.Fatalf("found only %q", kinds)
	}
	return kinds
}

func testSource(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
