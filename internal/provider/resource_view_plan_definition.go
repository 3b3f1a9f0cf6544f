package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

func (p *viewPlan) planDefinition(ctx context.Context, diags *diag.Diagnostics) {
	if p.exists && p.plan.sameText(p.state) {
		p.normal.Definition = p.state.CanonicalDefinition.ValueString()
		return
	}
	incomparable, unchanged := "the provider's connection settings are known only after apply", false
	if p.pool != nil && p.known(ctx) {
		n, same, err := p.compare(ctx)
		if p.exists && matview.IsLockTimeout(err) {
			// A refresh in progress must neither stop a plan nor make a diff.
			p.plan.Definition, p.normal.Definition = p.state.Definition, p.state.CanonicalDefinition.ValueString()
			p.locked = true
			diags.AddAttributeWarning(path.Root("definition"), "The definition was not compared",
				"What it reads is locked, by a refresh or a change of a table. It is planned as unchanged; plan again when that has ended.")
			return
		}
		var invalid *matview.SQLError
		if p.applied && errors.As(err, &invalid) {
			p.keepDefinition(diags, "The definition is not valid any more", "What it reads has been changed since it was applied:\n"+invalid.Explain())
			return
		}
		p.normal, incomparable = n, n.Incomparable
		if err != nil {
			addPlanError(diags, "Invalid definition", err)
			if diags.HasError() {
				return
			}
			incomparable = "something that it reads is not there yet"
		}
		unchanged = same
	}
	if !p.exists {
		return
	}
	if unchanged {
		if p.plan.ColumnNames.Equal(p.state.ColumnNames) && !p.private.Invalid {
			p.plan.Definition = p.state.Definition
		}
		return
	}
	if p.pool != nil && p.known(ctx) {
		var found diag.Diagnostics
		p.planReplacement(ctx, incomparable, &found)
		if p.applied && found.HasError() {
			first := found.Errors()[0]
			p.keepDefinition(diags, first.Summary(), "Its text is the one that was applied, but means something else since what it reads has been changed.\n"+first.Detail())
			return
		}
		diags.Append(found...)
	}
	p.rebuilt = true
	p.plan.CanonicalDefinition = types.StringUnknown()
	p.plan.OutputColumns = types.ListUnknown(types.ObjectType{AttrTypes: columnTypes})
	p.plan.SupportsConcurrentRefresh = types.BoolUnknown()
}

// keepDefinition plans no change of a definition whose text nobody has changed, with a
// warning: neither a plan nor a destroy may depend on what happens to the tables.
func (p *viewPlan) keepDefinition(diags *diag.Diagnostics, summary, detail string) {
	p.plan.Definition, p.plan.ColumnNames = p.state.Definition, p.state.ColumnNames
	p.normal.Definition = p.state.CanonicalDefinition.ValueString()
	diags.AddAttributeWarning(path.Root("definition"), summary,
		detail+"\n\nThe view stays as it is, and is refreshed. Nothing is planned for it until the text of the definition is changed.")
}

// known reports whether the whole query is.
func (p *viewPlan) known(ctx context.Context) bool {
	return !p.plan.Definition.IsUnknown() && fullyKnown(ctx, p.plan.ColumnNames)
}

// compare has the server parse the planned definition, and reports whether it has
// the meaning of the state's.
func (p *viewPlan) compare(ctx context.Context) (n matview.Normal, same bool, err error) {
	n, err = matview.Normalize(ctx, p.pool, p.plan.Definition.ValueString(), p.plan.columnNames()...)
	if err == nil && p.exists {
		same, err = n.EquivalentTo(ctx, p.pool, p.state.CanonicalDefinition.ValueString())
	}
	return n, same, err
}

