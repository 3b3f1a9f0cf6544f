package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

var (
	_ resource.ResourceWithConfigure   = (*viewResource)(nil)
	_ resource.ResourceWithModifyPlan  = (*viewResource)(nil)
	_ resource.ResourceWithImportState = (*viewResource)(nil)
	_ resource.ResourceWithIdentity    = (*viewResource)(nil)
)

// materializedView is a [matview.Kind].
const materializedView = "materialized view"

// What on_definition_change may be.
const (
	onChangeSwap     = "swap"
	onChangeRecreate = "recreate"
)

const (
	viewChangeTimeout = time.Hour
	viewDropTimeout   = 10 * time.Minute
)

type viewResource struct {
	client *client
}

// NewViewResource makes the resource matview_view.
func NewViewResource() resource.Resource { return &viewResource{} }

func (r *viewResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_view"
	resp.ResourceBehavior.MutableIdentity = true // a view is renamed in place
}

func (r *viewResource) Configure(_ context.Context, req resource.ConfigureRequest, resp *resource.ConfigureResponse) {
	r.client = clientFrom(req.ProviderData, &resp.Diagnostics)
}

func (r *viewResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan viewModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	timeout, d := plan.Timeouts.Create(ctx, viewChangeTimeout)
	resp.Diagnostics.Append(d...)
	indexes := plan.indexes(ctx, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	memory, err := r.create(ctx, &plan, indexes)
	if err != nil {
		addViewError(&resp.Diagnostics, fmt.Sprintf("Cannot create materialized view %s", plan.name()), err)
		return
	}
	memory.save(ctx, resp.Private, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
	r.identify(ctx, resp.Identity, plan.name(), &resp.Diagnostics)
}

func (r *viewResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var state viewModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	pool, err := r.client.open(ctx)
	if errors.Is(err, errUnknownConfig) && !state.Definition.IsNull() { // it was not just imported
		r.identify(ctx, resp.Identity, state.name(), &resp.Diagnostics)
		return // it stays as it was last seen
	}
	if err != nil {
		addError(&resp.Diagnostics, fmt.Sprintf("Cannot read materialized view %s", state.name()), err)
		return
	}
	v, err := r.client.catalog.read(ctx, pool, state.name())
	if err != nil {
		addError(&resp.Diagnostics, fmt.Sprintf("Cannot read materialized view %s", state.name()), err)
		return
	}
	if v == nil {
		r.identify(ctx, resp.Identity, state.name(), &resp.Diagnostics) // the framework asks for it even now
		resp.State.RemoveResource(ctx)
		return
	}
	memory := recall(ctx, req.Private, &resp.Diagnostics)
	state.bring(ctx, pool, v, &memory, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	memory.save(ctx, resp.Private, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
	r.identify(ctx, resp.Identity, state.name(), &resp.Diagnostics)
}

// bring takes over all that the catalog says.
func (m *viewModel) bring(ctx context.Context, pool *pgxpool.Pool, v *matview.View, memory *viewMemory, diags *diag.Diagnostics) {
	imported := m.Definition.IsNull()
	memory.Found = memory.Found || imported
	if imported && len(v.Indexes) > 0 {
		m.Indexes = indexesValue(nil)
	}
	if imported && len(v.Storage.Parameters) > 0 {
		m.StorageParameters = stringMap(nil) // set fills it
	}
	m.set(v)
	m.compareDefinition(ctx, pool, v, memory, diags)
	m.compareIndexes(ctx, pool, v, memory, diags)
}

func (r *viewResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, state, config viewModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	found := plan.putAside(config, &state)
	timeout, d := plan.Timeouts.Update(ctx, viewChangeTimeout)
	resp.Diagnostics.Append(d...)
	change := viewChange{
		client: r.client, from: state.name(), plan: &plan,
		newText:     !plan.sameText(state),
		indexes:     plan.indexes(ctx, &resp.Diagnostics),
		indexesWere: state.indexes(ctx, &resp.Diagnostics),
		memory:      recall(ctx, req.Private, &resp.Diagnostics),
	}
	if resp.Diagnostics.HasError() {
		return
	}
	if plan.describesSameView(state) {
		// Only what Terraform keeps for itself has changed: wait for nobody.
		found.putBack(&plan)
		resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
		r.identify(ctx, resp.Identity, plan.name(), &resp.Diagnostics)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	memory, behind, err := change.apply(ctx)
	if err != nil {
		addViewError(&resp.Diagnostics, fmt.Sprintf("Cannot change materialized view %s", state.ID.ValueString()), err)
		return
	}
	for _, table := range behind {
		summary, remedy := "Recorded refreshes stay under the old name", "Put the role among the writer_roles of matview_refresh_log."
		if table == matview.ScheduleTable {
			summary, remedy = "The schedule stays under the old name", "Rename it there, or GRANT UPDATE on that table to the role: until then the view is refreshed by no schedule."
		}
		resp.Diagnostics.AddWarning(summary, fmt.Sprintf("The provider's role may not write %s.%s, so its row of the view still has the name %s. %s", r.client.logSchema, table, state.ID.ValueString(), remedy))
	}
	if found.isSomething() {
		// That was not read again: the next plan does.
		found.putBack(&plan)
		memory.Found = true
	}
	memory.save(ctx, resp.Private, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
	r.identify(ctx, resp.Identity, plan.name(), &resp.Diagnostics)
}

func (r *viewResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var state viewModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	timeout, d := state.Timeouts.Delete(ctx, viewDropTimeout)
	resp.Diagnostics.Append(d...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	behind, err := r.drop(ctx, state.name())
	if err != nil {
		addViewError(&resp.Diagnostics, fmt.Sprintf("Cannot destroy materialized view %s", state.ID.ValueString()), err)
		return
	}
	for _, table := range behind {
		resp.Diagnostics.AddWarning("Recorded refreshes stay", fmt.Sprintf("The provider's role may not write %s.%s, so its row of the view %s is still there. "+
			"Put the role among the writer_roles of matview_refresh_log.", r.client.logSchema, table, state.ID.ValueString()))
	}
}

// ImportState takes the name as the log writes it, or an identity. Read brings
// the rest.
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
	resp.Diagnostics.Append(begun(ctx, &resp.State, name)...)
}

// kind is what has the name; "" where that is nothing, or cannot be asked yet.
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

// attributes are a state, or a resource of a list.
type attributes interface {
	SetAttribute(ctx context.Context, path path.Path, value any) diag.Diagnostics
}

// begun is what a view that no configuration has made yet begins with.
func begun(ctx context.Context, view attributes, name matview.Name) (diags diag.Diagnostics) {
	for attribute, value := range map[string]any{
		"id": name.String(), "name": name.Relation, "schema": name.Schema, "with_data": true, "on_definition_change": onChangeSwap,
	} {
		diags.Append(view.SetAttribute(ctx, path.Root(attribute), value)...)
	}
	return diags
}
