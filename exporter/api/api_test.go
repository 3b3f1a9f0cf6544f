package api_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestErrors(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW numbered AS SELECT 1 AS id, 2::smallint AS other; CREATE UNIQUE INDEX ON numbered (id); CREATE UNIQUE INDEX ON numbered (other);
CREATE MATERIALIZED VIEW empty AS SELECT 1 AS id WITH NO DATA; CREATE UNIQUE INDEX ON empty (id);
CREATE MATERIALIZED VIEW unindexed AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW recorded AS SELECT 1 AS id; CREATE UNIQUE INDEX ON recorded (id);
INSERT INTO materialized_view_refresh_log VALUES ('recorded', '2025-11-09T10:14:30Z', 1)`)
	const routes = `
  - {path: '/n/{id}', view: numbered}
  - {path: '/other/{other}', view: numbered}
  - {path: '/empty/{id}', view: empty}
  - {path: '/unindexed/{id}', view: unindexed}
  - {path: '/gone/{id}', view: gone}
  - {path: '/recorded/{id}', view: recorded}
`
	h := serve(t, options(t, db.Pool(t), jobsRoute+routes))
	const urn = `{"type":"urn:matview:error:`
	for url, want := range map[string]string{
		"/no/such/route":                     urn + `unknown-route","title":"There is no such route","status":404}`,
		"/jobs":                              urn + `unknown-route","title":"There is no such route","status":404}`,
		"/jobs/":                             urn + `unknown-route","title":"There is no such route","status":404}`,
		"/jobs/x/":                           urn + `unknown-route","title":"There is no such route","status":404}`,
		"/jobs//x":                           urn + `unknown-route","title":"There is no such route","status":404}`,
		"/jobs/../x":                         urn + `unknown-route","title":"There is no such route","status":404}`,
		"/jobs/no-such":                      urn + `no-such-row","title":"There is no such row","status":404}`,
		"/n/2":                               urn + `no-such-row","title":"There is no such row","status":404}`,
		"/n/two":                             urn + `invalid-key","title":"The key is not of the column's type","status":400,"detail":"id must be of type integer."}`,
		"/n/99999999999":                     urn + `invalid-key","title":"The key is not of the column's type","status":400,"detail":"id must be of type integer."}`,
		"/n/1;drop":                          urn + `invalid-key","title":"The key is not of the column's type","status":400,"detail":"id must be of type integer."}`,
		"/other/32768":                       urn + `invalid-key","title":"The key is not of the column's type","status":400,"detail":"other must be of type smallint."}`,
		"/jobs/a%00b":                        urn + `invalid-key","title":"The key is not of the column's type","status":400,"detail":"job_id must be of type text."}`,
		"/jobs/%ff":                          urn + `invalid-key","title":"The key is not of the column's type","status":400,"detail":"job_id must be of type text."}`,
		"/jobs/'%20OR%20'1'='1":              urn + `no-such-row","title":"There is no such row","status":404}`,
		"/n/1?real_time=maybe":               urn + `invalid-parameter","title":"A query parameter is not valid","status":400,"detail":"real_time must be true or false, once."}`,
		"/n/1?real_time=true&real_time=true": urn + `invalid-parameter","title":"A query parameter is not valid","status":400,"detail":"real_time must be true or false, once."}`,
		"/n/1?a=%zz":                         urn + `invalid-parameter","title":"A query parameter is not valid","status":400,"detail":"The query string does not parse."}`,
		"/n/1?real_time=true":                urn + `real-time-not-offered","title":"Real-time answers are not configured","status":501,"detail":"Leave out real_time=true for the cached row."}`,
		"/empty/1":                           urn + `not-populated","title":"The materialized view holds no data","status":503,"detail":"The view empty was created or last refreshed WITH NO DATA: it answers again after a refresh."}`,
		"/unindexed/1":                       urn + `misconfigured","title":"The route cannot be served as it is configured","status":503,"detail":"The view unindexed has no unique index on exactly (id) (plain columns, without WHERE), so the row could be several and slow to find."}`,
		"/gone/1":                            urn + `view-missing","title":"The materialized view does not exist","status":503,"detail":"The route is configured, but there is no view gone at the moment."}`,
		"/cache/status/gone":                 urn + `no-such-view","title":"There is no such materialized view","status":404}`,
		"/cache/status/a%00":                 urn + `no-such-view","title":"There is no such materialized view","status":404}`,
		"/cache/other":                       urn + `unknown-route","title":"There is no such route","status":404}`,
		"/n/1?max_age=-1":                    urn + `invalid-parameter","title":"A query parameter is not valid","status":400,"detail":"max_age must be a duration such as 90s or 5m, or a number of seconds, once, and not negative."}`,
		"/n/1?max_age=1&max_age=1":           urn + `invalid-parameter","title":"A query parameter is not valid","status":400,"detail":"max_age must be a duration such as 90s or 5m, or a number of seconds, once, and not negative."}`,
		"/n/1?max_age=5":                     urn + `never-refreshed","title":"No refresh of the materialized view is on record","status":503,"detail":"So the age of the row is unknown, and real-time answers are not configured. Leave out max_age for the cached row."}`,
		"/recorded/1?max_age=5":              urn + `not-fresh-enough","title":"The cached row is older than max_age, or of unknown age","status":503,"detail":"Real-time answers are not configured. Leave out max_age for the cached row."}`,
		"/empty/1?max_age=5":                 urn + `not-populated","title":"The materialized view holds no data","status":503,"detail":"The view empty was created or last refreshed WITH NO DATA: it answers again after a refresh."}`,
		"/cache/status?history=0":            urn + `invalid-parameter","title":"A query parameter is not valid","status":400,"detail":"history must be a number of attempts from 1 to 100, once."}`,
		"/cache/status/numbered?history=101": urn + `invalid-parameter","title":"A query parameter is not valid","status":400,"detail":"history must be a number of attempts from 1 to 100, once."}`,
		"/cache/status?history=+1":           urn + `invalid-parameter","title":"A query parameter is not valid","status":400,"detail":"history must be a number of attempts from 1 to 100, once."}`,
		"/n/" + strings.Repeat("1", 8<<10):   urn + `uri-too-long","title":"The URL is too long","status":414,"detail":"At most 8192 bytes are read."}`,
		"/metrics":                           urn + `unknown-route","title":"There is no such route","status":404}`,
	} {
		w := get(t, h, url)
		if diff := cmp.Diff(want, strings.TrimSpace(w.Body.String())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", url, diff)
			continue
		}
		var p struct{ Status int }
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %v, status %d in the body, %d before it, %v", url, err, p.Status, w.Code, w.Header())
		}
		if (w.Code == http.StatusServiceUnavailable) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%s: %d with Retry-After %q", url, w.Code, w.Header().Get("Retry-After"))
		}
	}
}

