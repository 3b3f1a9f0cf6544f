package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// ModifyPlan sets what is known before apply, and has the server check what only
// the server can: the SQL of totals, and the settings.
func (r *refreshScheduleResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() || r.client == nil {
		return
	}
	var plan refreshScheduleModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	var state *refreshScheduleModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	plan.LogSchema = r.client.planSchema(ctx, req.Config, path.Root("log_schema"), &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	plan.ID = types.StringUnknown()
	if state != nil {
		if state.View.Equal(plan.View) {
			plan.ID = state.ID
		}
		if !state.LogSchema.Equal(plan.LogSchema) {
			resp.RequiresReplace = append(resp.RequiresReplace, path.Root("log_schema"))
		}
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &plan)...)
	if resp.Diagnostics.HasError() || req.Plan.Raw.Equal(req.State.Raw) {
		return // nothing to check
	}
	r.checkPlan(ctx, plan, state, &resp.Diagnostics)
}

// checkPlan adds no error if it cannot check yet: the same apply may create the
// server or the tables, and checks again.
func (r *refreshScheduleResource) checkPlan(ctx context.Context, plan refreshScheduleModel, state *refreshScheduleModel, diags *diag.Diagnostics) {
	var pool *pgxpool.Pool
	var err error
	if state != nil {
		pool, err = r.client.open(ctx)
	} else {
		pool, err = r.client.planPool(ctx, diags)
	}
	if err != nil && !errors.Is(err, errUnknownConfig) {
		addError(diags, "Cannot check the schedule", err)
	}
	if err != nil || pool == nil {
		return
	}
	plan.checkSettings(ctx, pool, state, diags)
	plan.checkSkipUnchanged(ctx, pool, diags)
	if diags.HasError() || plan.View.IsUnknown() || plan.LogSchema.IsUnknown() {
		return
	}
	target, found, err := resolve(ctx, pool, plan.LogSchema.ValueString(), plan.View.ValueString())
	switch {
	case tablesMissing(err):
		return
	case err != nil:
		addTableError(diags, plan.LogSchema.ValueString(), "Cannot check the schedule", err)
	case !found:
		diags.AddAttributeWarning(path.Root("view"), "The view does not exist yet",
			fmt.Sprintf("There is no materialized view %s in the database so far. If this apply creates it, refer to it (view = matview_view.NAME.id) so that it is created first.", plan.View.ValueString()))
	default:
		plan.checkTotals(ctx, pool, target, state, diags)
		r.checkMethod(ctx, plan, state, pool, target, diags)
	}
}

// checkApply finds the view of the plan and repeats the checks, now that all values
// are known.
func (r *refreshScheduleResource) checkApply(ctx context.Context, plan refreshScheduleModel, state *refreshScheduleModel, diags *diag.Diagnostics) (target store.ScheduleTarget) {
	if diags.HasError() {
		return target
	}
	view := plan.View.ValueString()
	pool, err := r.client.open(ctx)
	if err != nil {
		addError(diags, "Cannot store the schedule of "+view, err)
		return target
	}
	target, found, err := resolve(ctx, pool, plan.LogSchema.ValueString(), view)
	switch {
	case err != nil:
		addTableError(diags, plan.LogSchema.ValueString(), "Cannot store the schedule of "+view, err)
	case !found:
		diags.AddAttributeError(path.Root("view"), "The view does not exist",
			fmt.Sprintf("There is no materialized view %s in the database. Create it first; if a matview_view does, refer to it: view = matview_view.NAME.id.", view))
	default:
		plan.checkSettings(ctx, pool, state, diags)
		plan.checkSkipUnchanged(ctx, pool, diags)
		plan.checkTotals(ctx, pool, target, state, diags)
	}
	return target
}

// resolve is [store.Store.ResolveTarget], repeated where another session interfered.
func resolve(ctx context.Context, pool *pgxpool.Pool, schema, view string) (store.ScheduleTarget, bool, error) {
	return lookUp(ctx, func() (store.ScheduleTarget, bool, error) { return store.New(schema).ResolveTarget(ctx, pool, view) })
}

