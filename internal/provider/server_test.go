package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
)

// comparing asks the framework too wherever the shorter way answers, and reports
// where the two differ. All acceptance tests run on it.
type comparing struct{ *server }

// short counts the answers that the shorter way gave.
var short struct{ upgraded, read, validated, planned atomic.Int64 }

func newComparing() (tfprotov6.ProviderServer, error) {
	s, ok := NewServer("test")().(*server)
	if !ok {
		return nil, fmt.Errorf("the provider is no server of ours")
	}
	return comparing{s}, nil
}

func differ(what string, ours, framework any) []*tfprotov6.Diagnostic {
	return []*tfprotov6.Diagnostic{{
		Severity: tfprotov6.DiagnosticSeverityError, Summary: "The shorter way answers something else: " + what,
		Detail: fmt.Sprintf("%v\nand the framework\n%v", ours, framework),
	}}
}

func (c comparing) same(a, b *tfprotov6.DynamicValue) bool {
	_, t := c.viewSchema(context.Background())
	x, errX := a.Unmarshal(t)
	y, errY := b.Unmarshal(t)
	return errX == nil && errY == nil && x.Equal(y)
}

// privately is private state for people.
func privately(private []byte) map[string]string {
	var keys map[string][]byte
	_ = json.Unmarshal(private, &keys)
	text := make(map[string]string, len(keys))
	for name, value := range keys {
		text[name] = string(value)
	}
	return text
}

func sameJSON(a, b []byte) bool {
	var x, y map[string][]byte
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}

func (c comparing) ValidateResourceConfig(ctx context.Context, req *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	ours, err := c.server.ValidateResourceConfig(ctx, req)
	framework, frameworkErr := c.frameworkServer.ValidateResourceConfig(ctx, req)
	if err == nil && frameworkErr == nil && len(ours.Diagnostics) != len(framework.Diagnostics) {
		ours.Diagnostics = differ("validate", ours.Diagnostics, framework.Diagnostics)
	}
	if _, ok := c.valid.Load(configSeal("test", req.Config.MsgPack)); ok {
		short.validated.Add(1)
	}
	return ours, err
}

func (c comparing) UpgradeResourceState(ctx context.Context, req *tfprotov6.UpgradeResourceStateRequest) (*tfprotov6.UpgradeResourceStateResponse, error) {
	ours, err := c.server.UpgradeResourceState(ctx, req)
	if err != nil || req.TypeName != viewType || ours.UpgradedState == nil || ours.UpgradedState.JSON == nil {
		return ours, err
	}
	short.upgraded.Add(1)
	framework, err := c.frameworkServer.UpgradeResourceState(ctx, req)
	if err == nil && !c.same(ours.UpgradedState, framework.UpgradedState) {
		ours.Diagnostics = differ("upgrade", ours.UpgradedState, framework.UpgradedState)
	}
	return ours, err
}

func (c comparing) ReadResource(ctx context.Context, req *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	if req.TypeName != viewType || !c.asSealed(ctx, req) {
		return c.server.ReadResource(ctx, req)
	}
	short.read.Add(1)
	// The state may be of another database with the same catalog.
	req.CurrentIdentity = identityData("elsewhere", sealOf(req.Private).name())
	ours, err := c.server.ReadResource(ctx, req)
	if err != nil {
		return nil, err
	}
	framework, err := c.frameworkServer.ReadResource(ctx, req)
	if err == nil && (!c.same(ours.NewState, framework.NewState) || !bytes.Equal(ours.NewIdentity.IdentityData.MsgPack, framework.NewIdentity.IdentityData.MsgPack) || !sameJSON(ours.Private, framework.Private) || len(framework.Diagnostics) > 0) {
		ours.Diagnostics = differ("read", privately(ours.Private), fmt.Sprint(privately(framework.Private), framework.Diagnostics))
	}
	return ours, err
}