func TestMethods(t *testing.T) {
	db := jobs(t)
	h := serve(t, options(t, db.Pool(t), jobsRoute))
	for _, path := range []string{"/jobs/job-1", "/cache/status", "/cache/status/job_progress", "/-/healthy", "/-/ready"} {
		for method, want := range map[string]int{http.MethodPost: 405, http.MethodDelete: 405, http.MethodOptions: 405, http.MethodHead: 200} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
			if w.Code != want || (want == 405) != (w.Header().Get("Allow") == "GET, HEAD") {
				t.Errorf("%s %s: %d %v", method, path, w.Code, w.Header())
			}
		}
	}
}

func TestCredentials(t *testing.T) {
	db := jobs(t)
	const routes = `routes:
  - {path: '/jobs/{job_id}', view: job_progress}
  - {path: '/open/{job_id}', view: job_progress, public: true}
  - {path: '/shut/{job_id}', view: job_progress, public: false}
`
	type answers struct{ jobs, open, shut, cache, ready int }
	ask := func(h http.Handler, authorization string) answers {
		code := func(path string) int {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			h.ServeHTTP(w, r)
			if (w.Code == http.StatusUnauthorized) != strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s: %d with %v", path, w.Code, w.Header())
			}
			return w.Code
		}
		return answers{code("/jobs/job-1"), code("/open/job-1"), code("/shut/job-1"), code("/cache/status"), code("/-/ready")}
	}
	o := options(t, db.Pool(t), routes)
	public := options(t, db.Pool(t), "public: true\n"+routes)
	tokens := options(t, db.Pool(t), routes)
	tokens.Config.Tokens = config.NewTokens("first", "second")
	web := o
	web.Authenticated = func(*http.Request) bool { return true }
	for name, c := range map[string]struct {
		options       api.Options
		authorization string
		want          answers
	}{
		"closed by default": {o, "", answers{403, 200, 403, 403, 200}},
		"no empty token":    {o, "Bearer ", answers{403, 200, 403, 403, 200}},
		"public":            {public, "", answers{200, 200, 403, 200, 200}},
		"web":               {web, "", answers{200, 200, 200, 200, 200}},
		"without token":     {tokens, "", answers{401, 200, 401, 401, 200}},
		"first token":       {tokens, "Bearer first", answers{200, 200, 200, 200, 200}},
		"second token":      {tokens, "bearer second", answers{200, 200, 200, 200, 200}},
		"wrong token":       {tokens, "Bearer firs", answers{401, 200, 401, 401, 200}},
		"empty token":       {tokens, "Bearer ", answers{401, 200, 401, 401, 200}},
		"basic":             {tokens, "Basic Zmlyc3Q6", answers{401, 200, 401, 401, 200}},             // first:
		"as a password":     {tokens, "Basic YW55Ym9keTpmaXJzdA==", answers{200, 200, 200, 200, 200}}, // anybody:first
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, ask(serve(t, c.options), c.authorization), cmp.AllowUnexported(answers{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDatabaseAway(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://someone:hidden@127.0.0.1:1/nowhere")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	o := options(t, pool, jobsRoute)
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	h := serve(t, o)
	const want = `{"type":"urn:matview:error:database-unavailable","title":"The database does not answer","status":503}`
	for _, path := range []string{"/jobs/job-1", "/cache/status", "/cache/status/x"} {
		w := get(t, h, path)
		if got := strings.TrimSpace(w.Body.String()); got != want || w.Header().Get("Retry-After") != "5" {
			t.Errorf("%s: %s %v", path, got, w.Header())
		}
	}
	if w := get(t, h, "/-/healthy"); w.Code != http.StatusOK || w.Body.String() != "healthy\n" {
		t.Errorf("/-/healthy: %d %s", w.Code, w.Body)
	}
	// Anybody may ask: where the database is, only the log says.
	w := get(t, h, "/-/ready")
	if w.Code != http.StatusServiceUnavailable || w.Body.String() != "not ready: the database does not answer; the exporter's log says why\n" {
		t.Errorf("/-/ready: %d %s", w.Code, w.Body)
	}
	if text := log.String(); !strings.Contains(text, "127.0.0.1:1") || !strings.Contains(text, "not ready") || strings.Contains(text, "hidden") {
		t.Errorf("the log: %s", text)
	}
}

func TestNotInstalled(t *testing.T) {
	db := postgrestest.New(t)
	h := serve(t, options(t, db.Pool(t), jobsRoute))
	for _, path := range []string{"/jobs/job-1", "/cache/status"} {
		if got := body(t, h, path, http.StatusServiceUnavailable); !strings.Contains(got, "urn:matview:error:not-installed") {
			t.Errorf("%s: %s", path, got)
		}
	}
	if w := get(t, h, "/-/ready"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "run matview-exporter migrate") {
		t.Errorf("/-/ready: %d %s", w.Code, w.Body)
	}
}

// What only the database can say about a configuration names file and line.
func TestCheck(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS id, 2 AS part, 3 AS expr, 4 AS plain, 5 AS cache_data_as_of;
CREATE UNIQUE INDEX ON v (part) WHERE part > 0; CREATE UNIQUE INDEX ON v ((expr + 1)); CREATE INDEX ON v (plain); CREATE UNIQUE INDEX ON v (id, part);
CREATE TYPE mood AS ENUM ('happy');
CREATE MATERIALIZED VIEW typed AS SELECT 1 AS id, 'happy'::mood AS mood; CREATE UNIQUE INDEX ON typed (id)`)
	user, _ := db.Role(t, "")
	db.Exec(t, `ALTER TYPE mood OWNER TO `+user+`; GRANT CREATE ON SCHEMA public TO `+user+`;
SET ROLE `+user+`;
CREATE FUNCTION public.steal(public.mood) RETURNS json LANGUAGE sql AS $$ SELECT to_json(current_user) $$;
CREATE CAST (public.mood AS json) WITH FUNCTION public.steal(public.mood)`)
	o := options(t, db.Pool(t), `routes:
  - {path: '/a/{id}', view: v}
  - {path: '/b/{part}', view: v}
  - {path: '/c/{expr}/{plain}', view: v}
  - {path: '/d/{no_such}', view: v}
  - {path: '/e/{job_id}', view: job_progress}
  - {path: '/f/{id}', view: not_yet}
  - {path: '/g/{id}', view: typed}
public: true
`)
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewJSONHandler(&log, nil))
	h := serve(t, o)
	if unreachable := h.Check(t.Context()); unreachable != nil {
		t.Fatal(unreachable)
	}
	const field = ` the view v has a column "cache_data_as_of", which the answer adds itself: rename it in the view`
	index := func(columns string) string {
		return ` the view v has no unique index on exactly (` + columns + `) (plain columns, without WHERE), so the row could be several and slow to find`
	}
	want := []string{
		`2: routes[0].view:` + field, `2: routes[0].path:` + index("id"),
		`3: routes[1].view:` + field, `3: routes[1].path:` + index("part"),
		`4: routes[2].view:` + field, `4: routes[2].path:` + index("expr, plain"),
		`5: routes[3].path: the view v has no column "no_such"`, `5: routes[3].view:` + field,
		`8: routes[6].view: the view typed has columns of types of this database, and there is a cast to json by the function public.steal(public.mood) of ` + user +
			`, no superuser: reading the view could run it as the exporter`,
	}
	var got []string
	decoder := json.NewDecoder(&log)
	for decoder.More() {
		var line struct{ Level, Err string }
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if _, after, found := strings.Cut(line.Err, "matview.yml:"); found && line.Level == "WARN" {
			got = append(got, after)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// The page says so, until it is mended.
	const warning = "The route /a/{id} cannot be served: "
	if got := get(t, h, "/").Body.String(); !strings.Contains(got, warning) || !strings.Contains(got, "no unique index on exactly (id)") || strings.Contains(got, "The route /e/") {
		t.Errorf("the page:\n%s", got)
	}
	db.Exec(t, `DROP MATERIALIZED VIEW v; CREATE MATERIALIZED VIEW v AS SELECT 1 AS id; CREATE UNIQUE INDEX ON v (id)`)
	if got := get(t, h, "/").Body.String(); strings.Contains(got, warning) || !strings.Contains(got, "The route /b/{part} cannot be served: ") {
		t.Errorf("the page afterwards:\n%s", got)
	}
	body(t, h, "/a/1", http.StatusOK)

	away, err := pgxpool.New(t.Context(), "postgres://someone@127.0.0.1:1/nowhere")
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	o.Pool = away
	if unreachable := serve(t, o).Check(t.Context()); unreachable == nil {
		t.Error("a database that is away can be reached")
	}
}

func TestCacheStatus(t *testing.T) {
	db := jobs(t)
	h := serve(t, options(t, db.Pool(t), "public: true"))
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('public.gone', '1 hour')`)
	var status struct{ Views []map[string]any }
	if err := json.Unmarshal([]byte(body(t, h, "/cache/status", http.StatusOK)), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Views) != 2 || status.Views[0]["view_name"] != "job_progress" || status.Views[1]["stale_reason"] != "missing" {
		t.Fatalf("%v", status.Views)
	}
	// The keys are the columns of the read model.
	rows, err := db.Connect(t).Query(t.Context(), "SELECT * FROM materialized_view_freshness LIMIT 0")
	if err != nil {
		t.Fatal(err)
	}
	for _, column := range rows.FieldDescriptions() {
		if _, found := status.Views[0][column.Name]; !found && column.Name != "view_oid" {
			t.Errorf("no key %s", column.Name)
		}
		delete(status.Views[0], column.Name)
	}
	rows.Close()
	if len(status.Views[0]) != 0 {
		t.Errorf("keys that are no columns: %v", status.Views[0])
	}
	// Any name that is known for the view.
	for _, name := range []string{"job_progress", "public.job_progress"} {
		if got := body(t, h, "/cache/status/"+name, http.StatusOK); !strings.HasPrefix(got, `{"view_name":"job_progress","schema_name":"public"`) {
			t.Error(got)
		}
	}
}

func TestViewAsJSON(t *testing.T) {
	at := time.Date(2025, 11, 9, 2, 14, 30, 123_999_999, time.FixedZone("", -8*3600))
	for message, want := range map[string]string{
		`refresh v: duplicate key value violates unique constraint "i" (Key (job_id)=(a (b) secret) already exists); hint: none (SQLSTATE 23505)`: `refresh v: duplicate key value violates unique constraint "i" (SQLSTATE 23505)`,
		`refresh v: division by zero (SQLSTATE 22012)`: `refresh v: division by zero (SQLSTATE 22012)`,
		`the view has no usable index (create one)`:    `the view has no usable index (create one)`,
	} {
		view := api.NewView(freshness.View{Name: "v", LastRefreshedAt: &at, LastError: &message})
		if *view.LastError != want {
			t.Errorf("%s", *view.LastError)
		}
		if text, err := json.Marshal(view.LastRefreshedAt); err != nil || string(text) != `"2025-11-09T10:14:30.123Z"` {
			t.Errorf("%s, %v", text, err)
		}
	}
	if text, err := json.Marshal(api.NewStatus(nil)); err != nil || string(text) != `{"views":[]}` {
		t.Errorf("no views: %s, %v", text, err)
	}
}

// Whatever a client sends, the answer is JSON and no error of the server.
func FuzzRequests(f *testing.F) {
	db := jobs(f)
	routes := "routes:\n  - {path: '/closed/{job_id}', view: job_progress}\n  - {path: '/text/{job_id}', view: job_progress, public: true}\n"
	paths := []string{"/closed/", "/text/", "/pair/", "/cache/status/", "/cache/views/", "/-/", "/"}
	for _, typ := range []string{"integer", "bigint", "uuid", "timestamp", "timestamptz", "date", "numeric", "boolean", "citext", "inet", "mood"} {
		paths = append(paths, "/"+typ+"/")
		routes += "  - {path: '/" + typ + "/{id}', view: of_" + typ + ", public: true}\n"
	}
	routes += "  - {path: '/pair/{a}/{b}', view: pairs, public: true}\n"
	db.Exec(f, `CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE MATERIALIZED VIEW pairs AS SELECT 1 AS a, 2::bigint AS b; CREATE UNIQUE INDEX ON pairs (b, a);`)
	for typ, value := range map[string]string{
		"integer": "1", "bigint": "9223372036854775807", "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "timestamp": "2025-11-09 10:14:30", "timestamptz": "2025-11-09T10:14:30Z",
		"date": "2025-11-09", "numeric": "1.5", "boolean": "true", "citext": "MiXed", "inet": "10.0.0.1", "mood": "happy",
	} {
		db.Exec(f, `CREATE MATERIALIZED VIEW of_`+typ+` AS SELECT '`+value+`'::`+typ+` AS id; CREATE UNIQUE INDEX ON of_`+typ+` (id)`)
	}
	o := options(f, configured(f, db), routes)
	o.Config.Tokens = config.NewTokens("a-token")
	o.Logger = slog.New(slog.DiscardHandler)
	h := serve(f, o)
	for i := range paths {
		f.Add(uint8(i), "1", "", "", "")
	}
	for _, seed := range [][4]string{
		{"job-1", "", "", ""},
		{"a%2Fb", `"tag"`, "Bearer x", "text/html"},
		{"%ff", "*", "Basic !", "*/*;q=0"},
		{"%00", `W/"`, "Bearer a-token", "\x00"},
		{"..", "\x00", "Bearer", ""},
		{"?real_time=", "", "Basic eDphLXRva2Vu", ""},
		{"job-1?real_time=true", "", "bearer  a-token ", ""},
		{"job-1?max_age=1e9", "", "", ""},
		{"job-1?max_age=&max_age", ",,", "", ""},
		{"-1", "", "", ""},
		{"2147483648", "", "", ""},
		{"NaN", "", "", ""},
		{"infinity", "", "", ""},
		{"2025-11-09T10:14:30+23:59", "", "", ""},
		{"1/2", "", "", ""},
		{"x/2?history=1", "", "", ""},
		{strings.Repeat("x", 9000), "", "", ""},
	} {
		for i := range paths {
			f.Add(uint8(i), seed[0], seed[1], seed[2], seed[3])
		}
	}
	f.Fuzz(func(t *testing.T, path uint8, rest, tags, authorization, accept string) {
		prefix := paths[int(path)%len(paths)]
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, prefix+rest, http.NoBody)
		if err != nil {
			return
		}
		r.Header.Set("If-None-Match", tags)
		r.Header.Set("Authorization", authorization)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusNotImplemented, http.StatusServiceUnavailable: // real_time and max_age without a login
			if !strings.Contains(strings.ToLower(w.Body.String()), "real-time answers are not configured") {
				t.Errorf("%q: %d %s", rest, w.Code, w.Body)
			}
		case http.StatusNotModified:
			if w.Body.Len() > 0 {
				t.Errorf("%q: a body with 304", rest)
			}
			return
		case http.StatusUnauthorized:
			if w.Header().Get("WWW-Authenticate") == "" || authorization == "Bearer a-token" {
				t.Errorf("%q with %q: %d %v", rest, authorization, w.Code, w.Header())
			}
		case http.StatusOK:
			_, password, _ := r.BasicAuth()
			if prefix == "/closed/" && !strings.Contains(authorization, "a-token") && password != "a-token" {
				t.Errorf("a closed route opened for %q", authorization)
			}
		case http.StatusNotFound, http.StatusBadRequest, http.StatusRequestURITooLong:
		default:
			t.Errorf("%s%q: %d %s", prefix, rest, w.Code, w.Body)
		}
		if strings.Contains(w.Header().Get("Content-Type"), "json") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%q: no JSON: %s", rest, w.Body)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%q: %v", rest, w.Header())
		}
	})
}

