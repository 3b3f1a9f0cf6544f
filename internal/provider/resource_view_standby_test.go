package provider

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// A read-only replica can be planned on: it checks the SQL, finds layout to be no
// change, and says where it cannot tell.
func TestAccViewOnStandby(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	primary, err := postgrestest.Start(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = primary.Stop() })
	conn, err := pgx.Connect(t.Context(), primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), `CREATE TABLE jobs (id int, name text); CREATE MATERIALIZED VIEW job_progress AS SELECT id, name FROM jobs WHERE id > 1;
CREATE UNIQUE INDEX i ON job_progress (id)`)
	if err != nil {
		t.Fatal(err)
	}
	var stored string // majors differ
	if err := conn.QueryRow(t.Context(), "SELECT set_config('search_path', '', false), pg_get_viewdef('public.job_progress'::regclass)").Scan(nil, &stored); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	standby, err := primary.StartStandby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Stop() })
	config := func(definition string) string {
		return `
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

import {
  to = matview_view.test
  id = "job_progress"
}

resource "matview_view" "test" {
  name       = "job_progress"
  definition = ` + hcl(definition) + `
  indexes    = { i = { keys = ["ID"], unique = true } }
}
`
	}
	w := newWorkspace(t, standby.URL("postgres"), config(relaid(stored)))
	w.run(t, "apply", "-auto-approve")
	w.plan(t)
	w.write(t, config("SELECT id, name FROM jobs WHERE id > 1"))
	if out := w.run(t, "plan"); !message("Materialized view job_progress may be replaced", "whether its meaning has could not be told: the server is a read-only replica. Unless apply finds them equal, a new view is built").MatchString(out) {
		t.Errorf("the plan says\n%s", out)
	}
	if out, err := w.try(t.Context(), "apply", "-auto-approve"); err == nil || !message("Cannot change materialized view job_progress", "the server is a read-only replica, on which nothing can be changed; connect to the primary").MatchString(out) {
		t.Errorf("the apply says\n%s", out)
	}
	w.write(t, config("SELECT id, nme FROM jobs"))
	if out, err := w.try(t.Context(), "plan"); err == nil || !message("Invalid definition", `column "nme" does not exist`, "At line 1, column 12:").MatchString(out) {
		t.Errorf("the plan says\n%s", out)
	}
}
