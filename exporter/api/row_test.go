package api_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/migrations"
)

func TestCachedRow(t *testing.T) {
	db := jobs(t)
	h := serve(t, options(t, db.Pool(t), jobsRoute))

	const columns = `{"job_id":"job-2","status":"processing","total":5,"progress_percent":100.0,`
	// It has rows, but nobody has recorded a refresh: that is what is said.
	never := columns + `"data_source":"cached","cache_refreshed_at":null,"cache_refresh_duration_ms":null,"cache_data_as_of":null}`
	if got := body(t, h, "/jobs/job-2", http.StatusOK); got != never {
		t.Errorf("never refreshed:\n%s\nwant\n%s", got, never)
	}

	refreshView(t, db.Pool(t), "job_progress", "concurrently")
	// The times of the log are cut to the millisecond, never rounded up.
	db.Exec(t, `UPDATE materialized_view_refresh_log SET last_refreshed_at = '2025-11-09T10:14:30.123999Z', refresh_duration_ms = 920;
UPDATE materialized_view_refresh_state SET logged_refreshed_at = '2025-11-09T10:14:30.123999Z', logged_duration_ms = 920, data_as_of = '2025-11-09T10:14:29.2Z'`)
	want := columns + `"data_source":"cached","cache_refreshed_at":"2025-11-09T10:14:30.123Z","cache_refresh_duration_ms":920,"cache_data_as_of":"2025-11-09T10:14:29.200Z"}`
	if got := body(t, h, "/jobs/job-2?real_time=false&other=1", http.StatusOK); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	db.Exec(t, `UPDATE materialized_view_refresh_log SET last_refreshed_at = 'infinity'`)
	if got := body(t, h, "/jobs/job-2", http.StatusOK); !strings.Contains(got, `"cache_refreshed_at":null`) {
		t.Errorf("a log row that no clock can show: %s", got)
	}
}

// What JSON makes of each type, and each as a key in a URL.
func TestTypes(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `
CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TYPE pair AS (a int, b text);
ALTER DATABASE "`+db.Name+`" SET timezone = 'Asia/Kathmandu';
ALTER DATABASE "`+db.Name+`" SET extra_float_digits = -5;
ALTER DATABASE "`+db.Name+`" SET default_transaction_isolation = 'serializable';
ALTER DATABASE "`+db.Name+`" SET bytea_output = 'escape'`)
	types := []typeCase{
		{"bigint", `9223372036854775807::bigint`, `9223372036854775807`, "9223372036854775807"},
		{"numeric", `12345678901234567890.123456789012345678900::numeric`, `12345678901234567890.123456789012345678900`, "12345678901234567890.1234567890123456789"},
		{"numeric_typmod", `1.50::numeric(10,2)`, `1.50`, "1.5"},
		{"numeric_nan", `'NaN'::numeric`, `"NaN"`, "NaN"},
		{"float_nan", `'NaN'::float8`, `"NaN"`, "NaN"},
		{"float_infinity", `'-Infinity'::float8`, `"-Infinity"`, "-Infinity"},
		{"float", `0.1::float8 + 0.2`, `0.30000000000000004`, "0.30000000000000004"},
		{"real", `0.1::real`, `0.1`, "0.1"},
		{"boolean", `true`, `true`, "t"},
		{"text", `'a/b ?#%"\é<&'::text`, `"a/b ?#%\"\\é<&"`, "a%2Fb%20%3F%23%25%22%5C%C3%A9%3C&"},
		{"dots", `'..'::text`, `".."`, "%2E%2E"},
		{"char", `'ab'::char(5)`, `"ab   "`, "ab"},
		{"varchar", `'abc'::varchar(3)`, `"abc"`, "abc"},
		{"bit", `B'101'::bit(3)`, `"101"`, "101"},
		{"uuid", `'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid`, `"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`, "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"},
		{"date", `'2025-11-09'::date`, `"2025-11-09"`, "2025-11-09"},
		{"timestamptz", `'2025-11-09 10:14:30.123456+05:45'::timestamptz`, `"2025-11-09T04:29:30.123456+00:00"`, "2025-11-09T04:29:30.123456Z"},
		{"timestamp", `'2025-11-09 10:14:30'::timestamp`, `"2025-11-09T10:14:30"`, "2025-11-09%2010:14:30"},
		{"interval", `'1 day 2 hours'::interval`, `"1 day 02:00:00"`, "26:00:00"},
		{"bytea", `'\x00ff'::bytea`, `"\\x00ff"`, "%5Cx00ff"},
		{"array", `ARRAY[1,NULL,3]`, `[1,null,3]`, "%7B1,NULL,3%7D"},
		{"jsonb", `'{"b": [1.10, null], "a": "x"}'::jsonb`, `{"a": "x", "b": [1.10, null]}`, "%7B%22a%22:%22x%22,%22b%22:%5B1.1,null%5D%7D"},
		{"json", `'{"b":1,"a":2}'::json`, `{"b":1,"a":2}`, ""},
		{"enum", `'happy'::mood`, `"happy"`, "happy"},
		{"enum_array", `'{sad,happy}'::mood[]`, `["sad","happy"]`, ""},
		{"domain", `7::positive`, `7`, "7"},
		{"composite", `ROW(1,'x')::pair`, `{"a":1,"b":"x"}`, ""},
		{"citext", `'MiXed'::citext`, `"MiXed"`, "mixed"},
		{"inet", `'10.0.0.1/8'::inet`, `"10.0.0.1/8"`, "10.0.0.1%2F8"},
		{"range", `int4range(1,5)`, `"[1,5)"`, "%5B1,4%5D"},
		{"null", `NULL::int`, `null`, ""},
	}
	config := "public: true\nroutes:\n"
	for _, typ := range types {
		db.Exec(t, `CREATE MATERIALIZED VIEW t_`+typ.name+` AS SELECT 1 AS id, `+typ.sql+` AS value; CREATE UNIQUE INDEX ON t_`+typ.name+` (id)`)
		config += "  - {path: '/id/" + typ.name + "/{id}', view: t_" + typ.name + "}\n"
		if typ.url != "" {
			db.Exec(t, `CREATE UNIQUE INDEX ON t_`+typ.name+` (value)`)
			config += "  - {path: '/value/" + typ.name + "/{value}', view: t_" + typ.name + "}\n"
		}
	}
	t.Run("configured", func(t *testing.T) { testTypes(t, serve(t, options(t, configured(t, db), config)), types) })
	// As behind a pooler.
	t.Run("in transactions", func(t *testing.T) { testTypes(t, serve(t, options(t, db.Pool(t), config)), types) })
}

