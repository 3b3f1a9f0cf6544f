package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/exporter/config"
)

func TestPage(t *testing.T) {
	db := jobs(t)
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	db.Exec(t, `CREATE MATERIALIZED VIEW "<script>alert(1)</script>" AS SELECT 1 AS x`)
	h := serve(t, options(t, db.Pool(t), "public: true"))
	for path, want := range map[string][]string{
		"/":                                {`<meta http-equiv="refresh" content="10">`, `href="./cache/views/job_progress"`, "1 fresh", `role="img" aria-label="The one attempt on record: succeeded, `, "&lt;script&gt;"},
		"/?refresh=3":                      {`content="3"`, `href="./cache/views/job_progress?refresh=3"`},
		"/?refresh=off":                    {"Updates are paused", `href="./cache/views/job_progress?refresh=off"`},
		"/?refresh=0":                      {`content="10"`},
		"/cache/views/job_progress":        {"<h1>job_progress</h1>", `href="../../"`, `href="../../cache/status/job_progress"`, "succeeded", "Data as of"},
		"/cache/views/public.job_progress": {"<h1>job_progress</h1>"},
		"/cache/views/%22%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22": {"not watched", "No attempt is on record"},
	} {
		w := get(t, h, path)
		page := w.Body.String()
		for _, part := range want {
			if !strings.Contains(page, part) {
				t.Errorf("%s has no %s:\n%s", path, part, page)
			}
		}
		header := w.Header()
		if w.Code != http.StatusOK || header.Get("Content-Type") != "text/html; charset=utf-8" || header.Get("Cache-Control") != "no-store" ||
			!strings.HasPrefix(header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'sha256-") || header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %d %v", path, w.Code, header)
		}
		if strings.Contains(page, "<script") || strings.Contains(page, "style=") || strings.Contains(page, "http://") || strings.Contains(page, "https://") || strings.Contains(page, "ZgotmplZ") {
			t.Errorf("%s: a script, an inline style or something from elsewhere:\n%s", path, page)
		}
		if strings.Contains(path, "off") && strings.Contains(page, "http-equiv") {
			t.Errorf("%s updates itself", path)
		}
	}
	if w := get(t, h, "/cache/views/gone"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "There is no such materialized view") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := get(t, h, "/-/icon.svg"); w.Code != http.StatusOK || w.Header().Get("Content-Type") != "image/svg+xml" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestPageExplainsNextRun(t *testing.T) {
	o := options(t, jobs(t).Pool(t), "public: true")
	o.Explain = func(_ context.Context, view string) (string, error) {
		return "due, waits for " + view + " & <others>", nil
	}
	const want = "<dt>Why it runs then</dt><dd>due, waits for job_progress &amp; &lt;others&gt;</dd>"
	if w := get(t, serve(t, o), "/cache/views/public.job_progress"); !strings.Contains(w.Body.String(), want) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	o.Explain = func(context.Context, string) (string, error) { return "", errors.New("no connection") }
	if w := get(t, serve(t, o), "/cache/views/job_progress"); w.Code < http.StatusInternalServerError {
		t.Errorf("without a connection: %d %s", w.Code, w.Body)
	}
}

// A browser can ask a person for a password, not for a bearer token.
func TestPageCredentials(t *testing.T) {
	db := jobs(t)
	o := options(t, db.Pool(t), "")
	if w := get(t, serve(t, o), "/"); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "This is closed") {
		t.Errorf("without any credentials configured: %d %s", w.Code, w.Body)
	}
	o.Config.Tokens = config.NewTokens("secret")
	h := serve(t, o)
	for header, want := range map[string]int{
		"": 401, "Authorization: Basic YW55Ym9keTpzZWNyZXQ=": 200, "Authorization: Bearer secret": 200,
		"Authorization: Basic c2VjcmV0OndyYW5n": 401, "Authorization: Basic !": 401, "Authorization: Bearer wrong": 401,
	} {
		for _, path := range []string{"/", "/cache/views/job_progress"} {
			w := ask(t, h, http.MethodGet, path, header)
			challenge := w.Header().Get("WWW-Authenticate")
			if w.Code != want || (want == 401) != strings.HasPrefix(challenge, "Basic realm=") || (want == 200) != strings.Contains(w.Body.String(), "job_progress") {
				t.Errorf("%s with %q: %d %v %s", path, header, w.Code, w.Header(), w.Body)
			}
			if (want == 401) == strings.Contains(w.Body.String(), "http-equiv") {
				t.Errorf("%s with %q asks again by itself, or does not: %s", path, header, w.Body)
			}
		}
	}
}

