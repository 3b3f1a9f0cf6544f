package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

const viewType = "matview_view"

// NewServer makes the provider as Terraform talks to it: the framework's server,
// with a shorter way for what has not changed. The framework takes milliseconds
// to decode, compare and encode a view, several times in a plan, and a plan
// without changes is what most plans are. Whatever is not known for certain to
// be unchanged goes the framework's way, which gives the same answer.
func NewServer(version string) func() tfprotov6.ProviderServer {
	return func() tfprotov6.ProviderServer {
		p := &matviewProvider{version: version}
		return &server{frameworkServer: providerserver.NewProtocol6(p)().(frameworkServer), provider: p} //nolint:forcetypeassert // it is one
	}
}

// frameworkServer is all that the framework's server does. What came to the
// protocol late is not part of the first interface.
type frameworkServer interface {
	tfprotov6.ProviderServer
	tfprotov6.ActionServer
	tfprotov6.ListResourceServer
}

type server struct {
	frameworkServer

	provider *matviewProvider

	once     sync.Once
	version  int64
	viewType tftypes.Type // nil where it could not be learned

	// valid are the seals of configurations that were applied.
	valid sync.Map
}

// ValidateResourceConfig passes a configuration that was applied before. What is
// valid depends on nothing but the text and the provider's version.
func (s *server) ValidateResourceConfig(ctx context.Context, req *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	if req.TypeName == viewType && req.Config != nil && len(req.Config.MsgPack) > 0 {
		if _, ok := s.valid.Load(configSeal(s.provider.version, req.Config.MsgPack)); ok {
			return &tfprotov6.ValidateResourceConfigResponse{}, nil
		}
	}
	resp, err := s.frameworkServer.ValidateResourceConfig(ctx, req)
	if resp != nil {
		for _, d := range resp.Diagnostics {
			d.Detail = unescapeBreak(d.Detail)
		}
	}
	return resp, err
}

// unescapeBreak makes a line break of what timetypes (diagnostics.go) writes for
// one, in a raw string, after the units of a duration.
func unescapeBreak(detail string) string {
	const units = `"ms", "s", "m", "h".`
	return strings.Replace(detail, units+`\n\n`, units+"\n\n", 1)
}

// UpgradeResourceState hands the state on as it is where it was written with
// this schema: Terraform decodes JSON as well.
func (s *server) UpgradeResourceState(ctx context.Context, req *tfprotov6.UpgradeResourceStateRequest) (*tfprotov6.UpgradeResourceStateResponse, error) {
	if req.TypeName == viewType && req.RawState != nil {
		version, t := s.viewSchema(ctx)
		if t != nil && req.Version == version && hasShape(req.RawState.JSON, t) {
			return &tfprotov6.UpgradeResourceStateResponse{UpgradedState: &tfprotov6.DynamicValue{JSON: req.RawState.JSON}}, nil
		}
	}
	return s.frameworkServer.UpgradeResourceState(ctx, req)
}

// ReadResource gives the state back where the catalog still says what the state
// was made of.
func (s *server) ReadResource(ctx context.Context, req *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	if req.TypeName == viewType && s.asSealed(ctx, req) {
		// A copy of the database, or the database under another name, has the same
		// catalog: the identity is not that of the last time for certain.
		database, err := s.provider.client.database(ctx)
		if err != nil {
			return s.frameworkServer.ReadResource(ctx, req)
		}
		return &tfprotov6.ReadResourceResponse{
			NewState: req.CurrentState, Private: req.Private, NewIdentity: identityData(database, sealOf(req.Private).name()),
		}, nil
	}
	return s.frameworkServer.ReadResource(ctx, req)
}

func (s *server) asSealed(ctx context.Context, req *tfprotov6.ReadResourceRequest) bool {
	sealed := sealOf(req.Private)
	if sealed.Config != "" {
		s.valid.Store(sealed.Config, true)
	}
	c := s.provider.client
	if sealed.Read == "" || c == nil || req.CurrentState == nil || len(req.CurrentState.MsgPack) == 0 {
		return false
	}
	pool, err := c.open(ctx)
	if err != nil {
		return false // the framework's way says it
	}
	v, err := c.catalog.read(ctx, pool, sealed.name())
	return err == nil && v != nil && sealed.Read == readSeal(s.provider.version, v, req.CurrentState.MsgPack)
}

// PlanResourceChange plans the prior state where configuration and state are
// those that Terraform last applied: also where the two say the same in other words,
// which the server was asked about then.
func (s *server) PlanResourceChange(ctx context.Context, req *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	if req.TypeName == viewType && s.asApplied(req) {
		return &tfprotov6.PlanResourceChangeResponse{PlannedState: req.PriorState, PlannedPrivate: req.PriorPrivate, PlannedIdentity: req.PriorIdentity}, nil
	}
	return s.frameworkServer.PlanResourceChange(ctx, req)
}

func (s *server) asApplied(req *tfprotov6.PlanResourceChangeRequest) bool {
	if req.Config == nil || req.PriorState == nil || len(req.PriorState.MsgPack) == 0 {
		return false
	}
	sealed := sealOf(req.PriorPrivate)
	return sealed.Plan != "" && sealed.Config == configSeal(s.provider.version, req.Config.MsgPack) && sealed.Plan == planSeal(sealed.Config, req.PriorState.MsgPack)
}

// viewSchema is the version and the type of a view's state.
func (s *server) viewSchema(ctx context.Context) (int64, tftypes.Type) {
	s.once.Do(func() {
		schemas, err := s.GetProviderSchema(ctx, &tfprotov6.GetProviderSchemaRequest{})
		if err == nil && schemas.ResourceSchemas[viewType] != nil {
			s.version, s.viewType = schemas.ResourceSchemas[viewType].Version, schemas.ResourceSchemas[viewType].ValueType()
		}
	})
	return s.version, s.viewType
}

// hasShape tells whether every object in data has the attributes of its type,
// and no others. What the values are is for Terraform to check.
func hasShape(data []byte, t tftypes.Type) bool {
	if bytes.Equal(data, []byte("null")) {
		return true
	}
	switch t := t.(type) {
	case tftypes.Object:
		var attributes map[string]json.RawMessage
		if json.Unmarshal(data, &attributes) != nil || len(attributes) != len(t.AttributeTypes) {
			return false
		}
		for name, value := range attributes {
			if attribute, ok := t.AttributeTypes[name]; !ok || !hasShape(value, attribute) {
				return false
			}
		}
		return true
	case tftypes.Map:
		var elements map[string]json.RawMessage
		if json.Unmarshal(data, &elements) != nil {
			return false
		}
		for _, value := range elements {
			if !hasShape(value, t.ElementType) {
				return false
			}
		}
		return true
	case tftypes.List:
		var elements []json.RawMessage
		if json.Unmarshal(data, &elements) != nil {
			return false
		}
		for _, value := range elements {
			if !hasShape(value, t.ElementType) {
				return false
			}
		}
		return true
	}
	return t.Is(tftypes.String) || t.Is(tftypes.Bool) || t.Is(tftypes.Number)
}
