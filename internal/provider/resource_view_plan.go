package provider

import (
	"context"
	"errors"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// viewPlan is what one plan is made from, and what it found out.
type viewPlan struct {
	pool        *pgxpool.Pool // nil while the provider's settings are unknown
	plan, state viewModel
	exists      bool // there is a state
	applied     bool // the configured definition is the one that was last applied
	private     viewPrivate
	// normal is the planned definition, as far as it is known.
	normal  matview.Normal
	rebuilt bool // the planned definition differs in meaning from the state's
	locked  bool // a lock prevented the comparison: the definition is planned as unchanged
	// concurrent is what supports_concurrent_refresh will be; null if not known.
	concurrent types.Bool
}

// ModifyPlan has the server check the definition and the indexes, and plans text of
// the same meaning as no change. If no text has changed, it asks the server nothing.
func (r *viewResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if r.client == nil || req.Plan.Raw.IsNull() || req.Plan.Raw.Equal(req.State.Raw) {
		return
	}
	p := viewPlan{exists: !req.State.Raw.IsNull()}
	var config viewModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &p.plan)...)
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	if p.exists {
		resp.Diagnostics.Append(req.State.Get(ctx, &p.state)...)
		p.private = readViewPrivate(ctx, req.Private, &resp.Diagnostics)
	}
	p.applied = p.exists && p.private.Applied == definitionText(p.plan)
	unmanaged := p.plan.takeUnmanaged(config, &p.state)
	if resp.Diagnostics.HasError() || p.unchanged() {
		return
	}
	configured := textDigest(p.plan)
	if !p.exists || !p.keepText(ctx, configured, &resp.Diagnostics) || !p.unchanged() {
		r.planChange(ctx, &p, configured, resp)
		if resp.Diagnostics.HasError() {
			return
		}
	}
	unmanaged.restore(&p.plan)
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &p.plan)...)
}

// planChange has the server check what differs from the state.
func (r *viewResource) planChange(ctx context.Context, p *viewPlan, configured string, resp *resource.ModifyPlanResponse) {
	var err error
	if p.exists {
		p.pool, err = r.client.open(ctx)
	} else {
		p.pool, err = r.client.planPool(ctx, &resp.Diagnostics)
	}
	if err != nil && !errors.Is(err, errUnknownConfig) {
		addError(&resp.Diagnostics, "Cannot check the materialized view", err)
		return
	}
	p.planDefinition(ctx, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	p.planIndexes(ctx, &resp.Diagnostics)
	p.checkName(ctx, &resp.Diagnostics)
	p.checkSchedule(ctx, r.client.logSchema, &resp.Diagnostics)
	p.checkOwner(ctx, &resp.Diagnostics)
	p.checkRecorder(ctx, r.client.logSchema, &resp.Diagnostics)
	if !p.exists {
		return
	}
	p.setEquivalent(ctx, configured, resp)
	if !p.plan.Name.Equal(p.state.Name) || !p.plan.Schema.Equal(p.state.Schema) {
		p.plan.ID = types.StringUnknown()
		if p.pool != nil && !p.plan.Name.IsUnknown() && !p.plan.Schema.IsUnknown() {
			r.identify(ctx, resp.Identity, p.plan.name(), &resp.Diagnostics)
		}
	}
}

func (p *viewPlan) unchanged() bool {
	return p.exists && p.plan.sameText(p.state) && p.plan.Indexes.Equal(p.state.Indexes) &&
		p.plan.Name.Equal(p.state.Name) && p.plan.Schema.Equal(p.state.Schema) && p.plan.Owner.Equal(p.state.Owner)
}

// keepText plans the state's text if the configured one differs from it in layout
// alone, or was found to have the same meaning when a change was last applied. It
// has to at every plan: Terraform writes no state if nothing is planned. It reports
// whether it did.
func (p *viewPlan) keepText(ctx context.Context, configured string, diags *diag.Diagnostics) (kept bool) {
	if configured == p.private.Equivalent && !p.private.Invalid {
		p.plan.Definition, p.plan.Indexes = p.state.Definition, p.state.Indexes
		return true
	}
	definition := p.plan.Definition
	if !definition.IsUnknown() && !definition.Equal(p.state.Definition) && p.plan.ColumnNames.Equal(p.state.ColumnNames) &&
		matview.SameText(definition.ValueString(), p.state.Definition.ValueString()) {
		p.plan.Definition, kept = p.state.Definition, true
	}
	if p.plan.Indexes.Equal(p.state.Indexes) || p.state.Indexes.IsNull() || p.plan.Indexes.IsNull() || !fullyKnown(ctx, p.plan.Indexes) {
		return kept
	}
	before, planned := p.state.Indexes.Elements(), p.plan.Indexes.Elements()
	was := p.state.indexes(ctx, diags)
	for name, x := range p.plan.indexes(ctx, diags) {
		if y, ok := was[name]; ok && !planned[name].Equal(before[name]) && x.SameText(y) {
			planned[name], kept = before[name], true
		}
	}
	value, d := types.MapValue(types.ObjectType{AttrTypes: indexTypes}, planned)
	diags.Append(d...)
	p.plan.Indexes = value
	return kept
}

// setEquivalent stores, with whatever else is planned, that the configured text has
// the meaning of the state's.
func (p *viewPlan) setEquivalent(ctx context.Context, configured string, resp *resource.ModifyPlanResponse) {
	equivalent := ""
	if p.plan.sameText(p.state) && p.plan.Indexes.Equal(p.state.Indexes) && !p.locked {
		equivalent = configured
	}
	if p.private.Equivalent != equivalent {
		p.private.Equivalent = equivalent
		p.private.save(ctx, resp.Private, &resp.Diagnostics)
	}
}

func fullyKnown(ctx context.Context, value attr.Value) bool {
	v, err := value.ToTerraformValue(ctx)
	return err == nil && v.IsFullyKnown()
}

// addPlanError adds a warning instead of an error if something is missing that the
// same apply may create, or is locked.
func addPlanError(diags *diag.Diagnostics, summary string, err error) {
	attribute, sqlErr := errorAttribute(err)
	switch {
	case sqlErr != nil && sqlErr.Missing():
		diags.AddAttributeWarning(attribute, "Not there yet", sqlErr.Explain()+"\n\nIf this apply creates it before the view (see depends_on), all is well; else the apply will fail.")
	case matview.IsLockTimeout(err): // a plan neither waits for a refresh nor fails because of one
		diags.AddAttributeWarning(path.Root("definition"), "Not checked yet", "What it reads is locked, by a refresh or a change of a table. The apply checks it, once that has ended.")
	case sqlErr == nil && attribute.Equal(path.Empty()): // no fault of the text
		addViewError(diags, "Cannot check the materialized view", err)
	default:
		addViewError(diags, summary, err)
	}
}
