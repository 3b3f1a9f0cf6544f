package provider

import (
	_ "embed"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

var (
	//go:embed testdata/definitions/setup.sql
	definitionsSetup string
	//go:embed testdata/definitions/definitions.txt
	definitionsText string
)

// definition is an entry of the corpus.
type definition struct{ name, written, changed string }

func definitions(t *testing.T) []definition {
	t.Helper()
	var all []definition
	for line := range strings.Lines(definitionsText) {
		// A name, the query as written, and what in it gives way to what for
		// another meaning; ⏎ ends a line of the query.
		fields := strings.Split(strings.TrimSuffix(strings.ReplaceAll(line, "⏎", "\n"), "\n"), " ¦ ")
		if len(fields) != 4 || !strings.Contains(fields[1], fields[2]) {
			t.Fatalf("cannot read %q", line)
		}
		all = append(all, definition{name: fields[0], written: fields[1], changed: strings.Replace(fields[1], fields[2], fields[3], 1)})
	}
	if len(all) < 60 {
		t.Fatalf("%d definitions, want at least 60", len(all))
	}
	return all
}

// quotedOrKeyword matches a string, a name or a comment whole, or a keyword.
var quotedOrKeyword = regexp.MustCompile(`(?s)\$q\$.*?\$q\$|\$\$.*?\$\$|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\b(?:SELECT|FROM|WHERE|AS|JOIN|GROUP BY|ORDER BY|WITH|UNION|VALUES|AND|OVER|CASE|WHEN|IN|ON|USING)\b|,`)

// relaid is the same query in another layout.
func relaid(query string) string {
	query = quotedOrKeyword.ReplaceAllStringFunc(query, func(s string) string {
		if s == "," || (s == strings.ToUpper(s) && regexp.MustCompile(`^[A-Z]`).MatchString(s)) {
			return "\n\t" + strings.ToLower(s) + " /* ; */ "
		}
		return s
	})
	return "-- it's another layout\n\n" + strings.TrimSuffix(query, ";") + "\n-- the end\n ; "
}

// reworded is the same query in words that only the server knows to mean the same.
func reworded(query string) string { return "(" + strings.TrimSuffix(query, ";") + "\n)" }

// Each is applied as written, then planned in another layout and in other words,
// then with another meaning: all at once, for terraform takes longer to start than
// to plan.
func TestAccViewDefinitions(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, definitionsSetup)
	all := definitions(t)
	config := func(text func(definition) string) string { return providerConfig(db) + definedViews(all, text) }
	var updates []plancheck.PlanCheck
	for i := range all {
		updates = append(updates, plancheck.ExpectResourceAction(fmt.Sprintf("matview_view.v%d", i), plancheck.ResourceActionUpdate))
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config(func(d definition) string { return d.written })},
			{Config: config(func(d definition) string { return relaid(d.written) }), PlanOnly: true},
			{Config: config(func(d definition) string { return reworded(d.written) }), PlanOnly: true},
			{Config: config(func(d definition) string { return d.changed }), ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: updates}},
			{Config: config(func(d definition) string { return relaid(d.changed) }), PlanOnly: true},
			// A view that was swapped has been made of the server's words.
			{Config: config(func(d definition) string { return reworded(d.changed) }), PlanOnly: true},
		},
	})
}

// definedViews are the views v0, v1, ... with the texts of the definitions.
func definedViews(all []definition, text func(definition) string) string {
	var b strings.Builder
	for i, d := range all {
		fmt.Fprintf(&b, "# %s\nresource \"matview_view\" \"v%d\" {\n  name = \"v%d\"\n  definition = %s\n}\n", d.name, i, i, hcl(text(d)))
	}
	return b.String()
}

// After a major upgrade the server writes definitions otherwise, and what the
// state remembers fits nothing. That is no change. The upgrade is a restore of what
// the old server says of its views, as by pg_dump, on a server of the major in
// MATVIEW_TEST_POSTGRES_UPGRADE_BIN; without that on one of the same.
func TestAccViewMajorUpgrade(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, definitionsSetup)
	if bin := os.Getenv("MATVIEW_TEST_POSTGRES_UPGRADE_BIN"); bin != "" {
		t.Setenv("MATVIEW_TEST_POSTGRES_BIN", bin)
	}
	upgraded, err := postgrestest.Start(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upgraded.Stop() })
	all := definitions(t)
	views := definedViews(all, func(d definition) string { return d.written })
	others := definedViews(all, func(d definition) string {
		if strings.Contains(d.written, "extract(") || strings.Contains(d.written, "substring(") {
			return d.written // since 14 these are other functions than the ones stored
		}
		return reworded(d.written)
	})
	var nothing []plancheck.PlanCheck
	for i := range all {
		nothing = append(nothing, plancheck.ExpectResourceAction(fmt.Sprintf("matview_view.v%d", i), plancheck.ResourceActionNoop))
	}
	after := providerConfigFor(upgraded.URL("postgres"), "") + views
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: providerConfig(db) + views},
			{PreConfig: func() { restore(t, db, upgraded.URL("postgres"), len(all)) }, Config: after, ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: nothing}},
			{Config: providerConfigFor(upgraded.URL("postgres"), "") + others, PlanOnly: true},
		},
	})
}

func restore(t *testing.T, from *postgrestest.Database, to string, views int) {
	t.Helper()
	source := from.Connect(t)
	target, err := pgx.Connect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close(t.Context()) }()
	if _, err := target.Exec(t.Context(), definitionsSetup); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Exec(t.Context(), "SET search_path = ''"); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Exec(t.Context(), "SET search_path = ''"); err != nil {
		t.Fatal(err)
	}
	for i := range views {
		var definition string
		if err := source.QueryRow(t.Context(), "SELECT pg_get_viewdef($1::regclass)", fmt.Sprintf("public.v%d", i)).Scan(&definition); err != nil {
			t.Fatal(err)
		}
		if _, err := target.Exec(t.Context(), fmt.Sprintf("CREATE MATERIALIZED VIEW public.v%d AS %s", i, definition)); err != nil {
			t.Fatalf("%s: %v", definition, err)
		}
	}
}

// hcl is a string in Terraform's language.
func hcl(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(fmt.Sprintf("%q", s))
}