// planReplacement says what a changed definition does, and refuses it if something
// depends on the view. It waits for no refresh.
func (p *viewPlan) planReplacement(ctx context.Context, incomparable string, diags *diag.Diagnostics) {
	v, err := matview.Read(ctx, p.pool, p.state.name())
	if err != nil {
		addError(diags, "Cannot read the materialized view", err)
		return
	}
	if v == nil {
		return // a plan without refresh; the apply reports it
	}
	// Terraform plans again while it applies: since the state was written, what the
	// query reads may have been renamed, which the stored query follows.
	if stored, err := matview.Definition(ctx, p.pool, v.OID); err == nil {
		if same, err := p.normal.EquivalentTo(ctx, p.pool, stored); err == nil && same {
			return
		}
	}
	if err := p.normal.RefuseSelfReference(v); err != nil {
		addViewError(diags, "Invalid definition", err)
		return
	}
	if p.plan.OnDefinitionChange.ValueString() == onChangeSwap {
		p.planSwap(ctx, v, incomparable, diags)
		return
	}
	dependents, err := matview.Dependents(ctx, p.pool, v.OID)
	if err != nil {
		addError(diags, "Cannot read what depends on the materialized view", err)
		return
	}
	if len(dependents) > 0 && incomparable == "" {
		diags.AddAttributeError(path.Root("definition"), fmt.Sprintf("Materialized view %s cannot get a new definition", v.ID),
			"For that it is dropped and created again, but other objects use it:\n"+bullets(dependents)+"\n\nDrop them first, and create them again after; or let on_definition_change be \"swap\", which moves plain views along.")
		return
	}
	if !p.canRebuildIndexes(ctx, v, diags) {
		return
	}
	warning := "The new definition means something else than the present one. The view is dropped and created again in one transaction: readers wait until it is filled and indexed, and nothing changes if that fails. Owner, comment, privileges and indexes stay."
	if incomparable != "" {
		warning = "The text of the definition has changed, and whether its meaning has could not be told: " + incomparable + ". " +
			"Unless apply finds them equal, the view is dropped and created again in one transaction: readers wait until it is filled and indexed, and nothing changes if that fails. Owner, comment, privileges and indexes stay."
	}
	if len(dependents) > 0 {
		warning += " That would fail, as other objects use it:\n" + bullets(dependents)
	}
	columns := p.normal.Columns
	if columns == nil {
		columns = v.Columns
	}
	lost, err := matview.Lost(ctx, p.pool, v, columns, !p.plan.Indexes.IsNull())
	if err != nil {
		addError(diags, "Cannot read what belongs to the materialized view", err)
		return
	}
	if len(lost) > 0 {
		warning += " What is lost:\n" + bullets(lost)
	}
	diags.AddAttributeWarning(path.Root("definition"), fmt.Sprintf("Materialized view %s will be rebuilt", v.ID), warning)
}

// planSwap refuses a changed definition if something cannot be carried over to the
// replacement, and says what is lost with dropped columns.
func (p *viewPlan) planSwap(ctx context.Context, v *matview.View, incomparable string, diags *diag.Diagnostics) {
	var dropped []string
	if !p.plan.Indexes.IsNull() {
		// Indexes that stay are checked with the new definition, like the others.
		for _, x := range v.Indexes {
			dropped = append(dropped, x.Name)
		}
	}
	obstacles, err := matview.Obstacles(ctx, p.pool, v, p.normal.Columns, v.Storage.With(p.plan.storage()), dropped)
	if err != nil {
		addError(diags, "Cannot read what depends on the materialized view", err)
		return
	}
	if len(obstacles) > 0 && incomparable == "" {
		diags.AddAttributeError(path.Root("definition"), fmt.Sprintf("Materialized view %s cannot get a new definition", v.ID), obstaclesDetail(obstacles))
		return
	}
	if len(obstacles) == 0 && !p.canRebuildIndexes(ctx, v, diags) {
		return
	}
	var lost []string
	if p.normal.Columns != nil {
		if lost, err = matview.LostColumns(ctx, p.pool, v, p.normal.Columns); err != nil {
			addError(diags, "Cannot read what belongs to the materialized view", err)
			return
		}
	}
	if len(lost) > 0 {
		diags.AddAttributeWarning(path.Root("definition"), fmt.Sprintf("Materialized view %s loses columns", v.ID), "With them goes:\n"+bullets(lost))
	}
	if incomparable != "" {
		diags.AddAttributeWarning(path.Root("definition"), fmt.Sprintf("Materialized view %s may be replaced", v.ID),
			"The text of the definition has changed, and whether its meaning has could not be told: "+incomparable+". Unless apply finds them equal, a new view is built and exchanged for the old one."+failsFor(obstacles))
	}
}

// canRebuildIndexes refuses a changed definition if indexes that are not managed
// cannot be built again, for example because a column is gone or has another type.
func (p *viewPlan) canRebuildIndexes(ctx context.Context, v *matview.View, diags *diag.Diagnostics) bool {
	if !p.plan.Indexes.IsNull() || p.normal.Definition == "" {
		return true
	}
	stored, err := matview.ReadIndexes(ctx, p.pool, v.OID)
	if err != nil {
		return true // for example during a refresh; the apply finds out
	}
	for _, x := range v.Indexes {
		if !x.Valid {
			delete(stored, x.Name)
		}
	}
	for name, x := range stored {
		x.Tablespace = "" // the view's owner needs the privilege, not the session's role
		stored[name] = x
	}
	var indexErr *matview.IndexError
	if _, err = matview.NormalizeIndexes(ctx, p.pool, v.Name, p.normal.Definition, stored); !errors.As(err, &indexErr) {
		return true
	}
	diags.AddAttributeError(path.Root("definition"), fmt.Sprintf("Materialized view %s cannot get a new definition", v.ID),
		fmt.Sprintf("Its indexes are not managed and so are built again, but index %q could not be: %s\n\nDrop it first, or set indexes. Nothing was changed.", indexErr.Index, postgres.Message(indexErr.Err)))
	return false
}

func failsFor(obstacles []string) string {
	if len(obstacles) == 0 {
		return ""
	}
	return " That would fail, since this cannot be carried over:\n" + bullets(obstacles)
}
