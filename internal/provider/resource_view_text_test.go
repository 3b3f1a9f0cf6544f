package provider

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// scribbled is text with some bytes put in, taken out or changed, most of them
// layout, so that many of the results are valid still.
func scribbled(random *rand.Rand, text string) string {
	put := []string{" ", "\n", "\t", "\r", " ", "\n", "/* ' */", "-- \"\n", "/* /* */ */", "", "", "'", `"`, "$", "$$", ".", "+", "-", "e", ";", "&", ":", "\\", "(", "\v"}
	for range 1 + random.IntN(4) {
		i := random.IntN(len(text))
		switch random.IntN(4) {
		case 0, 1:
			text = text[:i] + put[random.IntN(len(put))] + text[i:]
		case 2:
			if c := text[i]; c == ' ' || c == '\n' {
				text = text[:i] + text[i+1:]
			}
		default:
			if c := text[i]; 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
				text = text[:i] + string(c^0x20) + text[i+1:]
			}
		}
	}
	return text
}

// Whatever is taken for the same text without the server is the same for it.
func TestSameTextIsSameMeaning(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, definitionsSetup)
	pool := db.Pool(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	relaidSame, scribbledSame := 0, 0
	for _, d := range definitions(t) {
		want, err := matview.Normalize(t.Context(), pool, d.written)
		if err != nil {
			t.Fatal(err)
		}
		if matview.SameText(d.written, d.changed) {
			t.Errorf("%s: it has the same text with another meaning", d.name)
		}
		if matview.SameText(d.written, relaid(d.written)) {
			relaidSame++
		}
		for range 60 {
			text := scribbled(random, d.written)
			if text == d.written || !matview.SameText(d.written, text) {
				continue
			}
			scribbledSame++
			got, err := matview.Normalize(t.Context(), pool, text)
			if err != nil || got.Definition != want.Definition {
				t.Errorf("seed %d: %q is taken for %q, but the server says %q, %v", seed, text, d.written, got.Definition, err)
			}
		}
	}
	if relaidSame < 50 || scribbledSame < 500 {
		t.Errorf("seed %d: only %d definitions in another layout and %d scribbled ones are the same text", seed, relaidSame, scribbledSame)
	}
}

// Once imported or applied, a text in another layout is not sent to the server
// again at each plan: there is no statement that a DDL trigger would see. One in
// other words is, until the next apply: Terraform keeps nothing of a plan that is
// empty, and Read cannot see the configuration.
func TestAccViewLayoutCostsNoDDL(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW job_progress AS SELECT id, name FROM jobs WHERE name <> '; a  b';
CREATE UNIQUE INDEX u ON job_progress (id DESC, lower(name)) WHERE id > 3;
CREATE SEQUENCE ddl; CREATE FUNCTION count_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('public.ddl'); END $$;
CREATE EVENT TRIGGER count_ddl ON ddl_command_end EXECUTE FUNCTION count_ddl()`)
	conn := db.Connect(t)
	var stored string
	if _, err := conn.Exec(t.Context(), "SET search_path = ''"); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT pg_get_viewdef('public.job_progress'::regclass)").Scan(&stored); err != nil {
		t.Fatal(err)
	}
	config := func(definition, index string) string {
		return viewConfig(db, withDefinition(definition)+"  indexes = { u = { "+index+", unique = true } }")
	}
	imported := config(relaid(stored), `keys = [ "ID desc", "LOWER( name )" ], where = "( id>3 )"`)
	other := config("SELECT id, name AS n FROM jobs", `keys = ["id"]`)
	reworded := config("SELECT jobs.id, name AS n FROM public.jobs", `keys = ["((id))"]`)
	relaidOther := config(relaid("SELECT id, name AS n FROM jobs"), `keys = [ "ID /* it */" ]`)
	// A sequence counts on where the statement is rolled back.
	const made = "SELECT last_value || ' ' || is_called FROM ddl"
	none := func(*terraform.State) error { return expect(t, db, made, "1 false")(nil) }
	reset := func() { db.Exec(t, "SELECT setval('ddl', 1, false)") }
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{
				Config:           imported + "import {\n  to = matview_view.test\n  id = \"job_progress\"\n}\n",
				ConfigPlanChecks: planned(viewAddress, plancheck.ResourceActionNoop), Check: none,
			},
			{Config: imported, ConfigPlanChecks: noChanges, Check: none},
			{Config: other, ConfigPlanChecks: viewUpdates, Check: func(*terraform.State) error {
				if valueOf(t, db, made) == "1 false" {
					return fmt.Errorf("a change made no DDL that was counted")
				}
				return nil
			}},
			{PreConfig: reset, Config: relaidOther, ConfigPlanChecks: noChanges, Check: none},
			{PreConfig: reset, Config: reworded, ConfigPlanChecks: noChanges, Check: expect(t, db, "SELECT is_called FROM ddl", "true")},
			{Config: strings.Replace(reworded, "indexes =", "with_data = false\n  indexes =", 1), ConfigPlanChecks: viewUpdates},
			{
				PreConfig: reset, Config: strings.Replace(reworded, "indexes =", "with_data = false\n  indexes =", 1),
				ConfigPlanChecks: noChanges, Check: none,
			},
		},
	})
}

// Other words for a query that were applied may come to mean something else than
// it, where what they read changes.
func TestAccViewRewordedAndGrown(t *testing.T) {
	db := viewDatabase(t)
	reworded := viewConfig(db, withDefinition("SELECT * FROM jobs")+"  comment = \"c\"")
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: viewConfig(db, withDefinition("SELECT id, name, status, created_at FROM jobs"))},
			{Config: reworded, ConfigPlanChecks: viewUpdates, Check: resource.TestMatchResourceAttr(viewAddress, "definition", message("SELECT id,"))},
			{Config: reworded, PlanOnly: true},
			{PreConfig: func() { db.Exec(t, "ALTER TABLE jobs ADD COLUMN grown int") }, Config: reworded, ConfigPlanChecks: viewUpdates, Check: expect(t, db, "SELECT count(*) - count(grown) FROM job_progress", "30")},
			{Config: reworded, PlanOnly: true},
		},
	})
}
