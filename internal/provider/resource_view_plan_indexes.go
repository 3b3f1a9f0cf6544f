package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

func (p *viewPlan) planIndexes(ctx context.Context, diags *diag.Diagnostics) {
	if p.exists && !p.rebuilt && p.plan.Indexes.Equal(p.state.Indexes) {
		return
	}
	if p.exists && p.plan.Indexes.IsNull() && !p.state.Indexes.IsNull() {
		diags.AddAttributeWarning(path.Root("indexes"), "Indexes are no longer managed",
			"Without the argument Terraform leaves the indexes of the view as they are. To drop them, write indexes = {}.")
		return
	}
	p.keepIndexes(ctx, diags)
	if p.exists && !p.plan.Indexes.Equal(p.state.Indexes) {
		p.plan.SupportsConcurrentRefresh = types.BoolUnknown()
	}
	if p.plan.SupportsConcurrentRefresh.IsUnknown() && !p.concurrent.IsNull() {
		p.plan.SupportsConcurrentRefresh = p.concurrent
	}
}

// keepIndexes checks the indexes whose text has changed, or all of them if the
// definition has, and plans those of the same meaning as unchanged.
func (p *viewPlan) keepIndexes(ctx context.Context, diags *diag.Diagnostics) {
	if p.pool == nil || p.normal.Definition == "" || p.plan.Indexes.IsNull() || !fullyKnown(ctx, p.plan.Indexes) {
		return
	}
	before := p.state.Indexes.Elements()
	planned := p.plan.Indexes.Elements()
	changed := p.plan.indexes(ctx, diags)
	for name, x := range planned {
		if old, ok := before[name]; ok && old.Equal(x) && !p.rebuilt {
			delete(changed, name)
		}
	}
	if diags.HasError() {
		return
	}
	normal := map[string]matview.Index{}
	if len(changed) > 0 {
		var err error
		normal, err = matview.NormalizeIndexes(ctx, p.pool, p.plan.name(), p.normal.Definition, changed)
		if err != nil {
			if attribute, _ := errorAttribute(err); !attribute.Equal(path.Empty()) {
				addPlanError(diags, "Invalid index", err)
			}
			return // the apply compares again
		}
	}
	p.setConcurrent(ctx, planned, normal)
	for name, x := range normal {
		if known, ok := p.private.Indexes[name]; ok && before[name] != nil && known.Digest == indexDigest(x) {
			planned[name] = before[name]
		}
	}
	value, d := types.MapValue(types.ObjectType{AttrTypes: indexTypes}, planned)
	diags.Append(d...)
	p.plan.Indexes = value
}

// setConcurrent sets p.concurrent if it is certain, from the indexes that were just
// checked and those in the catalog that stay.
func (p *viewPlan) setConcurrent(ctx context.Context, planned map[string]attr.Value, normal map[string]matview.Index) {
	known := map[string]bool{}
	if p.exists && !p.rebuilt {
		v, err := matview.Read(ctx, p.pool, p.state.name())
		if err != nil || v == nil {
			return // the apply finds out
		}
		for _, x := range v.Indexes {
			if p.private.Indexes[x.Name].Hash == x.Hash { // else the apply rebuilds it
				known[x.Name] = x.Concurrent
			}
		}
	}
	for name, x := range normal {
		known[name] = x.Concurrent
	}
	usable, certain := false, true
	for name := range planned {
		concurrent, ok := known[name]
		usable, certain = usable || concurrent, certain && ok
	}
	if usable || certain {
		p.concurrent = types.BoolValue(usable)
	}
}
