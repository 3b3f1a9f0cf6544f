// Package awstest applies the example modules in a real Terraform. In place of
// hashicorp/aws, which is large and wants an account, stands a provider of that
// name with the schema of the resources that the modules have, as the
// documentation of hashicorp/aws gives it; it stores what it is told.
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
	for _, kind := range facts {
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

// stored is a resource that stores its arguments. Its computed attributes are
// made of the one that names it.
type stored struct {
	name, named string
	computed    []string
	attributes  map[string]schema.Attribute
	blocks      map[string]schema.Block
}

func (s stored) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + s.name
}

func (s stored) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{Attributes: s.attributes, Blocks: s.blocks}
}

func (s stored) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var name types.String
	resp.Diagnostics.Append(req.Plan.GetAttribute(ctx, path.Root(s.named), &name)...)
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

// fact is a data source without arguments.
type fact struct {
	name   string
	values map[string]string
}

func (f fact) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + f.name
}

func (f fact) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = dataschema.Schema{Attributes: map[string]dataschema.Attribute{}}
	for name := range f.values {
		resp.Schema.Attributes[name] = dataschema.StringAttribute{Computed: true}
	}
}

func (f fact) Read(ctx context.Context, _ datasource.ReadRequest, resp *datasource.ReadResponse) {
	for name, value := range f.values {
		resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(name), value)...)
	}
}

// serve starts the providers in this process, and returns the variable by which
// Terraform finds them.
func serve(t *testing.T, providers map[string]func() tfprotov6.ProviderServer) string {
	t.Helper()
	var all []string
	for source, p := range providers {
		all = append(all, serveOne(t, "registry.terraform.io/"+source, p))
	}
	return "TF_REATTACH_PROVIDERS={" + strings.Join(all, ", ") + "}"
}

func serveOne(t *testing.T, source string, server func() tfprotov6.ProviderServer) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	reattach, closed := make(chan *plugin.ReattachConfig), make(chan struct{})
	go func() {
		_ = tf6server.Serve(source, server, tf6server.WithDebug(ctx, reattach, closed), tf6server.WithoutLogStderrOverride())
	}()
	config := <-reattach
	t.Cleanup(func() { cancel(); <-closed })
	return fmt.Sprintf(`%q: {"Protocol": %q, "ProtocolVersion": 6, "Pid": %d, "Test": true, "Addr": {"Network": %q, "String": %q}}`,
		source, config.Protocol, config.Pid, config.Addr.Network(), config.Addr.String())
}

// Apply applies a configuration with one module and returns the attributes of
// each of its resources, by its address there. What it applied it plans again,
// which must find nothing to do. Without TF_ACC the test is skipped.
func Apply(t *testing.T, config string) (resources map[string]map[string]any, output string, err error) {
	t.Helper()
	return ApplyWith(t, config, nil)
}

// ApplyWith is Apply with more providers, by their sources.
func ApplyWith(t *testing.T, config string, more map[string]func() tfprotov6.ProviderServer) (resources map[string]map[string]any, output string, err error) {
	t.Helper()
	if os.Getenv("TF_ACC") == "" {
		t.Skip("TF_ACC is not set")
	}
	terraform, err := terraformcli.Find(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	providers := map[string]func() tfprotov6.ProviderServer{"hashicorp/aws": providerserver.NewProtocol6(aws{})}
	maps.Copy(providers, more)
	environment := append(os.Environ(), "TF_CLI_CONFIG_FILE="+os.DevNull, "CHECKPOINT_DISABLE=1", serve(t, providers))
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), terraform, args...)
		cmd.Dir, cmd.Env = dir, environment
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{{"init", "-no-color"}, {"validate", "-no-color"}, {"apply", "-no-color", "-auto-approve"}, {"plan", "-no-color", "-detailed-exitcode"}} {
		if output, err = run(args...); err != nil {
			return nil, output, fmt.Errorf("terraform %s: %w", args[0], err)
		}
	}
	shown, err := run("show", "-json")
	if err != nil {
		return nil, shown, err
	}
	var state struct {
		Values struct {
			Root struct {
				Modules []struct {
					Resources []struct {
						Address string
						Values  map[string]any
					}
				} `json:"child_modules"`
			} `json:"root_module"`
		}
	}
	if err := json.Unmarshal([]byte(shown), &state); err != nil {
		return nil, shown, err
	}
	resources = map[string]map[string]any{}
	for _, r := range state.Values.Root.Modules[0].Resources {
		resources[strings.TrimPrefix(r.Address, "module.it.")] = r.Values
	}
	return resources, output, nil
}

// Module is a call of the module in the test's folder.
func Module(t *testing.T, arguments string) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	return "module \"it\" {\n  source = \"" + filepath.ToSlash(dir) + "\"\n" + arguments + "\n}\n"
}

// Format fails the test if terraform fmt would change anything in its folder.
func Format(t *testing.T) {
	t.Helper()
	terraform, err := terraformcli.Find(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), terraform, "fmt", "-check", "-diff", ".")
	cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+os.DevNull)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
