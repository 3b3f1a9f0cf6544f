package api_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/exporter/api"
)

// setAge moves the record of job_progress: its data is as old as that.
const setAge = `
UPDATE materialized_view_refresh_state SET data_as_of = clock_timestamp() - $1::interval`

func TestMaxAge(t *testing.T) {
	db := jobs(t)
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	db.Exec(t, setAge, "100 seconds")
	o := options(t, configured(t, db), jobsRoute)
	cachedOnly := serve(t, o)
	o.RealTimePool = liveLogin(t, db, readTables)
	h := serve(t, o)
	for parameter, source := range map[string]string{
		"5m": "cached", "1h30m": "cached", "110": "cached", "110.5": "cached", "99h": "cached",
		"0": "real_time", "0s": "real_time", "99": "real_time", "99.9": "real_time", "1m39s": "real_time", "1ms": "real_time",
	} {
		w := get(t, h, "/jobs/job-1?max_age="+parameter)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"data_source":"`+source+`"`) {
			t.Errorf("max_age=%s: %d %s, want %s", parameter, w.Code, w.Body, source)
		}
		cached := source == "cached"
		if header := w.Header(); (header.Get("Age") != "") != cached || (header.Get("ETag") != "") != cached || (header.Get("Cache-Control") == "no-store") == cached {
			t.Errorf("max_age=%s: %v", parameter, header)
		}
	}
	const problem = `{"type":"urn:matview:error:not-fresh-enough","title":"The cached row is older than max_age, or of unknown age","status":503,` +
		`"detail":"Real-time answers are not configured. Leave out max_age for the cached row."}`
	if got := body(t, cachedOnly, "/jobs/job-1?max_age=5", http.StatusServiceUnavailable); got != problem {
		t.Error(got)
	}
	// A row that has come since, and one that has gone.
	db.Exec(t, `INSERT INTO jobs VALUES ('new', 'x')`)
	body(t, h, "/jobs/new?max_age=1h", http.StatusNotFound)
	body(t, h, "/jobs/new?max_age=5", http.StatusOK)
	db.Exec(t, `DELETE FROM jobs WHERE job_id = 'new'`)
	body(t, h, "/jobs/new?max_age=5", http.StatusNotFound)

	// Somebody else has refreshed it: of unknown age, however generous the client.
	db.Exec(t, `REFRESH MATERIALIZED VIEW job_progress`)
	if got := body(t, h, "/jobs/job-1?max_age=99h", http.StatusOK); !strings.Contains(got, "real_time") {
		t.Errorf("of unknown age: %s", got)
	}
	if w := get(t, h, "/jobs/job-1"); w.Header().Get("Age") != "" {
		t.Errorf("an Age although it is unknown: %v", w.Header())
	}
	db.Exec(t, `REFRESH MATERIALIZED VIEW job_progress WITH NO DATA`)
	if got := body(t, h, "/jobs/job-1?max_age=99h", http.StatusOK); !strings.Contains(got, "real_time") {
		t.Errorf("not populated: %s", got)
	}
	body(t, h, "/jobs/job-1", http.StatusServiceUnavailable)
}

func TestETag(t *testing.T) {
	db := jobs(t)
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	db.Exec(t, setAge, "10.5 seconds")
	h := serve(t, options(t, configured(t, db), jobsRoute))
	tag := func() string {
		t.Helper()
		w := get(t, h, "/jobs/job-1")
		etag := w.Header().Get("ETag")
		if w.Code != http.StatusOK || len(etag) != 22 || w.Header().Get("Cache-Control") != "private, no-cache" {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
		return etag
	}
	first := tag()
	if first != tag() {
		t.Error("the ETag changes without a refresh")
	}
	if age, err := strconv.Atoi(get(t, h, "/jobs/job-1").Header().Get("Age")); err != nil || age < 11 || age > 60 {
		t.Errorf("Age %d, %v, want it rounded up from 10.5 s", age, err)
	}
	// Another replica, and one behind a pooler, say the same.
	if other := get(t, serve(t, options(t, db.Pool(t), jobsRoute)), "/jobs/job-1").Header().Get("ETag"); other != first {
		t.Errorf("a replica says %s, not %s", other, first)
	}
	for header, want := range map[string]int{
		first: 304, "W/" + first: 304, `"other", ` + first: 304, `"a,b" , W/"x",` + first + `, "y"`: 304, "*": 304,
		`"other"`: 200, "": 200, strings.Trim(first, `"`): 200, `"` + first: 200, `"other" ` + first: 200, "W/*": 200, `"open`: 200,
	} {
		w := ask(t, h, http.MethodGet, "/jobs/job-1", "If-None-Match: "+header)
		if w.Code != want || (want == 304) != (w.Body.Len() == 0) || w.Header().Get("ETag") != first || w.Header().Get("Age") == "" {
			t.Errorf("If-None-Match: %s: %d %v %s", header, w.Code, w.Header(), w.Body)
		}
	}
	if w := ask(t, h, http.MethodGet, "/jobs/job-1", `If-None-Match: "a"`, "If-None-Match: "+first); w.Code != http.StatusNotModified {
		t.Errorf("in the second of two headers: %d", w.Code)
	}
	// The tag of one row says nothing about another, least of all one that is not there.
	if w := ask(t, h, http.MethodGet, "/jobs/job-2", "If-None-Match: "+first); w.Code != http.StatusOK {
		t.Errorf("another row: %d", w.Code)
	}
	for _, tags := range []string{first, "*"} {
		if w := ask(t, h, http.MethodGet, "/jobs/no-such", "If-None-Match: "+tags); w.Code != http.StatusNotFound {
			t.Errorf("no such row, If-None-Match: %s: %d", tags, w.Code)
		}
	}
	if w := ask(t, h, http.MethodGet, "/jobs/job-1?max_age=1", "If-None-Match: "+first); w.Code != http.StatusServiceUnavailable {
		t.Errorf("the same as before but too old: %d %s", w.Code, w.Body)
	}
	// Whoever refreshes, and however: also when no row has changed.
	seen := map[string]string{first: "first"}
	for name, change := range map[string]func(){
		"blocking":     func() { refreshView(t, db.Pool(t), "job_progress", "blocking") },
		"concurrently": func() { refreshView(t, db.Pool(t), "job_progress", "concurrently") },
		"outside":      func() { db.Exec(t, "REFRESH MATERIALIZED VIEW CONCURRENTLY job_progress") },
		"a log row":    func() { db.Exec(t, "UPDATE materialized_view_refresh_log SET refresh_duration_ms = 12345") },
	} {
		change()
		now := tag()
		if before, found := seen[now]; found {
			t.Errorf("after %s the ETag is that of %s", name, before)
		}
		seen[now] = name
		if w := ask(t, h, http.MethodGet, "/jobs/job-1", "If-None-Match: "+first); w.Code != http.StatusOK {
			t.Errorf("after %s the first ETag still holds", name)
		}
	}
}

