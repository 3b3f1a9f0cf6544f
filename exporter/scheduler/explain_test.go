package scheduler_test

import (
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/exporter/scheduler"
	"github.com/matview/terraform-provider-matview/internal/freshness"
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