// What an answer takes does not grow with the view.
func TestAllocationsDoNotGrow(t *testing.T) {
	measure := func(rows string) float64 {
		db := jobs(t)
		db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT i AS id, 'x' AS text FROM generate_series(1, `+rows+`) AS i; CREATE UNIQUE INDEX ON v (id); ANALYZE v`)
		refreshView(t, db.Pool(t), "v", "blocking")
		h := serve(t, options(t, configured(t, db), `{public: true, routes: [{path: "/jobs/{id}", view: v}]}`))
		body(t, h, "/jobs/1", http.StatusOK)
		return testing.AllocsPerRun(200, func() { get(t, h, "/jobs/1") })
	}
	if small, large := measure("100"), measure("100000"); large > small+5 {
		t.Errorf("%.0f allocations over 100 rows, %.0f over 100,000", small, large)
	}
}

func TestBodies(t *testing.T) {
	db := jobs(t)
	h := serve(t, options(t, db.Pool(t), jobsRoute))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/jobs/job-1", strings.NewReader("x"))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	const want = `{"type":"urn:matview:error:body-not-read","title":"A request here has no body","status":413}`
	if got := strings.TrimSpace(w.Body.String()); got != want || w.Header().Get("Connection") != "close" {
		t.Errorf("%s %v", got, w.Header())
	}
}