type typeCase struct{ name, sql, json, url string }

func testTypes(t *testing.T, h http.Handler, types []typeCase) {
	t.Helper()
	for _, typ := range types {
		t.Run(typ.name, func(t *testing.T) {
			want := `{"id":1,"value":` + typ.json + `,"data_source":"cached",`
			if got := body(t, h, "/id/"+typ.name+"/1", http.StatusOK); !strings.HasPrefix(got, want) {
				t.Errorf("%s\nwant %s…", got, want)
			}
			if typ.url == "" {
				return
			}
			if got := body(t, h, "/value/"+typ.name+"/"+typ.url, http.StatusOK); !strings.HasPrefix(got, want) {
				t.Errorf("by its value: %s\nwant %s…", got, want)
			}
		})
	}
	// What is longer than the column must not be cut to match.
	for _, url := range []string{"/value/varchar/abcd", "/value/char/abX", "/value/bit/1011"} {
		body(t, h, url, http.StatusNotFound)
	}
}

// Columns may be called as the statements call tables.
func TestColumnsNamedAsAliases(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS id, 2 AS w, 3 AS v, 4 AS q, 5 AS c, 6 AS f, 7 AS l, 8 AS s; CREATE UNIQUE INDEX ON v (id)`)
	o := options(t, configured(t, db), `{public: true, routes: [{path: "/v/{id}", view: v}]}`)
	o.RealTimePool = liveLogin(t, db, readTables)
	h := serve(t, o)
	for _, path := range []string{"/v/1", "/v/1?real_time=true"} {
		if got := body(t, h, path, http.StatusOK); !strings.HasPrefix(got, `{"id":1,"w":2,"v":3,"q":4,"c":5,"f":6,"l":7,"s":8,"data_source"`) {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func TestOddNamesAndCompositeKeys(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE SCHEMA "My.Schema";
CREATE MATERIALIZED VIEW "My.Schema"."Odd ""view"" ключ" AS SELECT i AS "Job Id", 'x' || i AS "a/b", i * 2 AS n FROM generate_series(1, 3) AS i;
CREATE UNIQUE INDEX ON "My.Schema"."Odd ""view"" ключ" ("a/b", "Job Id") INCLUDE (n)`)
	h := serve(t, options(t, db.Pool(t), `{public: true, routes: [{path: "/odd/{Job Id}/of/{a/b}", view: '"My.Schema"."Odd ""view"" ключ"'}]}`))
	if got := body(t, h, "/odd/2/of/x2", http.StatusOK); !strings.HasPrefix(got, `{"Job Id":2,"a/b":"x2","n":4,"data_source"`) {
		t.Error(got)
	}
	body(t, h, "/odd/2/of/x3", http.StatusNotFound)
	got := body(t, h, "/cache/status/%22My.Schema%22.%22Odd%20%22%22view%22%22%20%D0%BA%D0%BB%D1%8E%D1%87%22", http.StatusOK)
	if !strings.Contains(got, `"relation_name":"Odd \"view\" ключ"`) {
		t.Error(got)
	}
}

