package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// An import cannot see the configuration, so it takes all that is there into the
// state: else a configuration of just that would be a change. Where the
// configuration leaves an argument out, what the import found is not managed, and
// no change either. Terraform accepts a planned value for an argument that is left
// out only if the attribute is computed.

// keepFound plans what an import found for a map that is left out, and none where
// there was no import: what an earlier configuration had is no longer managed.
type keepFound struct{}

func (keepFound) Description(context.Context) string {
	return "what an import found stays in the state while the argument is left out"
}

func (m keepFound) MarkdownDescription(ctx context.Context) string { return m.Description(ctx) }

func (keepFound) PlanModifyMap(ctx context.Context, req planmodifier.MapRequest, resp *planmodifier.MapResponse) {
	if !req.ConfigValue.IsNull() {
		return
	}
	resp.PlanValue = types.MapNull(req.ConfigValue.ElementType(ctx))
	if !req.StateValue.IsNull() && recall(ctx, req.Private, &resp.Diagnostics).Found {
		resp.PlanValue = req.StateValue
	}
}

// found is what the state keeps of an import and no configuration manages; null
// where that is nothing.
type found struct{ indexes, parameters types.Map }

// putAside makes of the plan m and the state what they are for a view whose
// indexes and parameters are not managed, where config leaves them out.
func (m *viewModel) putAside(config viewModel, state *viewModel) (f found) {
	if config.Indexes.IsNull() && !m.Indexes.IsNull() {
		f.indexes = m.Indexes
		m.Indexes = types.MapNull(m.Indexes.ElementType(context.Background()))
		state.Indexes = m.Indexes
	}
	if config.StorageParameters.IsNull() && !m.StorageParameters.IsNull() {
		f.parameters = m.StorageParameters
		m.StorageParameters = types.MapNull(types.StringType)
		state.StorageParameters = m.StorageParameters
	}
	return f
}

func (f found) isSomething() bool { return !f.indexes.IsNull() || !f.parameters.IsNull() }

func (f found) putBack(m *viewModel) {
	if !f.indexes.IsNull() {
		m.Indexes = f.indexes
	}
	if !f.parameters.IsNull() {
		m.StorageParameters = f.parameters
	}
}
