package main

import (
	"context"
	"encoding/json"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// documentDatabase holds the tables and some rows of the document that matview
// grew out of, but not matview's own.
func documentDatabase(t *testing.T) *postgrestest.Database {
	t.Helper()
	return postgrestest.NewFrom(t, "document", func(ctx context.Context, conn *pgx.Conn) error {
		schema, err := os.ReadFile("../examples/job-progress/schema.sql")
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, string(schema)+`
INSERT INTO jobs SELECT 'abc-' || i FROM generate_series(1, 150) AS i;
INSERT INTO job_objects SELECT 'abc-' || (1 + o % 150), o, CASE WHEN o % 2 = 0 THEN 'succeeded' ELSE 'pending' END FROM generate_series(1, 15000) AS o;`)
		return err
	})
}

func createView(t *testing.T, db *postgrestest.Database) {
	t.Helper()
	migration, err := os.ReadFile("../examples/job-progress/migrations/002_optimize_for_scale.sql")
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, string(migration))
}

// script runs one of the document's scripts as it stands.
func script(t *testing.T, db *postgrestest.Database, apiURL, name string) (output string, code int) {
	t.Helper()
	config, err := pgx.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("testdata", "document", name))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "terraform", "migrations"), os.DirFS("../examples/job-progress/migrations")); err != nil {
		t.Fatal(err)
	}
	cmd := osexec.CommandContext(t.Context(), "bash", "-c", string(text))
	if strings.HasSuffix(name, ".sql") {
		cmd = osexec.CommandContext(t.Context(), "psql", "-AtX", "-v", "ON_ERROR_STOP=1", "-c", string(text))
	}
	cmd.Dir = dir
	host, port := config.Host, strconv.Itoa(int(config.Port))
	cmd.Env = append(os.Environ(), "API_URL="+apiURL, "JOB_ID=abc-7",
		"HOST="+host, "PORT="+port, "DATABASE="+config.Database, "PGHOST="+host, "PGPORT="+port, "PGDATABASE="+config.Database,
		"PGUSER="+config.User, "PGPASSWORD="+config.Password)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if _, exited := err.(*osexec.ExitError); !exited { //nolint:errorlint // as it comes
			t.Fatal(err)
		}
	}
	if strings.Contains(stderr.String(), "ERROR") || strings.Contains(stderr.String(), "not found") {
		t.Fatalf("%s: %s", name, stderr.String())
	}
	return string(out), cmd.ProcessState.ExitCode()
}

const documentConfig = "public: true\nroutes:\n  - {path: '/jobs/{job_id}', view: job_progress}\n"

