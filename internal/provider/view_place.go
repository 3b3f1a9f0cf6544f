package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// place warns where the view could not have its planned name as things are: the
// same apply may create the schema, or take the name from what has it.
func (p *viewPlan) place(ctx context.Context, diags *diag.Diagnostics) {
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
