package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
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
	action           string
}

var phases = []phase{
	{name: "set to what is unknown", value: "a", unknown: true, round: "1", action: create},
	{name: "unknown, and the same", value: "a", unknown: true, round: "2", action: update},
	{name: "changed to what is unknown", value: "b", unknown: true, round: "2", action: update},
	{name: "drifted", value: "b", drift: true, round: "2", action: update},
	{name: "removed", value: "b", removed: true, round: "2", action: update},
	{name: "set again", value: "a", round: "2", action: update},
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

func address(key string) string {
	kind, _, _ := strings.Cut(key, ".")
	return kind + "." + objectName(key)
}

// attributeOf is the last part of resource.attribute.
func attributeOf(key string) string { return key[strings.LastIndex(key, ".")+1:] }

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
	text.WriteString(`
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}
` + providerConfigFor(c.db.URL(), `log_schema = "other_logs"`))
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
		arguments := c.arguments(key, p)
		if kind == "matview_view" {
			arguments += "\ndepends_on = [matview_refresh_log.l_schema]" // which is in the provider's log_schema at times
		}
		fmt.Fprintf(&text, "resource %q %q {\n%s\n}\n", kind, objectName(key), arguments)
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
	as := cmp.Or(a.as, attributeOf(key)+" = VALUE")
	return a.base + "\n" + strings.Replace(as, "VALUE", value, 1)
}

// planned says what is to be planned for the case.
func (c *coverage) planned(key string, p phase) string {
	a := c.cases[key]
	action, special := a.actions[p.name]
	switch {
	case special:
		return action
	case p.drift && a.drift == "", p.removed && !c.attributes[key].Optional:
		return noop
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
func (c *coverage) check(t *testing.T, p phase, state map[string]any) {
	t.Helper()
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
		at := cmp.Or(a.at, attributeOf(key))
		if got := valueAt(state[address(key)], at); inState != "" && !regexp.MustCompile("(?s)^(?:"+inState+")$").MatchString(got) {
			t.Errorf("%s, %s: the state has %q, want %q", key, p.name, got, inState)
		}
	}
}

// valueAt is what a path such as indexes.i.keys.0 leads to, or the length of a
// list at #.
func valueAt(value any, path string) string {
	for _, step := range strings.Split(path, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			if n, err := strconv.Atoi(step); err == nil && n < len(v) {
				value = v[n]
			} else {
				value = len(v)
			}
		}
	}
	return fmt.Sprint(value)
}

// plan has terraform plan into a file, and returns what is planned by address.
func (c *coverage) plan(t *testing.T, w workspace) map[string]string {
	t.Helper()
	actions := map[string]string{}
	for _, line := range strings.Split(w.run(t, "plan", "-json", "-out=planned"), "\n") {
		var message struct {
			Type   string
			Change struct {
				Action   string
				Resource struct{ Addr string }
			}
		}
		if json.Unmarshal([]byte(line), &message) == nil && message.Type == "planned_change" {
			actions[message.Change.Resource.Addr] = message.Change.Action
		}
	}
	return actions
}

// state is what Terraform keeps, by address.
func (c *coverage) state(t *testing.T, w workspace) map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "terraform.tfstate"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Resources []struct {
			Type, Name string
			Instances  []struct{ Attributes any }
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	state := map[string]any{}
	for _, r := range file.Resources {
		state[r.Type+"."+r.Name] = r.Instances[0].Attributes
	}
	return state
}

// fingerprint changes with any DDL, and any change of a schedule.
func (c *coverage) fingerprint(t *testing.T) string {
	t.Helper()
	return valueOf(t, c.db, `SELECT (SELECT concat_ws(' ', max(id), (SELECT tag FROM ddl ORDER BY id DESC LIMIT 1)) FROM ddl) || ' ' ||
(SELECT md5(string_agg(s::text, ',' ORDER BY view_name)) FROM (TABLE public.materialized_view_refresh_schedule UNION ALL TABLE ops.materialized_view_refresh_schedule UNION ALL TABLE ops2.materialized_view_refresh_schedule) AS s)`)
}

// Every attribute of every resource is set, changed, removed, unknown at plan, and
// changed behind Terraform's back; planning changes nothing, and after each apply
// there is nothing to do.
func TestAccEveryAttribute(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	c := newCoverage(t)
	const oids = "SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_class WHERE relkind = 'm'"
	w := newWorkspace(t, c.db.URL(), "")
	for _, p := range phases {
		w.write(t, c.config(p))
		if p.drift {
			for _, key := range sortedKeys(c.cases) {
				if sql := c.cases[key].drift; sql != "" {
					c.db.Exec(t, sql)
				}
			}
		}
		before, views := c.fingerprint(t), valueOf(t, c.db, oids)
		actions := c.plan(t, w)
		for _, key := range sortedKeys(c.cases) {
			if got, want := cmp.Or(actions[address(key)], noop), c.planned(key, p); got != want {
				t.Errorf("%s, %s: planned is %s, want %s", key, p.name, got, want)
			}
		}
		if after := c.fingerprint(t); after != before {
			t.Errorf("%s: planning changed the database: %s, before %s", p.name, after, before)
		}
		w.run(t, "apply", "planned")
		c.check(t, p, c.state(t, w))
		if after := valueOf(t, c.db, oids); p.name == "unknown, and the same" && after != views {
			t.Errorf("what was unknown, and is the same, made views anew: %s, before %s", after, views)
		}
		if again := c.plan(t, w); len(again) > 0 {
			t.Errorf("%s: afterwards this is planned: %v", p.name, again)
		}
	}
}
