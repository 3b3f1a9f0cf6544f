package provider

import (
	"os"
	"strings"
	"testing"
)

// That a view cannot have its name, or its schema is not there, is known at plan.
func TestAccViewPlace(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := viewDatabase(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW "Odd one" AS SELECT 1 AS x; CREATE TABLE taken (id int)`)
	w := newWorkspace(t, db.URL(), "")
	view := func(name, arguments string) string {
		return workspaceProvider + "resource \"matview_view\" \"test\" {\n  name = \"" + name + "\"\n  definition = \"SELECT id FROM jobs\"\n" + arguments + "}\n"
	}
	plan := func(config string, wants ...string) {
		t.Helper()
		w.write(t, config)
		out := oneLine(w.run(t, "plan"))
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in the plan:\n%s", want, out)
			}
		}
		if len(wants) == 0 && (strings.Contains(out, "The name is taken") || strings.Contains(out, "Not there yet")) {
			t.Errorf("the plan warns:\n%s", out)
		}
	}
	plan(view("Odd one", ""), "The name is taken", `terraform import ADDRESS '"Odd one"'`, "Unless this apply drops or renames")
	plan(view("taken", ""), "The name is taken", "A table of that name is there already")
	plan(view("free", "  schema = \"nowhere\"\n"), "Not there yet", `There is no schema "nowhere".`)
	plan(view("free", ""))
	w.run(t, "apply", "-auto-approve")
	plan(view("free", "  comment = \"changed\"\n"))
	plan(view("taken", ""), "The name is taken", "A table of that name is there already")
}
