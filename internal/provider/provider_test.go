package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// testAccProviders serves the provider under test from this process.
var testAccProviders = map[string]func() (tfprotov6.ProviderServer, error){
	"matview": providerserver.NewProtocol6WithError(New("test")()),
}

// server is the provider as Terraform talks to it, for tests that call it by
// protocol. What came to the protocol late is not part of the first interface.
type server struct {
	tfprotov6.ProviderServer
	tfprotov6.ActionServer
	tfprotov6.ListResourceServer

	provider *configuredProvider
}

// configuredProvider keeps the client that Configure made.
type configuredProvider struct {
	matviewProvider

	client *client
}

func (p *configuredProvider) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	p.matviewProvider.Configure(ctx, req, resp)
	p.client, _ = resp.ResourceData.(*client)
}

func newServer() *server {
	p := &configuredProvider{}
	s := providerserver.NewProtocol6(p)()
	return &server{s, s.(tfprotov6.ActionServer), s.(tfprotov6.ListResourceServer), p}
}

// providerConfig is a provider block for a test's database, to put before the
// resources of a configuration.
func providerConfig(db *postgrestest.Database) string {
	return providerConfigFor(db.URL(), "")
}

// providerConfigFor is a provider block for a URL with more arguments.
func providerConfigFor(url, more string) string {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		panic(err) // postgrestest made it
	}
	return fmt.Sprintf(`
provider "matview" {
  host     = %q
  port     = %d
  database = %q
  username = %q
  password = %q
  sslmode  = "disable"
  %s
}
`, config.Host, config.Port, config.Database, config.User, config.Password, more)
}

func TestProviderSchema(t *testing.T) {
	server, err := testAccProviders["matview"]()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range resp.Diagnostics {
		t.Errorf("%s: %s", d.Summary, d.Detail)
	}
}

// Every attribute and block of every schema has a description: the docs are
// made of them.
func TestDescriptions(t *testing.T) {
	server, err := testAccProviders["matview"]()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	schemas := map[string]*tfprotov6.Schema{"provider": resp.Provider}
	for name, s := range resp.ResourceSchemas {
		schemas[name] = s
	}
	for name, s := range resp.DataSourceSchemas {
		schemas["data."+name] = s
	}
	for name, s := range resp.ListResourceSchemas {
		schemas["list."+name] = s
	}
	for name, s := range resp.ActionSchemas {
		schemas["action."+name] = s.Schema
	}
	for name, s := range schemas {
		if s.Block.Description == "" {
			t.Errorf("%s has no description", name)
		}
		described(t, name, s.Block.Attributes)
		for _, b := range s.Block.BlockTypes {
			described(t, name+"."+b.TypeName, b.Block.Attributes)
		}
	}
}

func described(t *testing.T, name string, attributes []*tfprotov6.SchemaAttribute) {
	t.Helper()
	for _, a := range attributes {
		if a.Description == "" && a.Name != "timeouts" { // a library's, which describes itself
			t.Errorf("%s.%s has no description", name, a.Name)
		}
		if a.NestedType != nil {
			described(t, name+"."+a.Name, a.NestedType.Attributes)
		}
	}
}