// A view that is replaced, altered or moved is followed without a restart.
func TestViewChanges(t *testing.T) {
	db := jobs(t)
	h := serve(t, options(t, db.Pool(t), jobsRoute))
	body(t, h, "/jobs/job-1", http.StatusOK)
	db.Exec(t, `DROP MATERIALIZED VIEW job_progress`)
	if got := body(t, h, "/jobs/job-1", http.StatusServiceUnavailable); !strings.Contains(got, "view-missing") {
		t.Error(got)
	}
	db.Exec(t, `CREATE MATERIALIZED VIEW job_progress AS SELECT 7 AS job_id, 'new' AS status; CREATE UNIQUE INDEX ON job_progress (job_id)`)
	if got := body(t, h, "/jobs/7", http.StatusOK); !strings.HasPrefix(got, `{"job_id":7,"status":"new","data_source"`) {
		t.Error(got)
	}
	db.Exec(t, `BEGIN; DROP MATERIALIZED VIEW job_progress;
CREATE MATERIALIZED VIEW job_progress AS SELECT 'seven'::text AS job_id, 'x' AS data_source; CREATE UNIQUE INDEX ON job_progress (job_id); COMMIT`)
	if got := body(t, h, "/jobs/seven", http.StatusServiceUnavailable); !strings.Contains(got, "misconfigured") {
		t.Errorf("a column that is called as a field of the answer: %s", got)
	}
	db.Exec(t, `ALTER MATERIALIZED VIEW job_progress RENAME COLUMN data_source TO source`)
	if got := body(t, h, "/jobs/seven", http.StatusOK); !strings.HasPrefix(got, `{"job_id":"seven","source":"x","data_source":"cached"`) {
		t.Error(got)
	}
}

// A login that may read the view and the tables of matview needs no more.
func TestReaderPrivileges(t *testing.T) {
	db := jobs(t)
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	role, password := db.Role(t, "")
	reader := login(t, db, role, password)
	h := serve(t, options(t, reader, jobsRoute))
	if w := get(t, h, "/-/ready"); w.Code != http.StatusServiceUnavailable || w.Body.String() != "not ready: the exporter's login lacks rights; its log says which\n" {
		t.Errorf("without rights: %d %s", w.Code, w.Body)
	}
	if _, err := migrations.Install(t.Context(), db.Connect(t), "public", migrations.Installation{HistoryRetention: time.Hour, Roles: migrations.Roles{Readers: []string{role}}}, migrations.Roles{}); err != nil {
		t.Fatal(err)
	}
	if got := body(t, h, "/jobs/job-1", http.StatusServiceUnavailable); !strings.Contains(got, "misconfigured") || strings.Contains(got, "permission") {
		t.Errorf("without SELECT on the view: %s", got)
	}
	db.Exec(t, `GRANT SELECT ON job_progress TO `+role)
	if got := body(t, h, "/jobs/job-1", http.StatusOK); !regexp.MustCompile(`"cache_refreshed_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`).MatchString(got) {
		t.Error(got)
	}
	body(t, h, "/cache/status", http.StatusOK)
	if w := get(t, h, "/-/ready"); w.Code != http.StatusOK {
		t.Errorf("/-/ready: %s", w.Body)
	}
}

// Errors of clients must not cost connections.
func TestConnectionsSurviveErrors(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW numbered AS SELECT 1 AS id; CREATE UNIQUE INDEX ON numbered (id)`)
	pool := db.Pool(t)
	h := serve(t, options(t, pool, `{public: true, routes: [{path: "/n/{id}", view: numbered}]}`))
	body(t, h, "/n/1", http.StatusOK)
	before := pool.Stat().NewConnsCount()
	for range 20 {
		body(t, h, "/n/one", http.StatusBadRequest)
		body(t, h, "/n/2", http.StatusNotFound)
	}
	if after := pool.Stat().NewConnsCount(); after != before {
		t.Errorf("%d connections before, %d after", before, after)
	}
}

func TestBlockedRead(t *testing.T) {
	db := jobs(t)
	o := options(t, db.Pool(t), jobsRoute)
	o.Timeout = time.Second
	h := serve(t, o)
	body(t, h, "/jobs/job-1", http.StatusOK)
	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), `BEGIN; REFRESH MATERIALIZED VIEW job_progress`); err != nil {
		t.Fatal(err)
	}
	w := get(t, h, "/jobs/job-1")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "5" {
		t.Errorf("while the view is locked: %d %v %s", w.Code, w.Header(), w.Body)
	}
	want := `{"type":"urn:matview:error:view-busy","title":"The view is locked","status":503,"detail":"Somebody is refreshing or changing it."}`
	if diff := cmp.Diff(want, strings.TrimSpace(w.Body.String())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Freshness needs no lock.
	body(t, h, "/cache/status/job_progress", http.StatusOK)
}

var _ http.Handler = (*api.Handler)(nil)
