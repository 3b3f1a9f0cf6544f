package provider

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/tfversion"
	"github.com/jackc/pgx/v5"
)

// Import by identity, as Terraform 1.12 and later ask for it.
func TestViewImportByIdentity(t *testing.T) {
	db := viewDatabase(t)
	db.Exec(t, `CREATE SCHEMA "Odd.schema"; CREATE MATERIALIZED VIEW "Odd.schema"."Odd ""name" AS SELECT id FROM jobs; CREATE MATERIALIZED VIEW plain AS SELECT id FROM jobs`)
	s := configured(t, db.URL())
	database := databaseOf(t, db.URL())
	for _, c := range []struct {
		identity map[string]any // without what is nil
		wantID   string
		want     string
	}{
		{map[string]any{"database": database, "schema": "Odd.schema", "name": `Odd "name`}, `"Odd.schema"."Odd ""name"`, ""},
		{map[string]any{"name": "plain"}, "plain", ""},
		{nil, "", `view name "": has an empty part`}, // as of terraform import ADDRESS ''
		{map[string]any{"name": "plain", "database": "elsewhere"}, "", `The identity names the database "elsewhere"`},
	} {
		imported, err := s.ImportResourceState(t.Context(), &tfprotov6.ImportResourceStateRequest{TypeName: "matview_view", Identity: identityOf(t, c.identity)})
		if err != nil {
			t.Fatal(err)
		}
		if c.want != "" {
			if len(imported.Diagnostics) != 1 || !message(c.want).MatchString(imported.Diagnostics[0].Detail) {
				t.Errorf("%v: %v", c.identity, imported.Diagnostics)
			}
			continue
		}
		for _, d := range imported.Diagnostics {
			t.Fatalf("%v: %s: %s", c.identity, d.Summary, d.Detail)
		}
		read, err := s.ReadResource(t.Context(), &tfprotov6.ReadResourceRequest{
			TypeName: "matview_view", CurrentState: imported.ImportedResources[0].State, Private: imported.ImportedResources[0].Private,
			CurrentIdentity: imported.ImportedResources[0].Identity,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range read.Diagnostics {
			t.Fatalf("%v: %s: %s", c.identity, d.Summary, d.Detail)
		}
		if got := attribute(t, s, read.NewState, "id"); got != c.wantID {
			t.Errorf("%v: id %q, want %q", c.identity, got, c.wantID)
		}
		var id map[string]tftypes.Value
		value, err := read.NewIdentity.IdentityData.Unmarshal(identityType)
		if err == nil {
			err = value.As(&id)
		}
		if err != nil || !id["database"].Equal(tftypes.NewValue(tftypes.String, database)) || !id["name"].Equal(tftypes.NewValue(tftypes.String, c.identity["name"])) {
			t.Errorf("%v: identity %s, %v", c.identity, value, err)
		}
	}
}

// configured is the provider's server, connected to url.
func configured(t *testing.T, url string) *server {
	t.Helper()
	s := newServer()
	schemas, err := s.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	typ, ok := schemas.Provider.ValueType().(tftypes.Object)
	if !ok {
		t.Fatal("the provider's configuration is no object")
	}
	values := make(map[string]tftypes.Value, len(typ.AttributeTypes))
	for name, attribute := range typ.AttributeTypes {
		values[name] = tftypes.NewValue(attribute, nil)
	}
	values["url"] = tftypes.NewValue(tftypes.String, url)
	config, err := tfprotov6.NewDynamicValue(typ, tftypes.NewValue(typ, values))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.ConfigureProvider(t.Context(), &tfprotov6.ConfigureProviderRequest{Config: &config})
	if err != nil || len(resp.Diagnostics) > 0 {
		t.Fatal(err, resp)
	}
	t.Cleanup(func() {
		if pool, err := s.provider.client.open(t.Context()); err == nil {
			pool.Close()
		}
	})
	return s
}

var identityType = tftypes.Object{AttributeTypes: map[string]tftypes.Type{"database": tftypes.String, "schema": tftypes.String, "name": tftypes.String}}

func identityOf(t *testing.T, given map[string]any) *tfprotov6.ResourceIdentityData {
	t.Helper()
	values := make(map[string]tftypes.Value, len(identityType.AttributeTypes))
	for name := range identityType.AttributeTypes {
		values[name] = tftypes.NewValue(tftypes.String, given[name])
	}
	value, err := tfprotov6.NewDynamicValue(identityType, tftypes.NewValue(identityType, values))
	if err != nil {
		t.Fatal(err)
	}
	return &tfprotov6.ResourceIdentityData{IdentityData: &value}
}

func attribute(t *testing.T, s *server, state *tfprotov6.DynamicValue, name string) (text string) {
	t.Helper()
	typ, _ := attributesOf(t, s, "matview_view")
	value, err := state.Unmarshal(typ)
	if err != nil {
		t.Fatal(err)
	}
	var attributes map[string]tftypes.Value
	if err := value.As(&attributes); err != nil {
		t.Fatal(err)
	}
	if err := attributes[name].As(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func databaseOf(t *testing.T, url string) string {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return config.Database
}

// The same with a Terraform that knows identities; it is kept through a rename.
func TestAccViewIdentity(t *testing.T) {
	db := viewDatabase(t)
	database := databaseOf(t, db.URL())
	identity := func(name string) []statecheck.StateCheck {
		return []statecheck.StateCheck{statecheck.ExpectIdentity(viewAddress, map[string]knownvalue.Check{
			"database": knownvalue.StringExact(database), "schema": knownvalue.StringExact("public"), "name": knownvalue.StringExact(name),
		})}
	}
	config := func(name string) string {
		return viewConfig(db, "  name = \""+name+"\"\n  definition = \"SELECT id FROM jobs\"")
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		TerraformVersionChecks:   []tfversion.TerraformVersionCheck{tfversion.SkipBelow(tfversion.Version1_12_0)},
		Steps: []resource.TestStep{
			{Config: config("a"), ConfigStateChecks: identity("a")},
			{ResourceName: viewAddress, ImportState: true, ImportStateKind: resource.ImportBlockWithResourceIdentity, Config: config("a")},
			{Config: config("b"), ConfigStateChecks: identity("b")},
			{Config: config("b"), PlanOnly: true},
		},
	})
}