func TestAccProviderConnection(t *testing.T) {
	const use = "data \"matview_freshness\" \"test\" {\n  view = \"v\"\n}\n"
	db := postgrestest.New(t)
	user, password := db.Role(t, "")
	config, err := pgx.ParseConfig(db.URLFor(user, password+"wrong"))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ provider, message string }{
		"unreachable host": {
			`provider "matview" { url = "postgres://me:secret@host.invalid/db" }`,
			`cannot connect to PostgreSQL at host.invalid:5432, database "db", as user "me": the host name does not resolve`,
		},
		"nobody listens": {
			"provider \"matview\" {\n host = \"127.0.0.1\"\n port = 1\n database = \"db\"\n username = \"me\"\n password = \"secret\"\n}",
			`cannot connect to PostgreSQL at 127.0.0.1:1, database "db", as user "me": connect: connection refused`,
		},
		"wrong password":    {providerConfigFor(db.URLFor(user, password+"wrong"), ""), `password authentication failed for user "` + config.User + `"; check username and password`},
		"url of one word":   {`provider "matview" { url = "secret" }`, `the url must start with postgres:// or be a list of keyword=value`},
		"unknown sslmode":   {`provider "matview" { sslmode = "maybe" }`, `value must be one of`},
		"port out of range": {`provider "matview" { port = 70000 }`, `must be between 1 and 65535`},
		"key without cert":  {"provider \"matview\" {\n clientcert {\n key = \"x\"\n }\n}", `"clientcert.cert" must be specified`},
		"no certificate":    {"provider \"matview\" {\n sslrootcert = \"/nowhere/ca.pem\"\n sslmode = \"verify-full\"\n host = \"127.0.0.1\"\n}", `/nowhere/ca.pem`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			resource.Test(t, resource.TestCase{
				ProtoV6ProviderFactories: testAccProviders,
				Steps: []resource.TestStep{{
					Config:      c.provider + "\n" + use,
					ExpectError: errorMessage(c.message),
				}},
				ErrorCheck: func(err error) error {
					for _, secret := range []string{"secret", password} {
						if strings.Contains(err.Error(), secret) {
							t.Errorf("the password is in the error: %s", err)
						}
					}
					return err
				},
			})
		})
	}
}

// Values that only apply knows are no error at plan.
func TestAccProviderUnknownAtPlan(t *testing.T) {
	db := postgrestest.New(t)
	db.Exec(t, "CREATE MATERIALIZED VIEW v AS SELECT 1 AS x")
	config := `
resource "terraform_data" "database" { input = { url = "` + db.URL() + `", schema = "ops" } }

provider "matview" {
  url        = terraform_data.database.output.url
  log_schema = terraform_data.database.output.schema
}

resource "matview_refresh_log" "test" { deletion_protection = false }

resource "matview_refresh_schedule" "test" {
  view       = "v"
  every      = "1m"
  totals     = { jobs = "count(*)" }
  settings   = { work_mem = "64MB" }
  depends_on = [matview_refresh_log.test]
}

data "matview_freshness" "test" {
  view       = "v"
  depends_on = [matview_refresh_schedule.test]
}`
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config, Check: resource.ComposeTestCheckFunc(
				resource.TestCheckResourceAttr(refreshLog, "schema", "ops"),
				resource.TestCheckResourceAttr(freshnessData, "stale_reason", "never_refreshed"),
			)},
			{Config: config, PlanOnly: true},
		},
	})
}

func TestProviderConfig(t *testing.T) {
	model := providerModel{URL: types.StringValue("postgres://me@h/db?connect_timeout=7")}
	if got := model.config(); got.ConnectTimeout != 0 || got.MaxConnections != defaultMaxConnections {
		t.Errorf("%+v", got) // what the URL says stands
	}
	model.URL = types.StringNull()
	t.Setenv("PGCONNECT_TIMEOUT", "3")
	pool, err := model.config().PoolConfig()
	if err != nil {
		t.Fatal(err)
	}
	if got := pool.ConnConfig.ConnectTimeout; got != 3*time.Second {
		t.Errorf("connect timeout is %s", got)
	}
	if got := pool.ConnConfig.RuntimeParams["application_name"]; got != applicationName {
		t.Errorf("application name is %q", got)
	}
	model.ConnectTimeout = types.Int64Value(5)
	if got := model.config().ConnectTimeout; got != 5*time.Second {
		t.Errorf("connect timeout is %s", got)
	}
	client := configuredWith(t, map[string]any{"host": tftypes.UnknownValue, "clientcert.cert": "c", "clientcert.key": tftypes.UnknownValue}).provider.client
	if got := client.unknown; !slices.Equal(got, []string{"clientcert", "host"}) {
		t.Errorf("unknown are %v", got)
	}
}
