package provider

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Where the sessions of a database are set to another encoding, texts are still what they
// are in the configuration.
func TestAccViewInOtherEncoding(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, `CREATE TABLE term (id int, label text); INSERT INTO term VALUES (1, 'Straße'); CREATE MATERIALIZED VIEW "prés" AS SELECT id, label, 'français'::text AS lang FROM term;
COMMENT ON MATERIALIZED VIEW "prés" IS 'où';
ALTER DATABASE `+postgres.QuoteIdent(db.Name)+` SET client_encoding = 'LATIN1'`)
	config := func(comment string) string {
		return viewConfig(db, `  name       = "prés"
  definition = "SELECT id, label, 'français'::text AS lang FROM term"
  comment    = "`+comment+`"`)
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config:           config("où") + "import {\n  to = matview_view.test\n  id = \"\\\"prés\\\"\"\n}\n",
				ConfigPlanChecks: planned(viewAddress, plancheck.ResourceActionNoop),
			},
			{Config: config("là")},
			{Config: config("là"), ConfigPlanChecks: noChanges},
		},
	})
}
