package provider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What terraform plan -generate-config-out writes for views as somebody made them
// is a configuration of just those. (Terraform 1.11 does not quote the name of an
// index that needs it.)
func TestAccViewGeneratedConfig(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := viewDatabase(t)
	db.Exec(t, `CREATE SCHEMA "Odd.schema"; CREATE MATERIALIZED VIEW "Odd.schema"."Odd ""${name}" (a, "B ${b}") WITH (fillfactor = 70, toast.autovacuum_enabled = off) AS SELECT id, name FROM jobs WHERE name <> '%{x} "\';
COMMENT ON MATERIALIZED VIEW "Odd.schema"."Odd ""${name}" IS E'two\nlines ${x}'; CREATE UNIQUE INDEX "I" ON "Odd.schema"."Odd ""${name}" (a DESC) INCLUDE ("B ${b}") WITH (fillfactor = 60);
CREATE INDEX j ON "Odd.schema"."Odd ""${name}" (lower("B ${b}") text_pattern_ops, (a + 1)) WHERE "B ${b}" LIKE '%{%';
CREATE MATERIALIZED VIEW plain AS SELECT count(*) FROM jobs; CREATE MATERIALIZED VIEW empty AS SELECT * FROM jobs WITH NO DATA`)
	imports := `
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}
`
	for resource, id := range map[string]string{"odd": `"Odd.schema"."Odd ""${name}"`, "plain": "plain", "empty": "public.empty"} {
		imports += "import {\n  to = matview_view." + resource + "\n  id = " + hcl(id) + "\n}\n"
	}
	w := newWorkspace(t, db.URL(), imports)
	w.run(t, "plan", "-generate-config-out=generated.tf")
	generated, err := os.ReadFile(filepath.Join(w.dir, "generated.tf"))
	if err != nil {
		t.Fatal(err)
	}
	out := w.run(t, "apply", "-auto-approve")
	if !strings.Contains(out, "Resources: 3 imported, 0 added, 0 changed, 0 destroyed.") {
		t.Errorf("%s\nwith this configuration:\n%s", out, generated)
	}
	w.plan(t)
}
