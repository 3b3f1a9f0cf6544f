// Package awstest applies the example modules with a real Terraform. In place of
// hashicorp/aws, which is large and requires an account, it runs a fake provider of
// that name. Its resources have the schema that the documentation of hashicorp/aws
// gives, and store their arguments.
package awstest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-plugin"
	tfjson "github.com/hashicorp/terraform-json"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	dataschema "github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"

	"github.com/matview/terraform-provider-matview/internal/terraformcli"
)

type aws struct{}

func (aws) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName = "aws"
}
func (aws) Schema(context.Context, provider.SchemaRequest, *provider.SchemaResponse)          {}
func (aws) Configure(context.Context, provider.ConfigureRequest, *provider.ConfigureResponse) {}

func (aws) DataSources(context.Context) []func() datasource.DataSource {
	var all []func() datasource.DataSource
	for _, kind := range constants {
		all = append(all, func() datasource.DataSource { return kind })
	}
	return all
}

func (aws) Resources(context.Context) []func() resource.Resource {
	var all []func() resource.Resource
	for _, kind := range kinds {
		all = append(all, func() resource.Resource { return kind })
	}
	return all
}

// stored is a resource that stores its arguments. Its computed attributes derive from
// the attribute that names it.
type stored struct {
	typeName, nameAttribute string
	computed                []string
	attributes              map[string]schema.Attribute
	blocks                  map[string]schema.Block
}

func (s stored) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + s.typeName
}

func (s stored) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{Attributes: maps.Clone(s.attributes), Blocks: s.blocks}
	for _, name := range s.computed {
		resp.Schema.Attributes[name] = schema.StringAttribute{Computed: true}
	}
}

func (s stored) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var name types.String
	resp.Diagnostics.Append(req.Plan.GetAttribute(ctx, path.Root(s.nameAttribute), &name)...)
	resp.State.Raw = req.Plan.Raw
	for _, attribute := range s.computed {
		value := name.ValueString()
		if strings.HasSuffix(attribute, "arn") {
			value = "arn:aws:test:::" + value
		}
		resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(attribute), types.StringValue(value))...)
	}
}

func (s stored) Read(context.Context, resource.ReadRequest, *resource.ReadResponse) {}
func (s stored) Update(_ context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	resp.State.Raw = req.Plan.Raw
}
func (s stored) Delete(context.Context, resource.DeleteRequest, *resource.DeleteResponse) {}

// constant is a data source without arguments.
type constant struct {
	typeName, attribute, value string
}

func (c constant) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + c.typeName
}

func (c constant) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema.Attributes = map[string]dataschema.Attribute{c.attribute: dataschema.StringAttribute{Computed: true}}
}

func (c constant) Read(ctx context.Context, _ datasource.ReadRequest, resp *datasource.ReadResponse) {
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(c.attribute), c.value)...)
}

// serve runs a provider in this process, and returns how Terraform reaches it.
func serve(t *testing.T, source string, server func() tfprotov6.ProviderServer) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	reattach, closed := make(chan *plugin.ReattachConfig), make(chan struct{})
	go func() {
		_ = tf6server.Serve("registry.terraform.io/"+source, server, tf6server.WithDebug(ctx, reattach, closed), tf6server.WithoutLogStderrOverride())
	}()
	config := <-reattach
	t.Cleanup(func() { cancel(); <-closed })
	return fmt.Sprintf(`%q: {"Protocol": %q, "ProtocolVersion": 6, "Pid": %d, "Test": true, "Addr": {"Network": %q, "String": %q}}`,
		"registry.terraform.io/"+source, config.Protocol, config.Pid, config.Addr.Network(), config.Addr.String())
}

// Apply applies a configuration with one module, plans it again, which must find
// nothing to do, and returns the attributes of the module's resources by address. Its
// output is that of the last command. Without TF_ACC the test is skipped.
func Apply(t *testing.T, config string) (resources map[string]map[string]any, output string, err error) {
	t.Helper()
	return ApplyWith(t, config, nil)
}

// ApplyWith is [Apply] with more providers, by their sources.
func ApplyWith(t *testing.T, config string, more map[string]func() tfprotov6.ProviderServer) (resources map[string]map[string]any, output string, err error) {
	t.Helper()
	if os.Getenv("TF_ACC") == "" {
		t.Skip("TF_ACC is not set")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	providers := []string{serve(t, "hashicorp/aws", providerserver.NewProtocol6(aws{}))}
	for source, server := range more {
		providers = append(providers, serve(t, source, server))
	}
	environment := "TF_REATTACH_PROVIDERS={" + strings.Join(providers, ", ") + "}"
	for _, args := range [][]string{{"init", "-no-color"}, {"validate", "-no-color"}, {"apply", "-no-color", "-auto-approve"}, {"plan", "-no-color", "-detailed-exitcode"}} {
		if output, err = terraform(t, dir, environment, args...); err != nil {
			return nil, output, err
		}
	}
	shown, err := terraform(t, dir, environment, "show", "-json")
	if err != nil {
		return nil, shown, err
	}
	var state tfjson.State
	if err := json.Unmarshal([]byte(shown), &state); err != nil {
		return nil, shown, err
	}
	resources = map[string]map[string]any{}
	for _, r := range state.Values.RootModule.ChildModules[0].Resources {
		resources[strings.TrimPrefix(r.Address, "module.it.")] = r.AttributeValues
	}
	return resources, output, nil
}

// terraform runs Terraform in a directory and returns its output.
func terraform(t *testing.T, dir, environment string, args ...string) (string, error) {
	t.Helper()
	program, err := terraformcli.Find(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+os.DevNull, "CHECKPOINT_DISABLE=1", environment)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("terraform %s: %w", args[0], err)
	}
	return string(out), err
}

// Module returns a call of the module in the test's directory.
func Module(t *testing.T, arguments string) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	return "module \"it\" {\n  source = \"" + filepath.ToSlash(dir) + "\"\n" + arguments + "\n}\n"
}

// Format fails the test if terraform fmt would change a file in its directory.
func Format(t *testing.T) {
	t.Helper()
	if out, err := terraform(t, ".", "", "fmt", "-check", "-diff", "."); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