func TestDocumentScripts(t *testing.T) {
	db := documentDatabase(t)
	createView(t, db)
	for _, args := range [][]string{{"migrate"}, {"refresh", "job_progress"}} {
		if code, _, stderr := exec(t, db.URL(), args...); code != exitOK {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	api := startDaemon(t, db.URL(), documentConfig, "--no-scheduler").url

	t.Run("data age", func(t *testing.T) {
		out, _ := script(t, db, api, "data_age.sh")
		var answer struct {
			JobID       string `json:"job_id"`
			Status      string `json:"status"`
			RefreshedAt string `json:"cache_refreshed_at"`
			Info        string `json:"data_age_info"`
		}
		if err := json.Unmarshal([]byte(out), &answer); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(answer.RefreshedAt) ||
			answer.Info != "Data refreshed at "+answer.RefreshedAt || answer.JobID != "abc-7" || answer.Status != "processing" {
			t.Errorf("%+v", answer)
		}
	})
	t.Run("staleness", func(t *testing.T) {
		out, code := script(t, db, api, "staleness.sh")
		if !regexp.MustCompile(`^Cached data is \d{1,2} seconds old\n$`).MatchString(out) || code != 0 {
			t.Errorf("exit %d: %s", code, out)
		}
	})
	t.Run("performance", func(t *testing.T) {
		out, _ := script(t, db, api, "performance.sh")
		// The document's erratum: the API's field is cache_refresh_duration_ms.
		if !regexp.MustCompile(`"refresh_duration_ms": null,\s+"refresh_duration_seconds": [0-9.]+,\s+"status": "Fast ✓"`).MatchString(out) {
			t.Errorf("%s", out)
		}
	})
	t.Run("history", func(t *testing.T) {
		out, _ := script(t, db, api, "history.sql")
		if fields := strings.Split(strings.TrimSpace(out), "|"); len(fields) != 7 || fields[0] != "job_progress" || !strings.HasPrefix(fields[6], "00:00:") {
			t.Errorf("%s", out)
		}
	})
	t.Run("dashboard", func(t *testing.T) {
		out, _ := script(t, db, api, "dashboard.sql")
		if fields := strings.Split(strings.TrimSpace(out), "|"); len(fields) != 6 || fields[4] != "Fast" {
			t.Errorf("%s", out)
		}
	})
	t.Run("alert while fresh", func(t *testing.T) {
		if out, code := script(t, db, api, "alert.sh"); code != 0 || !strings.HasPrefix(out, "✓ Cached data is fresh") {
			t.Errorf("exit %d: %s", code, out)
		}
	})
	t.Run("Lambda's upsert", func(t *testing.T) {
		refreshed := lambda(t, db, 7*time.Minute)
		out, _ := script(t, db, api, "data_age.sh")
		if !strings.Contains(out, refreshed.UTC().Format("2006-01-02T15:04:05.000Z")) {
			t.Errorf("the API does not report the Lambda's refresh at %s: %s", refreshed, out)
		}
		var asOf time.Time
		if err := db.Connect(t).QueryRow(t.Context(), "SELECT data_as_of FROM materialized_view_freshness").Scan(&asOf); err != nil {
			t.Fatal(err)
		}
		if want := refreshed.Add(-920*time.Millisecond - time.Millisecond); !asOf.Equal(want) {
			t.Errorf("data_as_of %s, want %s", asOf, want)
		}
	})
	t.Run("alert when stale", func(t *testing.T) {
		if out, code := script(t, db, api, "alert.sh"); code != 1 || !strings.Contains(out, "WARNING: Cached data is 4") {
			t.Errorf("exit %d: %s", code, out)
		}
	})
}

// lambda refreshes and upserts in one transaction, as the document's does, with
// a clock that is ago behind.
func lambda(t *testing.T, db *postgrestest.Database, ago time.Duration) time.Time {
	t.Helper()
	upsert, err := os.ReadFile("testdata/document/upsert.sql")
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(-ago).Truncate(time.Microsecond)
	conn := db.Connect(t)
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "REFRESH MATERIALIZED VIEW CONCURRENTLY job_progress"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), string(upsert), "job_progress", end, 920, 150, 1250000)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// Option 1 while matview is installed: both are dropped and come again, and
// everything goes on.
func TestDocumentOption1(t *testing.T) {
	db := documentDatabase(t)
	db.Exec(t, `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'scanner_admin') THEN CREATE ROLE scanner_admin SUPERUSER LOGIN; END IF; END $$`)
	t.Cleanup(func() { db.Exec(t, `REASSIGN OWNED BY scanner_admin TO CURRENT_USER; DROP ROLE scanner_admin`) })
	setPassword(t, db)
	createView(t, db)
	for _, args := range [][]string{{"migrate"}, {"refresh", "job_progress"}, {"check"}} {
		if code, _, stderr := exec(t, db.URL(), args...); code != exitOK {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	out, code := script(t, db, "", "option1.sh")
	if code != 0 || !strings.Contains(out, "DROP MATERIALIZED VIEW") || !strings.Contains(out, "DROP TABLE") || !strings.Contains(out, "CREATE INDEX") {
		t.Fatalf("exit %d: %s", code, out)
	}
	if code, stdout, _ := exec(t, db.URL(), "check", "job_progress"); code != exitStale || !strings.Contains(stdout, "never_refreshed") {
		t.Errorf("check after Option 1: exit %d, %s", code, stdout)
	}
	for _, args := range [][]string{{"migrate"}, {"refresh", "job_progress"}, {"check"}} {
		if code, _, stderr := exec(t, db.URL(), args...); code != exitOK {
			t.Errorf("%v after Option 1: %s", args, stderr)
		}
	}
}

// Option 2 before matview is installed: we adopt the table with its row, which
// has no duration and so cannot be believed.
func TestDocumentOption2(t *testing.T) {
	db := documentDatabase(t)
	db.Exec(t, `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'scanner_admin') THEN CREATE ROLE scanner_admin SUPERUSER LOGIN; END IF; END $$`)
	t.Cleanup(func() { db.Exec(t, `REASSIGN OWNED BY scanner_admin TO CURRENT_USER; DROP ROLE scanner_admin`) })
	setPassword(t, db)
	createView(t, db)
	db.Exec(t, `DROP TABLE materialized_view_refresh_log`)
	if out, code := script(t, db, "", "option2.sh"); code != 0 || !strings.Contains(out, "INSERT 0 1") {
		t.Fatalf("exit %d: %s", code, out)
	}
	if code, _, stderr := exec(t, db.URL(), "migrate"); code != exitOK {
		t.Fatal(stderr)
	}
	if code, stdout, _ := exec(t, db.URL(), "check"); code != exitStale || !strings.Contains(stdout, "job_progress: STALE (unverified)") {
		t.Errorf("check: exit %d, %s", code, stdout)
	}
	if code, _, stderr := exec(t, db.URL(), "refresh", "job_progress"); code != exitOK {
		t.Fatal(stderr)
	}
	if code, stdout, _ := exec(t, db.URL(), "check"); code != exitOK {
		t.Errorf("check after a refresh: exit %d, %s", code, stdout)
	}
}

// setPassword lets scanner_admin, whom the document's psql logs in as, use the
// password that the scripts run with.
func setPassword(t *testing.T, db *postgrestest.Database) {
	t.Helper()
	config, err := pgx.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `ALTER ROLE scanner_admin PASSWORD '`+config.Password+`'`)
}