func TestHead(t *testing.T) {
	db := jobs(t)
	h, _ := live(t, db, "")
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	for _, path := range []string{"/jobs/job-1", "/jobs/job-1?real_time=true", "/cache/status/job_progress"} {
		head, full := ask(t, h, http.MethodHead, path), get(t, h, path)
		if head.Code != http.StatusOK || head.Header().Get("Content-Length") == "" || head.Header().Get("ETag") != full.Header().Get("ETag") {
			t.Errorf("%s: %d %v", path, head.Code, head.Header())
		}
	}
	if w := ask(t, h, http.MethodHead, "/jobs/job-1", "If-None-Match: *"); w.Code != http.StatusNotModified {
		t.Errorf("%d", w.Code)
	}
	if w := ask(t, h, http.MethodHead, "/jobs/no-such"); w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
}

// What is remembered of a view's freshness never outlives the reason for it.
func TestFreshnessFollowsTheRecord(t *testing.T) {
	db := jobs(t)
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	h := serve(t, options(t, configured(t, db), jobsRoute))
	for _, c := range []struct{ name, sql, want string }{
		{"our own record", `SELECT 1`, `"cache_data_as_of":"2`},
		{"a refresh by somebody", `REFRESH MATERIALIZED VIEW job_progress`, `"cache_data_as_of":null}`},
		{"a log row explains it", `UPDATE materialized_view_refresh_log SET last_refreshed_at = '2025-11-09T10:14:30.5Z', refresh_duration_ms = 499`, `"cache_data_as_of":"2025-11-09T10:14:30.000Z"}`},
		{"a later log row under another name", `INSERT INTO materialized_view_refresh_log VALUES ('public.job_progress', '2025-11-10T10:14:30.5Z', 499)`, `"cache_refreshed_at":"2025-11-10T10:14:30.500Z"`},
		{"that is gone", `DELETE FROM materialized_view_refresh_log WHERE view_name = 'public.job_progress'`, `"cache_refreshed_at":"2025-11-09T10:14:30.500Z"`},
		{"a log row without a duration", `UPDATE materialized_view_refresh_log SET refresh_duration_ms = NULL`, `"cache_refresh_duration_ms":null,"cache_data_as_of":null}`},
		{"no log row", `DELETE FROM materialized_view_refresh_log`, `"cache_refreshed_at":null,"cache_refresh_duration_ms":null,"cache_data_as_of":null}`},
	} {
		db.Exec(t, c.sql)
		if got := body(t, h, "/jobs/job-1", http.StatusOK); !strings.HasSuffix(got, c.want) && !strings.Contains(got, c.want) {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
	// The log may be dropped and made again while ours is installed.
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	body(t, h, "/jobs/job-1", http.StatusOK)
	db.Exec(t, `DROP TABLE materialized_view_refresh_log`)
	if got := body(t, h, "/jobs/job-1", http.StatusOK); !strings.Contains(got, `"cache_refreshed_at":null`) {
		t.Errorf("without the log: %s", got)
	}
}

// Two schemas may exchange their names, so that a name is another view's, while
// nothing about either view changes.
func TestSchemasExchangeNames(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE SCHEMA blue; CREATE SCHEMA green;
CREATE MATERIALIZED VIEW blue.v AS SELECT 1 AS id, 'blue' AS colour; CREATE UNIQUE INDEX ON blue.v (id);
CREATE MATERIALIZED VIEW green.v AS SELECT 1 AS id, 'green' AS colour; CREATE UNIQUE INDEX ON green.v (id)`)
	refreshView(t, db.Pool(t), "blue.v", "blocking")
	h := serve(t, options(t, configured(t, db), `{public: true, routes: [{path: "/v/{id}", view: blue.v}]}`))
	if got := body(t, h, "/v/1", http.StatusOK); !strings.Contains(got, `"colour":"blue"`) || strings.Contains(got, "null") {
		t.Error(got)
	}
	db.Exec(t, `ALTER SCHEMA blue RENAME TO red; ALTER SCHEMA green RENAME TO blue`)
	if got := body(t, h, "/v/1", http.StatusOK); !strings.Contains(got, `"colour":"green"`) || !strings.Contains(got, `"cache_data_as_of":null`) {
		t.Error(got)
	}
}

func FuzzMaxAge(f *testing.F) {
	for _, seed := range []string{"5m", "300", "1.5", "-1", "1e9", "Inf", "NaN", "", "9999999999", "1h1", "+5", " 5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if age, ok := api.ParseAge(text); ok && (age < 0 || strings.ContainsAny(text, "-")) {
			t.Errorf("%q: %v", text, age)
		}
	})
}

func FuzzIfNoneMatch(f *testing.F) {
	for _, seed := range []string{`"a"`, `W/"a"`, `"b", "a"`, `"`, `,,,`, `W/`, `*`, `"a`, `""`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		if api.Matches(list, `"tag"`) && !strings.Contains(list, `"tag"`) {
			t.Errorf("%q matches", list)
		}
	})
}

// Names in the answer that change without a refresh change its ETag.
func TestETagFollowsRenames(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN moods AS mood[];
CREATE TYPE pair AS (a int, b mood);
CREATE MATERIALIZED VIEW typed AS SELECT 1 AS id, ROW(1, 'happy')::pair AS pair, ARRAY[NULL::mood]::moods AS moods;
CREATE UNIQUE INDEX ON typed (id)`)
	refreshView(t, db.Pool(t), "typed", "blocking")
	const config = `{public: true, routes: [{path: "/t/{id}", view: typed}]}`
	h := serve(t, options(t, configured(t, db), config))
	for _, c := range []struct{ sql, want string }{
		{`SELECT 1`, `{"id":1,"pair":{"a":1,"b":"happy"},"moods":[null],`},
		{`ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'`, `{"id":1,"pair":{"a":1,"b":"glad"},"moods":[null],`},
		{`ALTER TYPE pair RENAME ATTRIBUTE a TO first`, `{"id":1,"pair":{"first":1,"b":"glad"},"moods":[null],`},
		{`ALTER MATERIALIZED VIEW typed RENAME COLUMN moods TO more`, `{"id":1,"pair":{"first":1,"b":"glad"},"more":[null],`},
	} {
		tag := get(t, h, "/t/1").Header().Get("ETag")
		if w := ask(t, h, http.MethodGet, "/t/1", "If-None-Match: "+tag); w.Code != http.StatusNotModified {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		db.Exec(t, c.sql)
		if c.sql == `SELECT 1` {
			tag = ""
		}
		w := ask(t, h, http.MethodGet, "/t/1", "If-None-Match: "+tag)
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s", c.sql, w.Code, w.Body)
		}
		// A replica gives the same, also one that reads in transactions.
		replica := get(t, serve(t, options(t, db.Pool(t), config)), "/t/1")
		if replica.Header().Get("ETag") != w.Header().Get("ETag") {
			t.Errorf("%s: a replica's ETag differs", c.sql)
		}
	}
}
