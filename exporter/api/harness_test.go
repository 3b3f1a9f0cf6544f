package api_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// jobs is the document's own case, small, with its view refreshed never yet.
func jobs(t testing.TB) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "jobs", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `
CREATE TABLE jobs (job_id text PRIMARY KEY, status text NOT NULL, tenant int NOT NULL DEFAULT 1);
CREATE TABLE job_objects (job_id text REFERENCES jobs, done boolean);
CREATE INDEX ON job_objects (job_id);
INSERT INTO jobs SELECT 'job-' || i, 'processing' FROM generate_series(1, 2000) AS i;
INSERT INTO job_objects SELECT 'job-' || i, i % 2 = 0 FROM generate_series(1, 2000) AS i, generate_series(1, 5);
CREATE MATERIALIZED VIEW job_progress AS
    SELECT j.job_id, j.status, count(o.job_id) AS total, round(count(*) FILTER (WHERE o.done) * 100.0 / 5, 1) AS progress_percent
    FROM jobs AS j LEFT JOIN job_objects AS o USING (job_id) GROUP BY j.job_id;
CREATE UNIQUE INDEX ON job_progress (job_id);
ANALYZE`)
		return err
	})
}

const jobsRoute = "public: true\nroutes:\n  - path: /jobs/{job_id}\n    view: job_progress\n"

// options are those for a configuration and a database.
func options(t testing.TB, pool *pgxpool.Pool, text string) api.Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "matview.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return api.Options{Pool: pool, Schema: "public", Config: c, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Timeout: 5 * time.Second}
}

func serve(t testing.TB, o api.Options) *api.Handler {
	t.Helper()
	h, err := api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// liveLogin is a login that may read the tables behind the view and no more.
func liveLogin(t testing.TB, db *postgrestest.Database, grants string) *pgxpool.Pool {
	t.Helper()
	role, password := db.Role(t, "")
	db.Exec(t, strings.ReplaceAll(grants, "ROLE", role))
	return login(t, db, role, password)
}

func login(t testing.TB, db *postgrestest.Database, role, password string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), db.URLFor(role, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// configured is a pool as `run` opens it for readers.
func configured(t testing.TB, db *postgrestest.Database) *pgxpool.Pool {
	t.Helper()
	c, err := pgxpool.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	c.MaxConns = 10 // as run has it
	api.ConfigureSessions(c, 0)
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// ask sends headers, as "Name: value".
func ask(t testing.TB, h http.Handler, method, url string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func get(t testing.TB, h http.Handler, url string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody))
	return w
}

// body gets url, wants a status, and gives the answer.
func body(t testing.TB, h http.Handler, url string, status int) string {
	t.Helper()
	w := get(t, h, url)
	if w.Code != status {
		t.Fatalf("%s: status %d, want %d: %s", url, w.Code, status, w.Body)
	}
	if !json.Valid(w.Body.Bytes()) {
		t.Fatalf("%s: no JSON: %s", url, w.Body)
	}
	return strings.TrimSpace(w.Body.String())
}

func refreshView(t testing.TB, pool *pgxpool.Pool, view string, method refresh.Method) {
	t.Helper()
	_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), refresh.Request{
		View: view, Method: method, Trigger: refresh.TriggerManual, LockTimeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
}