func (c comparing) PlanResourceChange(ctx context.Context, req *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	if req.TypeName != viewType || !c.asApplied(req) {
		return c.server.PlanResourceChange(ctx, req)
	}
	short.planned.Add(1)
	ours, err := c.server.PlanResourceChange(ctx, req)
	if err != nil {
		return nil, err
	}
	framework, err := c.frameworkServer.PlanResourceChange(ctx, req)
	if err == nil && (!c.same(ours.PlannedState, framework.PlannedState) || !sameJSON(ours.PlannedPrivate, framework.PlannedPrivate) ||
		len(framework.Diagnostics) > 0 || len(framework.RequiresReplace) > 0) {
		ours.Diagnostics = differ("plan", privately(ours.PlannedPrivate), fmt.Sprint(privately(framework.PlannedPrivate), framework.Diagnostics, framework.RequiresReplace))
	}
	return ours, err
}

// A plan without changes takes the shorter way, and a view that was changed
// behind Terraform's back does not.
func TestAccServerShortWay(t *testing.T) {
	db := viewDatabase(t)
	config := viewConfig(db, withDefinition("SELECT id, name FROM jobs")+"  indexes = { u = { keys = [\"id\"], unique = true } }\n  timeouts = { update = \"5m\" }")
	changed := viewConfig(db, withDefinition("SELECT id, name FROM jobs")+"  indexes = { u = { keys = [\"id\"], unique = true } }\n  comment = \"c\"")
	var upgraded, read, validated, planned int64
	count := func() {
		upgraded, read, validated, planned = short.upgraded.Load(), short.read.Load(), short.validated.Load(), short.planned.Load()
	}
	taken := func() error {
		if short.upgraded.Load() == upgraded || short.read.Load() == read || short.validated.Load() == validated || short.planned.Load() == planned {
			return fmt.Errorf("the shorter way was not taken: %d upgraded, %d read, %d validated, %d planned", short.upgraded.Load()-upgraded, short.read.Load()-read, short.validated.Load()-validated, short.planned.Load()-planned)
		}
		return nil
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config},
			{PreConfig: count, Config: config, PlanOnly: true},
			{PreConfig: func() {
				if err := taken(); err != nil {
					t.Error(err)
				}
			}, Config: changed},
			{PreConfig: count, Config: changed, PlanOnly: true},
			{PreConfig: func() {
				if err := taken(); err != nil {
					t.Error(err)
				}
				db.Exec(t, "COMMENT ON MATERIALIZED VIEW job_progress IS 'another'")
			}, Config: changed, PlanOnly: true, ExpectNonEmptyPlan: true},
		},
	})
}

func TestHasShape(t *testing.T) {
	inner := tftypes.Object{AttributeTypes: map[string]tftypes.Type{"a": tftypes.String}}
	outer := tftypes.Object{AttributeTypes: map[string]tftypes.Type{
		"m": tftypes.Map{ElementType: inner}, "l": tftypes.List{ElementType: inner}, "o": inner, "b": tftypes.Bool,
	}}
	for data, want := range map[string]bool{
		`{"m":{"k":{"a":"x"}},"l":[{"a":null}],"o":null,"b":true}`:   true,
		`{"m":null,"l":[],"o":{"a":"x"},"b":null}`:                   true,
		`{"m":{"k":{}},"l":[],"o":null,"b":true}`:                    false,
		`{"m":{},"l":[{"a":"x","b":1}],"o":null,"b":true}`:           false,
		`{"m":{},"l":[],"o":{"b":"x"},"b":true}`:                     false,
		`{"m":{},"l":[],"o":null}`:                                   false,
		`{"m":{},"l":[],"o":null,"b":true,"c":"of a newer version"}`: false,
		`{"m":[],"l":[],"o":null,"b":true}`:                          false,
		`nonsense`:                                                   false,
	} {
		if got := hasShape([]byte(data), outer); got != want {
			t.Errorf("%s: %t", data, got)
		}
	}
}

// A duration that is none is refused in lines of text.
func TestAccInvalidDuration(t *testing.T) {
	db := viewDatabase(t)
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{{
			Config:      providerConfig(db) + "resource \"matview_refresh_log\" \"test\" {\n  history_retention = \"a week\"\n}\n",
			ExpectError: message(`"s", "m", "h". Given Value: a week Error: time: invalid duration "a week"`),
		}},
	})
}