// While the database is away the page says so, and goes on looking.
func TestPageWithoutDatabase(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://someone:hidden@127.0.0.1:1/nowhere")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w := get(t, serve(t, options(t, pool, "public: true")), "/")
	if page := w.Body.String(); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" ||
		!strings.Contains(page, "The database does not answer") || !strings.Contains(page, `http-equiv="refresh"`) || strings.Contains(page, "someone") {
		t.Errorf("%d %s", w.Code, page)
	}
}

func TestHistory(t *testing.T) {
	db := jobs(t)
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, method, outcome, started_at, finished_at, duration_ms, error, sqlstate)
SELECT 'job_progress', 'schedule', 'concurrently', 'failed', '2025-01-01Z'::timestamptz + i * interval '1 min', '2025-01-01Z', i, 'refresh job_progress: duplicate key (Key (a)=(secret) already exists) (SQLSTATE 23505)', '23505'
FROM generate_series(1, 30) AS i; CREATE MATERIALIZED VIEW idle AS SELECT 1 AS x`)
	h := serve(t, options(t, db.Pool(t), "public: true"))
	var all struct {
		Views []struct {
			Name    string `json:"view_name"`
			History []map[string]any
		}
	}
	text := body(t, h, "/cache/status?history=20", http.StatusOK)
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "secret") {
		t.Error("the history shows DETAIL")
	}
	if all.Views[0].Name != "idle" || all.Views[0].History == nil || len(all.Views[0].History) != 0 || len(all.Views[1].History) != 20 {
		t.Fatalf("%s", text)
	}
	if first, second := all.Views[1].History[0], all.Views[1].History[1]; first["outcome"] != "succeeded" || first["trigger"] != "manual" || second["duration_ms"] != 30.0 {
		t.Errorf("%v\n%v", first, second)
	}
	var one struct{ History []json.RawMessage }
	if err := json.Unmarshal([]byte(body(t, h, "/cache/status/public.job_progress?history=2", http.StatusOK)), &one); err != nil {
		t.Fatal(err)
	}
	const want = `{"trigger":"schedule","method":"concurrently","outcome":"failed","started_at":"2025-01-01T00:30:00.000Z","data_as_of":null,"finished_at":"2025-01-01T00:00:00.000Z",` +
		`"lock_wait_ms":null,"duration_ms":30,"rows_inserted":null,"rows_deleted":null,"error":"refresh job_progress: duplicate key (SQLSTATE 23505)","sqlstate":"23505","reason":null,"warning":null}`
	if len(one.History) != 2 {
		t.Fatalf("%d attempts", len(one.History))
	}
	if diff := cmp.Diff(want, string(one.History[1])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if text := body(t, h, "/cache/status/job_progress", http.StatusOK); strings.Contains(text, "history") {
		t.Errorf("a history that nobody asked for: %s", text)
	}
}

func TestInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", time.Microsecond: "1 ms", 999 * time.Millisecond: "999 ms", 1001 * time.Millisecond: "1.1 s", 59*time.Second + 1: "1 min",
		61 * time.Second: "1 min 1 s", time.Hour - 1: "1 h", 25 * time.Hour: "1 d 1 h", 24*time.Hour - 1: "1 d", -time.Second: "−1.0 s", 400 * 24 * time.Hour: "400 d",
	} {
		if got := api.InWords(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
