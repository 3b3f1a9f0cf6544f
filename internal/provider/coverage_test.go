package provider

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// attributeCase takes one attribute of a resource through all that can happen to
// it, in a resource of its own. In every text NAME is that resource's own name.
type attributeCase struct {
	// base is what the resource has besides, and without what it has in the place of
	// the attribute where that is left out.
	base, without string
	// as is how the attribute is written, with VALUE for its value; attribute = VALUE
	// if empty. For an attribute that is computed, it is what it follows.
	as string
	// a and b are two values, in HCL.
	a, b string
	// read is a query for what the database makes of it, and inA, inB and inNone are
	// the answers; inAgain is that to a after all else, if it differs.
	read, inA, inB, inNone, inAgain string
	// at is the attribute in the state, such as indexes.i.keys.0, if not its own name;
	// stateA, stateB and stateNone are what is there, as regular expressions of the
	// whole. What is configured is in the state or Terraform objects: only what the
	// provider computes needs them, defaults among it.
	at, stateA, stateB, stateNone string
	// drift is SQL that changes it where it was b.
	drift string
	// actions are what is planned in a phase, where it is no update (or, at first, a
	// creation).
	actions map[string]string
	// since is the first server that has it, such as 150000.
	since int
	// shownBy is the test of what it does, where the database has nothing of it.
	shownBy string
}

// attributeCases has one for each attribute of each resource, as resource.attribute.
func attributeCases() map[string]attributeCase {
	all := map[string]attributeCase{}
	for _, cases := range []map[string]attributeCase{viewAttributeCases, viewIndexAttributeCases, logAttributeCases, scheduleAttributeCases} {
		maps.Copy(all, cases)
	}
	return all
}

// shownElsewhere are the attributes that are no resource's, with the tests of them.
var shownElsewhere = map[string]string{
	"action.matview_refresh.view":   "TestRefreshActionAttributes",
	"action.matview_refresh.method": "TestRefreshActionAttributes",
	"list.matview_view.schema":      "TestListViewsAttributes",
	"data.matview_freshness.view":   "TestAccDataSourceAttributes",
	"data.matview_views.schema":     "TestAccDataSourceAttributes",
	"data.matview_views.only_stale": "TestAccDataSourceAttributes",
	// Each goes through all the attributes that the schema has.
	"data.matview_freshness.*":   "TestAccFreshnessColumns",
	"data.matview_views.views":   "TestAccFreshnessColumns",
	"data.matview_views.views.*": "TestAccFreshnessColumns",
	"provider.*":                 "TestProviderAttributes",
	"identity.matview_view.*":    "TestViewImportByIdentity",
}

// A new attribute fails this until it has a case, and a case until it says all.
func TestEveryAttributeIsCovered(t *testing.T) {
	tests := testNames(t)
	cases := attributeCases()
	left := maps.Clone(cases)
	for name, a := range schemaAttributes(t) {
		c, ok := cases[name]
		if !ok {
			folder := name[:strings.LastIndex(name, ".")] + ".*"
			if strings.HasPrefix(name, "provider.") {
				folder = "provider.*"
			}
			by := shownElsewhere[name]
			if by == "" {
				by = shownElsewhere[folder]
			}
			if !tests[by] {
				t.Errorf("%s has no case, and no test %q", name, by)
			}
			continue
		}
		delete(left, name)
		for what, wrong := range map[string]bool{
			"both values":                        c.a == "" || c.b == "" || c.a == c.b,
			"what the database has, or the test": c.read == "" && !tests[c.shownBy],
			"how it drifts":                      c.read != "" && c.drift == "",
			"what the state has of both":         !a.Optional && !a.Required && (c.stateA == "" || c.stateB == ""),
			"the default":                        a.Optional && a.Computed && c.stateNone == "",
			"what the database has without it":   a.Optional && c.read != "" && c.inNone == "",
		} {
			if wrong {
				t.Errorf("the case of %s lacks %s", name, what)
			}
		}
	}
	for name := range left {
		t.Errorf("there is no attribute %s", name)
	}
}

// schemaAttributes are all attributes of the provider, such as
// matview_view.indexes.keys, data.matview_freshness.view, provider.host.
func schemaAttributes(t *testing.T) map[string]*tfprotov6.SchemaAttribute {
	t.Helper()
	s := newServer()
	resp, err := s.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*tfprotov6.SchemaAttribute{}
	var add func(prefix string, attributes []*tfprotov6.SchemaAttribute)
	add = func(prefix string, attributes []*tfprotov6.SchemaAttribute) {
		for _, a := range attributes {
			all[prefix+a.Name] = a
			if a.NestedType != nil {
				add(prefix+a.Name+".", a.NestedType.Attributes)
			}
		}
	}
	block := func(prefix string, b *tfprotov6.SchemaBlock) {
		add(prefix, b.Attributes)
		for _, nested := range b.BlockTypes {
			add(prefix+nested.TypeName+".", nested.Block.Attributes)
		}
	}
	block("provider.", resp.Provider.Block)
	for name, s := range resp.ResourceSchemas {
		block(name+".", s.Block)
	}
	for name, s := range resp.DataSourceSchemas {
		block("data."+name+".", s.Block)
	}
	for name, s := range resp.ActionSchemas {
		block("action."+name+".", s.Schema.Block)
	}
	for name, s := range resp.ListResourceSchemas {
		block("list."+name+".", s.Block)
	}
	identities, err := s.GetResourceIdentitySchemas(t.Context(), &tfprotov6.GetResourceIdentitySchemasRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range identities.IdentitySchemas {
		for _, a := range s.IdentityAttributes {
			all["identity."+name+"."+a.Name] = &tfprotov6.SchemaAttribute{Name: a.Name, Optional: a.OptionalForImport, Required: a.RequiredForImport}
		}
	}
	return all
}

// testNames are the tests of this package.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

// sortedKeys are in the order of the alphabet.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
