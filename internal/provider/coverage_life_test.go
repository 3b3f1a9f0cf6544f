package provider

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// A phase is one apply of all the cases together.
type phase struct {
	name  string
	value string // a or b
	// unknown is a value known only after the plan, from terraform_data, which round
	// makes anew; removed leaves the attribute out where it can be.
	unknown, removed bool
	round            string
	drift            bool
	action           plancheck.ResourceActionType
}

// After each, terraform-plugin-testing holds that there is nothing to do.
var phases = []phase{
	{name: "set to what is unknown", value: "a", unknown: true, round: "1", action: plancheck.ResourceActionCreate},
	{name: "unknown, and the same", value: "a", unknown: true, round: "2", action: plancheck.ResourceActionUpdate},
	{name: "changed to what is unknown", value: "b", unknown: true, round: "2", action: plancheck.ResourceActionUpdate},
	{name: "drifted", value: "b", drift: true, round: "2", action: plancheck.ResourceActionUpdate},
	{name: "removed", value: "b", removed: true, round: "2", action: plancheck.ResourceActionUpdate},
	{name: "set again", value: "a", round: "2", action: plancheck.ResourceActionUpdate},
}

// coverage is the database of all the cases.
type coverage struct {
	db         *postgrestest.Database
	attributes map[string]*tfprotov6.SchemaAttribute
	cases      map[string]attributeCase // with names in place of NAME
	server     int
}

// objectName is what a case calls its resource, and what that is of.
func objectName(key string) string {
	name := strings.NewReplacer("matview_view.", "v_", "matview_refresh_schedule.", "s_", "matview_refresh_log.", "l_").Replace(key)
	return strings.ReplaceAll(name, ".", "_")
}

func address(key string) string { return key[:strings.Index(key, ".")] + "." + objectName(key) }

func newCoverage(t *testing.T) *coverage {
	t.Helper()
	admin := postgrestest.New(t)
	spaces := []string{"ts " + admin.Name, "ts2 " + admin.Name}
	conn := admin.Connect(t)
	if _, err := conn.Exec(t.Context(), "SET allow_in_place_tablespaces = on"); err != nil {
		t.Fatal(err)
	}
	for _, space := range spaces {
		quoted := pgx.Identifier{space}.Sanitize()
		if _, err := conn.Exec(t.Context(), "CREATE TABLESPACE "+quoted+" LOCATION ''"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // when the database that uses it has gone
			if _, err := conn.Exec(context.WithoutCancel(t.Context()), "DROP TABLESPACE "+quoted); err != nil {
				t.Error(err)
			}
		})
	}
	db := viewDatabase(t)
	one, _ := db.Role(t, "")
	two, _ := db.Role(t, "")
	c := &coverage{db: db, attributes: schemaAttributes(t), cases: map[string]attributeCase{}, server: postgrestest.Version(t)}
	for key, a := range attributeCases() {
		if a.since > c.server {
			continue
		}
		for _, text := range []*string{&a.base, &a.without, &a.as, &a.a, &a.b, &a.read, &a.inA, &a.inB, &a.inNone, &a.inAgain, &a.at, &a.stateA, &a.stateB, &a.stateNone, &a.drift} {
			*text = regexp.MustCompile(`\bNAME`).ReplaceAllString(*text, objectName(key)) // not that of RENAME
			*text = strings.NewReplacer("ROLE1", one, "ROLE2", two, "SPACE1", spaces[0], "SPACE2", spaces[1]).Replace(*text)
		}
		c.cases[key] = a
	}
	c.prepare(t, one, two)
	return c
}

// prepare makes what the cases find in the database, and a record of all DDL in it.
func (c *coverage) prepare(t *testing.T, roles ...string) {
	t.Helper()
	grantees := strings.Join(roles, ", ")
	c.db.Exec(t, `
CREATE SCHEMA one; CREATE SCHEMA two; CREATE SCHEMA away; CREATE SCHEMA ops; CREATE SCHEMA ops2;
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
GRANT ALL ON SCHEMA public TO `+grantees+`; GRANT SELECT ON jobs TO `+grantees+`;
CREATE MATERIALIZED VIEW s_id_b AS SELECT id FROM jobs; CREATE MATERIALIZED VIEW one."s_view b" AS SELECT id FROM jobs`)
	for key := range c.cases {
		if strings.HasPrefix(key, "matview_refresh_schedule.") {
			c.db.Exec(t, "CREATE MATERIALIZED VIEW "+objectName(key)+" AS SELECT id FROM jobs")
		}
	}
	for _, schema := range []string{"public", "ops", "ops2"} {
		if err := migrations.Apply(t.Context(), c.db.Connect(t), schema); err != nil {
			t.Fatal(err)
		}
	}
	// What is rolled back, as the comparing of definitions is, leaves no row.
	c.db.Exec(t, `
CREATE TABLE ddl (id int GENERATED ALWAYS AS IDENTITY, tag text);
CREATE FUNCTION coverage() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN INSERT INTO public.ddl (tag) VALUES (tg_tag); END';
CREATE EVENT TRIGGER coverage ON ddl_command_end EXECUTE FUNCTION coverage()`)
}

// config is of all the cases in one phase.
func (c *coverage) config(p phase) string {
	var text strings.Builder
	text.WriteString(providerConfigFor(c.db.URL(), "log_schema = \"other_logs\"\nmax_connections = 4"))
	fmt.Fprintf(&text, "resource \"terraform_data\" \"value\" {\n  triggers_replace = %q\n  input = {\n", p.round)
	for _, key := range sortedKeys(c.cases) {
		fmt.Fprintf(&text, "    %q = %s\n", key, c.cases[key].value(p.value))
	}
	text.WriteString("  }\n}\n" + c.resources(p))
	return text.String()
}

