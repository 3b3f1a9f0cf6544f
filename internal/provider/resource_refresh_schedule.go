package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework-validators/resourcevalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

var (
	_ resource.ResourceWithConfigure        = (*refreshScheduleResource)(nil)
	_ resource.ResourceWithConfigValidators = (*refreshScheduleResource)(nil)
	_ resource.ResourceWithValidateConfig   = (*refreshScheduleResource)(nil)
	_ resource.ResourceWithModifyPlan       = (*refreshScheduleResource)(nil)
	_ resource.ResourceWithImportState      = (*refreshScheduleResource)(nil)
)

type refreshScheduleResource struct {
	client *client
}

// NewRefreshScheduleResource makes the resource matview_refresh_schedule.
func NewRefreshScheduleResource() resource.Resource { return &refreshScheduleResource{} }

func (r *refreshScheduleResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_refresh_schedule"
}

func (r *refreshScheduleResource) Configure(_ context.Context, req resource.ConfigureRequest, resp *resource.ConfigureResponse) {
	r.client = clientFrom(req.ProviderData, &resp.Diagnostics)
}

func (r *refreshScheduleResource) ConfigValidators(context.Context) []resource.ConfigValidator {
	return []resource.ConfigValidator{resourcevalidator.ExactlyOneOf(path.MatchRoot("cron"), path.MatchRoot("every"), path.MatchRoot("target_staleness"))}
}

// ValidateConfig refuses a cron expression that is invalid in its time zone only.
func (r *refreshScheduleResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	var config refreshScheduleModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	if resp.Diagnostics.HasError() || config.Cron.ValueString() == "" || config.TimeZone.IsUnknown() {
		return
	}
	cron, zone := config.Cron.ValueString(), config.TimeZone.ValueString()
	if schedule.ValidateCron(cron) != nil || schedule.ValidateTimeZone(zone) != nil {
		return // the validators of the attributes report it
	}
	if err := (schedule.Spec{Cron: cron, TimeZone: zone}).Validate(); err != nil {
		resp.Diagnostics.AddAttributeError(path.Root("cron"), "Invalid cron expression", err.Error())
	}
}

