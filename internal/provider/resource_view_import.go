package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// materializedView is a kind of relation as [matview.Kind] returns it.
const materializedView = "materialized view"

// ImportState accepts the name as the log has it, or an identity. Read reads the
// rest.
func (r *viewResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	name, err := matview.ParseName(req.ID)
	if req.ID == "" && req.Identity != nil && !req.Identity.Raw.IsFullyNull() {
		name, err = r.identified(ctx, req.Identity, &resp.Diagnostics), nil
	}
	if resp.Diagnostics.HasError() {
		return
	}
	if err != nil {
		resp.Diagnostics.AddError("Invalid import ID", err.Error()+"\n\nThe ID is the name of the view, or schema.name; put double quotes around a part that holds a dot, as in SQL.")
		return
	}
	if kind := r.kind(ctx, name, &resp.Diagnostics); kind != "" && kind != materializedView {
		resp.Diagnostics.AddError(fmt.Sprintf("Cannot import materialized view %s", name), fmt.Sprintf("The name is that of something else: %s.", kind))
	}
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(setImported(ctx, &resp.State, name)...)
}

// kind is the kind of relation that has the name; "" if there is none, or if the
// provider's settings are unknown.
func (r *viewResource) kind(ctx context.Context, name matview.Name, diags *diag.Diagnostics) (kind string) {
	pool, err := r.client.open(ctx)
	if err == nil {
		err = postgres.Retry(ctx, func() (err error) {
			kind, err = matview.Kind(ctx, pool, name)
			return err
		})
	}
	if err != nil && !errors.Is(err, errUnknownConfig) {
		addError(diags, fmt.Sprintf("Cannot import materialized view %s", name), err)
	}
	return kind
}

// attributeSetter is a state, or a resource of a list.
type attributeSetter interface {
	SetAttribute(ctx context.Context, path path.Path, value any) diag.Diagnostics
}

// setImported sets what is known of an imported view before it is read.
func setImported(ctx context.Context, view attributeSetter, name matview.Name) (diags diag.Diagnostics) {
	for attribute, value := range map[string]any{
		"id": name.String(), "name": name.Relation, "schema": name.Schema, "with_data": true, "on_definition_change": onChangeSwap,
	} {
		diags.Append(view.SetAttribute(ctx, path.Root(attribute), value)...)
	}
	return diags
}

// An import cannot see the configuration, so it puts the indexes and storage
// parameters that it finds into the state: otherwise a configuration of exactly
// those would be a change. If the configuration leaves an argument out, what was
// imported is not managed, and no change either. Terraform accepts a planned value
// for an argument that is left out only if the attribute is computed.

// keepImported plans the imported value of a map that the configuration leaves
// out. If the view was not imported, it plans null: what an earlier configuration
// had is no longer managed.
type keepImported struct{}

func (keepImported) Description(context.Context) string {
	return "what was imported stays in the state while the argument is left out"
}

func (m keepImported) MarkdownDescription(ctx context.Context) string { return m.Description(ctx) }

func (keepImported) PlanModifyMap(ctx context.Context, req planmodifier.MapRequest, resp *planmodifier.MapResponse) {
	if !req.ConfigValue.IsNull() {
		return
	}
	resp.PlanValue = types.MapNull(req.ConfigValue.ElementType(ctx))
	if !req.StateValue.IsNull() && readViewPrivate(ctx, req.Private, &resp.Diagnostics).Imported {
		resp.PlanValue = req.StateValue
	}
}

// unmanaged is what the state has of an import and no configuration manages;
// null where there is none.
type unmanaged struct{ indexes, parameters types.Map }

// takeUnmanaged sets the indexes and storage parameters that config leaves out to
// null in the plan m and in the state, and returns them.
func (m *viewModel) takeUnmanaged(config viewModel, state *viewModel) (u unmanaged) {
	if config.Indexes.IsNull() && !m.Indexes.IsNull() {
		u.indexes = m.Indexes
		m.Indexes = types.MapNull(m.Indexes.ElementType(context.Background()))
		state.Indexes = m.Indexes
	}
	if config.StorageParameters.IsNull() && !m.StorageParameters.IsNull() {
		u.parameters = m.StorageParameters
		m.StorageParameters = types.MapNull(types.StringType)
		state.StorageParameters = m.StorageParameters
	}
	return u
}

func (u unmanaged) isEmpty() bool { return u.indexes.IsNull() && u.parameters.IsNull() }

func (u unmanaged) restore(m *viewModel) {
	if !u.indexes.IsNull() {
		m.Indexes = u.indexes
	}
	if !u.parameters.IsNull() {
		m.StorageParameters = u.parameters
	}
}
