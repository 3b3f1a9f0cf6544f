package scheduler_test

import (
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/exporter/scheduler"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// The page shows what the command line shows, but for the error of the last attempt,
// which may quote data.
func TestPageAndStatusExplainAlike(t *testing.T) {
	db := installed(t)
	p := pool(t, db)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('job_progress', '1 h'), ('public.job_progress', '2 h'), ('other', '1 d');
INSERT INTO materialized_view_refresh_state (view_name, schedule_name, next_run_at, consecutive_failures, last_error)
VALUES ('job_progress', 'job_progress', now() - interval '1 min', 2, 'Key (id)=(secret) already exists'), ('other', 'other', now() + interval '1 h', 0, NULL)`)
	views, err := freshness.All(t.Context(), p, "public")
	if err != nil {
		t.Fatal(err)
	}
	explainer := scheduler.NewExplainer(p, "public")
	explanations, err := explainer.Explain(t.Context(), views)
	if err != nil {
		t.Fatal(err)
	}
	for view, want := range map[string]string{
		"job_progress": "due, to be taken by the next exporter that is free; backing off, no later than its schedule says (every 1h0m0s); 2 failures in a row, the last: Key (id)=(secret) already exists; ignored: a second schedule, of public.job_progress",
		"other":        "every 24h0m0s",
	} {
		if got := explanations[view].NextRun; got != want {
			t.Errorf("%s: %s, want %s", view, got, want)
		}
		onPage, err := explainer.NextRun(t.Context(), view)
		if want := strings.Replace(want, ", the last: Key (id)=(secret) already exists", "", 1); err != nil || onPage != want {
			t.Errorf("on the page, %s: %s, %v, want %s", view, onPage, err, want)
		}
	}
}

// A database that has become read-only, and an attempt that could not be ended there.
func TestReadOnlyDatabaseIsExplained(t *testing.T) {
	db := installed(t)
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1 d');
INSERT INTO materialized_view_refresh_state (view_name, schedule_name, next_run_at) VALUES ('other', 'other', now() - interval '1 min');
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, attempted_by, started_at, heartbeat_at) VALUES ('other', 'schedule', 'running', 'somebody', now() - interval '20 s', now() - interval '12 s');
ALTER DATABASE `+postgres.QuoteIdent(db.Name)+` SET default_transaction_read_only = on`)
	explained, err := scheduler.NewExplainer(pool(t, db), "public").NextRun(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"the database is read-only, so that nothing is refreshed: default_transaction_read_only is on", "not running any more, it seems: somebody began to refresh it and has shown no sign of life for 12 s",
		"due, to be taken",
	} {
		if !strings.Contains(explained, want) {
			t.Errorf("%s; it does not say: %s", explained, want)
		}
	}
	_, err = pool(t, db).Exec(t.Context(), "DELETE FROM jobs")
	if message := postgres.Message(err); !strings.Contains(message, "default_transaction_read_only is on for the role, the database or the server, or the server is a standby") {
		t.Error(message)
	}
}
