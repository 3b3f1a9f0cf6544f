package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/store"
)

var (
	_ resource.ResourceWithConfigure   = (*viewResource)(nil)
	_ resource.ResourceWithModifyPlan  = (*viewResource)(nil)
	_ resource.ResourceWithImportState = (*viewResource)(nil)
	_ resource.ResourceWithIdentity    = (*viewResource)(nil)
)

// Defaults of timeouts.
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
	private, err := r.create(ctx, &plan, indexes)
	if err != nil {
		addViewError(&resp.Diagnostics, fmt.Sprintf("Cannot create materialized view %s", plan.name()), err)
		return
	}
	private.save(ctx, resp.Private, &resp.Diagnostics)
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
		return // the state stays as it was last read
	}
	var v *matview.View
	if err == nil {
		v, err = r.client.catalog.read(ctx, pool, state.name())
	}
	if err != nil {
		addError(&resp.Diagnostics, fmt.Sprintf("Cannot read materialized view %s", state.name()), err)
		return
	}
	if v == nil {
		r.identify(ctx, resp.Identity, state.name(), &resp.Diagnostics) // the framework requires it even now
		resp.State.RemoveResource(ctx)
		return
	}
	private := readViewPrivate(ctx, req.Private, &resp.Diagnostics)
	state.read(ctx, pool, v, &private, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	private.save(ctx, resp.Private, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
	r.identify(ctx, resp.Identity, state.name(), &resp.Diagnostics)
}

func (r *viewResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, state, config viewModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	unmanaged := plan.takeUnmanaged(config, &state)
	timeout, d := plan.Timeouts.Update(ctx, viewChangeTimeout)
	resp.Diagnostics.Append(d...)
	change := viewChange{
		client: r.client, from: state.name(), plan: &plan,
		newText:     !plan.sameText(state),
		indexes:     plan.indexes(ctx, &resp.Diagnostics),
		indexesWere: state.indexes(ctx, &resp.Diagnostics),
		private:     readViewPrivate(ctx, req.Private, &resp.Diagnostics),
	}
	if resp.Diagnostics.HasError() {
		return
	}
	if !plan.describesSameView(state) { // else there is no lock to wait for
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		private, unwritable, err := change.apply(ctx)
		if err != nil {
			addViewError(&resp.Diagnostics, fmt.Sprintf("Cannot change materialized view %s", state.ID.ValueString()), err)
			return
		}
		r.warnOfOldName(unwritable, state.ID.ValueString(), &resp.Diagnostics)
		private.Imported = !unmanaged.isEmpty()
		private.save(ctx, resp.Private, &resp.Diagnostics)
	}
	unmanaged.restore(&plan)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
	r.identify(ctx, resp.Identity, plan.name(), &resp.Diagnostics)
}

// warnOfOldName warns of our tables whose rows did not follow a rename.
func (r *viewResource) warnOfOldName(unwritable []string, id string, diags *diag.Diagnostics) {
	for _, table := range unwritable {
		summary, remedy := "Recorded refreshes stay under the old name", "Put the role among the writer_roles of matview_refresh_log."
		if table == store.ScheduleTable {
			summary, remedy = "The schedule stays under the old name", "Rename it there, or GRANT UPDATE on that table to the role: until then the view is refreshed by no schedule."
		}
		diags.AddWarning(summary, fmt.Sprintf("The provider's role may not write %s.%s, so its row of the view still has the name %s. %s", r.client.logSchema, table, id, remedy))
	}
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
	unwritable, err := r.drop(ctx, state.name())
	if err != nil {
		addViewError(&resp.Diagnostics, fmt.Sprintf("Cannot destroy materialized view %s", state.ID.ValueString()), err)
		return
	}
	for _, table := range unwritable {
		resp.Diagnostics.AddWarning("Recorded refreshes stay", fmt.Sprintf("The provider's role may not write %s.%s, so its row of the view %s is still there. "+
			"Put the role among the writer_roles of matview_refresh_log.", r.client.logSchema, table, state.ID.ValueString()))
	}
}
