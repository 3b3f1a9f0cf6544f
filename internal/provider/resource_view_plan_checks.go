package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

// checkName warns if the view cannot have its planned name yet: the same apply may
// create the schema, or drop or rename what has the name.
func (p *viewPlan) checkName(ctx context.Context, diags *diag.Diagnostics) {
	if p.pool == nil || p.plan.Name.IsUnknown() || p.plan.Schema.IsUnknown() || p.exists && p.plan.name() == p.state.name() {
		return
	}
	name := p.plan.name()
	known, err := matview.HasSchema(ctx, p.pool, name.Schema)
	if err == nil && !known {
		diags.AddAttributeWarning(path.Root("schema"), "Not there yet",
			fmt.Sprintf("There is no schema %q. Unless this apply creates it before it comes to the view (see depends_on), it will fail.", name.Schema))
		return
	}
	kind := ""
	if err == nil {
		kind, err = matview.Kind(ctx, p.pool, name)
	}
	if err != nil {
		addError(diags, "Cannot check the name", err)
		return
	}
	if kind != "" {
		exists := &matview.ExistsError{Name: name, Kind: kind}
		if p.exists {
			exists.Renamed = p.state.name()
		}
		diags.AddAttributeWarning(path.Root("name"), "The name is taken", existsDetail(exists)+"\n\nUnless this apply drops or renames what has the name before it comes to the view (see depends_on), it will fail.")
	}
}

// checkOwner warns if the planned role cannot own the view yet: the same apply may
// create the role, or grant it.
func (p *viewPlan) checkOwner(ctx context.Context, diags *diag.Diagnostics) {
	owner := p.plan.Owner
	if p.pool == nil || owner.IsNull() || owner.IsUnknown() || p.exists && owner.Equal(p.state.Owner) {
		return
	}
	obstacle, err := matview.OwnerObstacle(ctx, p.pool, owner.ValueString(), p.plan.Schema.ValueString())
	if err != nil {
		addError(diags, "Cannot check the owner", err)
		return
	}
	if obstacle != "" {
		diags.AddAttributeWarning(path.Root("owner"), "The role cannot own the view yet", obstacle+". Unless this apply mends that before it comes to the view (see depends_on), it will fail.")
	}
}

// checkRecorder warns if the refresh that fills a new or changed view cannot be recorded.
func (p *viewPlan) checkRecorder(ctx context.Context, logSchema string, diags *diag.Diagnostics) {
	if p.pool == nil || p.exists && !p.rebuilt {
		return
	}
	var missing *migrations.RecorderError
	if err := migrations.CheckRecorder(ctx, p.pool, logSchema); errors.As(err, &missing) {
		diags.AddWarning("The refresh cannot be recorded", missing.Error()+".\n\nWithout that, an apply with this role will fail.")
	}
}

// checkSchedule warns if the view has a schedule of concurrent refreshes, which the
// planned indexes no longer allow. The plan of the schedule sees only indexes that
// exist.
func (p *viewPlan) checkSchedule(ctx context.Context, logSchema string, diags *diag.Diagnostics) {
	supports := p.plan.SupportsConcurrentRefresh
	if p.pool == nil || !p.exists || !p.state.SupportsConcurrentRefresh.ValueBool() || supports.IsUnknown() || supports.ValueBool() {
		return
	}
	row, found, err := store.New(logSchema).ScheduleOf(ctx, p.pool, p.state.ID.ValueString())
	if err != nil || !found || row.Method != string(refresh.Concurrently) { // the tables may not be there
		return
	}
	diags.AddAttributeWarning(path.Root("indexes"), fmt.Sprintf("Materialized view %s can no longer be refreshed concurrently", p.state.ID.ValueString()),
		"It loses its only unique index on plain columns without a condition, and every refresh of its schedule, whose method is \"concurrently\", would fail. Keep such an index, or let method be \"auto\".")
}