func (r *refreshScheduleResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan refreshScheduleModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	target := r.checkApply(ctx, plan, nil, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	err := store.ErrScheduleExists
	if target.StoredAs == "" {
		err = r.client.inTransaction(ctx, func(tx pgx.Tx) error {
			return store.New(plan.LogSchema.ValueString()).InsertSchedule(ctx, tx, plan.row(target.ViewName))
		})
	}
	switch {
	case errors.Is(err, store.ErrScheduleExists):
		resp.Diagnostics.AddAttributeError(path.Root("view"), "The view has a schedule already",
			fmt.Sprintf("To manage it with this resource, import it: terraform import matview_refresh_schedule.NAME '%s'. Nothing was changed.", target.ViewName))
		return
	case err != nil:
		addTableError(&resp.Diagnostics, plan.LogSchema.ValueString(), "Cannot create the schedule of "+target.ViewName, err)
		return
	}
	plan.ID = types.StringValue(target.ViewName)
	scheduledView{target.OID, target.ViewName}.save(ctx, resp.Private, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
}

func (r *refreshScheduleResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var state refreshScheduleModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	pool, err := r.client.open(ctx)
	if resp.Diagnostics.HasError() || errors.Is(err, errUnknownConfig) {
		return // the state stays as it was last read
	}
	if err != nil {
		addError(&resp.Diagnostics, "Cannot read the schedule of "+state.ID.ValueString(), err)
		return
	}
	view, renamed, err := readScheduledView(ctx, req.Private, &resp.Diagnostics).current(ctx, pool, &r.client.catalog, state)
	if err != nil && !tablesMissing(err) {
		addError(&resp.Diagnostics, "Cannot read the view of the schedule of "+state.ID.ValueString(), err)
		return
	}
	if renamed {
		state.ID, state.View = types.StringValue(view.ID), types.StringValue(view.ID)
	}
	row, found, err := lookUp(ctx, func() (store.Schedule, bool, error) {
		return store.New(state.LogSchema.ValueString()).Schedule(ctx, pool, state.ID.ValueString())
	})
	if err != nil && !tablesMissing(err) {
		addError(&resp.Diagnostics, "Cannot read the schedule of "+state.ID.ValueString(), err)
		return
	}
	if !found {
		resp.State.RemoveResource(ctx)
		return
	}
	state.set(row)
	view.save(ctx, resp.Private, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
}

func (r *refreshScheduleResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, state refreshScheduleModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	target := r.checkApply(ctx, plan, &state, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	view := scheduledView{target.OID, target.ViewName}
	if !plan.ID.IsUnknown() { // the same view: its row keeps its name, even one given by hand
		target.ViewName = plan.ID.ValueString()
	}
	id := state.ID.ValueString()
	last := readScheduledView(ctx, req.Private, &resp.Diagnostics)
	if plan.ID.IsUnknown() && last.OID == target.OID && target.StoredAs != "" {
		id = target.StoredAs // the view was renamed, and its row with it
	}
	err := r.client.inTransaction(ctx, func(tx pgx.Tx) error {
		return plan.update(ctx, tx, id, target)
	})
	if errors.Is(err, store.ErrScheduleExists) {
		resp.Diagnostics.AddAttributeError(path.Root("view"), "The view has a schedule already",
			fmt.Sprintf("The schedule of %s cannot go over to %s, which has one of its own. Nothing was changed.", state.ID.ValueString(), target.ViewName))
		return
	}
	if err != nil {
		addTableError(&resp.Diagnostics, plan.LogSchema.ValueString(), "Cannot change the schedule of "+target.ViewName, err)
		return
	}
	plan.ID = types.StringValue(target.ViewName)
	view.save(ctx, resp.Private, &resp.Diagnostics)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
}

// update stores the schedule in place of the row called id.
func (m refreshScheduleModel) update(ctx context.Context, tx pgx.Tx, id string, target store.ScheduleTarget) error {
	if !slices.Contains([]string{"", id, target.ViewName}, target.StoredAs) {
		return store.ErrScheduleExists
	}
	schema, row := m.LogSchema.ValueString(), m.row(target.ViewName)
	err := store.New(schema).UpdateSchedule(ctx, tx, id, row)
	if errors.Is(err, store.ErrScheduleNotFound) && id != target.ViewName {
		// The view was renamed, and its row with it.
		err = store.New(schema).UpdateSchedule(ctx, tx, target.ViewName, row)
	}
	return err
}

func (r *refreshScheduleResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var state refreshScheduleModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	err := r.client.inTransaction(ctx, func(tx pgx.Tx) error {
		return store.New(state.LogSchema.ValueString()).DeleteSchedule(ctx, tx, state.ID.ValueString())
	})
	if err != nil && !tablesMissing(err) {
		addError(&resp.Diagnostics, "Cannot remove the schedule of "+state.ID.ValueString(), err)
	}
}

// ImportState accepts any name of the view, or the name that the schedule of a view
// that no longer exists is stored under.
func (r *refreshScheduleResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	if _, err := matview.ParseName(req.ID); err != nil {
		resp.Diagnostics.AddError("Invalid import ID", "The import ID is the view, such as job_progress or schema.name: "+err.Error())
		return
	}
	pool, err := r.client.open(ctx)
	if err != nil {
		addError(&resp.Diagnostics, "Cannot import the schedule of "+req.ID, err)
		return
	}
	schema := r.client.logSchema
	target, found, err := resolve(ctx, pool, schema, req.ID)
	if err != nil {
		addTableError(&resp.Diagnostics, schema, "Cannot import the schedule of "+req.ID, err)
		return
	}
	id, view := req.ID, req.ID
	if found {
		id, view = cmp.Or(target.StoredAs, target.ViewName), target.ViewName
	}
	for attribute, value := range map[string]string{"id": id, "view": view, "log_schema": schema} {
		resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(attribute), value)...)
	}
}
