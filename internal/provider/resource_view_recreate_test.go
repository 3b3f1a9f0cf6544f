package provider

import (
	"os"
	"testing"
)

// A view that is to be dropped and created again loses what the plan has named,
// such as the comments of its indexes, and nothing else.
func TestAccViewRecreate(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := viewDatabase(t)
	reader, _ := db.Role(t, "")
	config := func(definition string) string {
		return `
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

resource "matview_view" "test" {
  name                 = "job_progress"
  definition           = "` + definition + `"
  comment              = "of the view"
  on_definition_change = "recreate"
  indexes              = { i = { keys = ["id"], unique = true } }
}
`
	}
	w := newWorkspace(t, db.URL(), config("SELECT id, name FROM jobs"))
	w.run(t, "apply", "-auto-approve")
	db.Exec(t, "COMMENT ON INDEX i IS 'of the index'; COMMENT ON COLUMN job_progress.name IS 'of the column'; ALTER TABLE job_progress REPLICA IDENTITY FULL; GRANT SELECT (name) ON job_progress TO "+reader)
	w.write(t, config("SELECT id, name FROM jobs WHERE id > 1"))
	plan := w.run(t, "plan")
	if !message("Materialized view job_progress will be rebuilt", "Owner, comment, privileges and indexes stay. What is lost:",
		"- REPLICA IDENTITY FULL", "- the comment on column name", "- the comment on index i").MatchString(plan) {
		t.Errorf("the plan says\n%s", plan)
	}
	w.run(t, "apply", "-auto-approve")
	for sql, want := range map[string]string{
		"SELECT count(*) FROM job_progress":         "29",
		"obj_description('job_progress'::regclass)": "of the view",
		"SELECT coalesce(obj_description('i'::regclass), 'no') || indisunique FROM pg_index WHERE indexrelid = 'i'::regclass": "notrue",
		"coalesce(col_description('job_progress'::regclass, 2), 'no')":                                                        "no",
		"has_column_privilege('" + reader + "', 'job_progress', 'name', 'SELECT')":                                            "true",
		"has_column_privilege('" + reader + "', 'job_progress', 'id', 'SELECT')":                                              "false",
	} {
		if got := valueOf(t, db, sql); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	w.plan(t)
}