// resources are those of the cases in one phase.
func (c *coverage) resources(p phase) string {
	var text strings.Builder
	for _, key := range sortedKeys(c.cases) {
		kind, _, _ := strings.Cut(key, ".")
		fmt.Fprintf(&text, "resource %q %q {\n%s\n}\n", kind, objectName(key), c.arguments(key, p))
	}
	return text.String()
}

func (a attributeCase) value(which string) string {
	if which == "a" {
		return a.a
	}
	return a.b
}

func (c *coverage) arguments(key string, p phase) string {
	a := c.cases[key]
	if p.removed && c.attributes[key].Optional {
		return a.base + "\n" + a.without
	}
	value := a.value(p.value)
	if p.unknown {
		value = fmt.Sprintf("terraform_data.value.output[%q]", key)
	}
	as := a.as
	if as == "" {
		as = key[strings.LastIndex(key, ".")+1:] + " = VALUE"
	}
	return a.base + "\n" + strings.Replace(as, "VALUE", value, 1)
}

// planned says what is to be planned for the case.
func (c *coverage) planned(key string, p phase) plancheck.ResourceActionType {
	a := c.cases[key]
	action, special := a.actions[p.name]
	switch {
	case special:
		return action
	case p.drift && a.drift == "", p.removed && !c.attributes[key].Optional:
		return plancheck.ResourceActionNoop
	}
	return p.action
}

// expected is what is to be in the database after the phase, and in the state; ""
// for the state is anything.
func (c *coverage) expected(key string, p phase) (inDatabase, inState string) {
	a := c.cases[key]
	switch {
	case p.removed && c.attributes[key].Optional:
		return a.inNone, a.stateNone
	case p.name == "set again" && a.inAgain != "":
		return a.inAgain, a.stateA
	case p.value == "a":
		return a.inA, a.stateA
	}
	return a.inB, a.stateB
}

// check compares database and state with what they are to have.
func (c *coverage) check(t *testing.T, p phase) resource.TestCheckFunc {
	return func(s *terraform.State) error {
		conn := c.db.Connect(t)
		for _, key := range sortedKeys(c.cases) {
			a := c.cases[key]
			inDatabase, inState := c.expected(key, p)
			if a.read != "" {
				var got string
				if err := conn.QueryRow(t.Context(), "SELECT coalesce(("+a.read+")::text, 'null')").Scan(&got); err != nil {
					t.Errorf("%s, %s: %v", key, p.name, err)
				} else if got != inDatabase {
					t.Errorf("%s, %s: the database has %q, want %q", key, p.name, got, inDatabase)
				}
			}
			if inState == "" {
				continue
			}
			at := a.at
			if at == "" {
				at = key[strings.LastIndex(key, ".")+1:]
			}
			if err := resource.TestMatchResourceAttr(address(key), at, regexp.MustCompile("(?s)^(?:"+inState+")$"))(s); err != nil {
				t.Errorf("%s, %s: %v", key, p.name, err)
			}
		}
		return nil
	}
}

// plannedAll compares the plan with what is to be in it, and holds that planning
// changed nothing.
type plannedAll struct {
	t      *testing.T
	c      *coverage
	p      phase
	before *string
}

func (check plannedAll) CheckPlan(ctx context.Context, req plancheck.CheckPlanRequest, _ *plancheck.CheckPlanResponse) {
	for _, key := range sortedKeys(check.c.cases) {
		resp := &plancheck.CheckPlanResponse{}
		plancheck.ExpectResourceAction(address(key), check.c.planned(key, check.p)).CheckPlan(ctx, req, resp)
		if resp.Error != nil {
			check.t.Errorf("%s, %s: %v", key, check.p.name, resp.Error)
		}
	}
	if after := check.c.fingerprint(check.t); after != *check.before {
		check.t.Errorf("%s: planning changed the database: %s, before %s", check.p.name, after, *check.before)
	}
}

// fingerprint changes with any DDL, and any change of a schedule.
func (c *coverage) fingerprint(t *testing.T) string {
	return valueOf(t, c.db, `SELECT (SELECT concat_ws(' ', max(id), (SELECT tag FROM ddl ORDER BY id DESC LIMIT 1)) FROM ddl) || ' ' ||
(SELECT md5(string_agg(s::text, ',' ORDER BY view_name)) FROM (TABLE public.materialized_view_refresh_schedule UNION ALL TABLE ops.materialized_view_refresh_schedule UNION ALL TABLE ops2.materialized_view_refresh_schedule) AS s)`)
}

// Every attribute of every resource is set, changed, removed, unknown at plan, and
// changed behind Terraform's back.
func TestAccEveryAttribute(t *testing.T) {
	c := newCoverage(t)
	var steps []resource.TestStep
	var views string
	const oids = "SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_class WHERE relkind = 'm'"
	for _, p := range phases {
		before := new(string)
		steps = append(steps, resource.TestStep{
			PreConfig: func() {
				if p.drift {
					for _, key := range sortedKeys(c.cases) {
						if sql := c.cases[key].drift; sql != "" {
							c.db.Exec(t, sql)
						}
					}
				}
				*before = c.fingerprint(t)
				views = valueOf(t, c.db, oids)
			},
			Config:           c.config(p),
			ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plannedAll{t, c, p, before}}},
			Check: func(s *terraform.State) error {
				if after := valueOf(t, c.db, oids); p.name == "unknown, and the same" && after != views {
					t.Errorf("what was unknown, and is the same, made views anew: %s, before %s", after, views)
				}
				return c.check(t, p)(s)
			},
		})
	}
	resource.Test(t, resource.TestCase{ProtoV6ProviderFactories: testAccProviders, Steps: steps})
}