// checkMethod warns of concurrent refreshes that could only fail.
func (r *refreshScheduleResource) checkMethod(ctx context.Context, plan refreshScheduleModel, state *refreshScheduleModel, pool *pgxpool.Pool, target store.ScheduleTarget, diags *diag.Diagnostics) {
	if plan.Method.ValueString() != string(refresh.Concurrently) || state != nil && state.Method.Equal(plan.Method) && state.View.Equal(plan.View) {
		return
	}
	v, err := r.client.catalog.read(ctx, pool, matview.Name{Schema: target.Schema, Relation: target.Relation})
	if err != nil || v == nil || v.SupportsConcurrentRefresh() {
		return // an error of the catalog is reported by what depends on it
	}
	diags.AddAttributeWarning(path.Root("method"), "The view cannot be refreshed concurrently yet",
		fmt.Sprintf("Materialized view %s has no unique index on plain columns without a condition, and every refresh of this schedule would fail. "+
			"Add one to it (indexes of matview_view), unless this apply does; or let method be \"auto\".", target.ViewName))
}

// checkTotals checks only expressions that are new: to parse one takes a lock on the
// view, which a blocking refresh would hold up.
func (m refreshScheduleModel) checkTotals(ctx context.Context, pool *pgxpool.Pool, target store.ScheduleTarget, state *refreshScheduleModel, diags *diag.Diagnostics) {
	for _, name := range []string{"jobs", "objects"} {
		expression := m.total(name)
		if expression.IsNull() || expression.IsUnknown() {
			continue
		}
		if state != nil && state.ID.ValueString() == target.ViewName && state.total(name).Equal(expression) {
			continue
		}
		err := store.CheckTotal(ctx, pool, target, expression.ValueString())
		attribute := path.Root("totals").AtName(name)
		switch {
		case err == nil:
		case postgres.SQLState(err) == pgerrcode.LockNotAvailable:
			diags.AddAttributeWarning(attribute, "The expression was not checked",
				fmt.Sprintf("%s is being refreshed at the moment. If the expression is wrong, the refresh records null and a warning.", target.ViewName))
		default:
			diags.AddAttributeError(attribute, fmt.Sprintf("Invalid expression totals.%s over %s", name, target.ViewName), postgres.Message(err))
		}
	}
}

func (m refreshScheduleModel) checkSettings(ctx context.Context, pool *pgxpool.Pool, state *refreshScheduleModel, diags *diag.Diagnostics) {
	if state != nil && state.Settings.Equal(m.Settings) {
		return
	}
	for name, element := range m.Settings.Elements() {
		value, ok := element.(types.String)
		if !ok || value.IsUnknown() {
			continue
		}
		attribute := path.Root("settings").AtMapKey(name)
		if value.IsNull() {
			diags.AddAttributeError(attribute, "Invalid setting", "The value is null.")
			continue
		}
		if err := store.CheckSetting(ctx, pool, name, value.ValueString()); err != nil {
			diags.AddAttributeError(attribute, "Invalid setting", postgres.Message(err))
		}
	}
}

// checkSkipUnchanged refuses skip_unchanged on a server that cannot support it, and
// warns if max_staleness leaves no room for a skip.
func (m refreshScheduleModel) checkSkipUnchanged(ctx context.Context, pool *pgxpool.Pool, diags *diag.Diagnostics) {
	if !m.SkipUnchanged.ValueBool() {
		return
	}
	attribute := path.Root("skip_unchanged")
	err := refresh.CheckSkipping(ctx, pool)
	if err != nil {
		diags.AddAttributeError(attribute, "Unchanged views cannot be skipped on this server", postgres.Message(err))
		return
	}
	if m.MaxStaleness.IsNull() || m.MaxStaleness.IsUnknown() || m.Every.IsUnknown() || m.Cron.IsUnknown() || m.Jitter.IsUnknown() {
		return
	}
	row := m.row("")
	parsed, err := schedule.Parse(row.Spec)
	if err != nil {
		return // the validators of the attributes report it
	}
	if needed := parsed.LongestGap() + row.Jitter + refresh.CommitLag; row.MaxStaleness < needed {
		diags.AddAttributeWarning(attribute, "No refresh will be skipped",
			fmt.Sprintf("A skip proves no more than what was committed %s before, and the longest gap of the schedule may pass until the next run, so that max_staleness must be %s or more for a refresh to be skipped. It is %s.",
				refresh.CommitLag, needed, row.MaxStaleness))
	}
}
