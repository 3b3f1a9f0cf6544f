package provider

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/list"
	"github.com/hashicorp/terraform-plugin-framework/list/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

var (
	_ list.ListResource              = (*viewListResource)(nil)
	_ list.ListResourceWithConfigure = (*viewListResource)(nil)
)

// viewListResource lists the materialized views of the database for terraform query,
// which generates import blocks and resources.
type viewListResource struct {
	viewResource
}

// NewViewListResource makes the list resource matview_view.
func NewViewListResource() list.ListResource { return &viewListResource{} }

type viewListModel struct {
	Schema types.String `tfsdk:"schema"`
}

func (r *viewListResource) ListResourceConfigSchema(_ context.Context, _ list.ListResourceSchemaRequest, resp *list.ListResourceSchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Lists the materialized views of the database, for `terraform query` of Terraform 1.14 and later. With `-generate-config-out=FILE` that writes an import block and a resource of each.",
		Attributes: map[string]schema.Attribute{
			"schema": schema.StringAttribute{
				MarkdownDescription: "Only the views of this schema, unquoted. Default: those of all schemas.",
				Optional:            true,
				Validators:          []validator.String{schemaName()},
			},
		},
	}
}

func (r *viewListResource) List(ctx context.Context, req list.ListRequest, stream *list.ListResultsStream) {
	const summary = "Cannot list the materialized views"
	var model viewListModel
	diags := req.Config.Get(ctx, &model)
	if diags.HasError() {
		stream.Results = list.ListResultsStreamDiagnostics(diags)
		return
	}
	pool, err := r.client.open(ctx)
	var views map[matview.Name]*matview.View
	if err == nil {
		err = postgres.Retry(ctx, func() (err error) {
			views, err = matview.ReadAll(ctx, pool)
			return err
		})
	}
	if err != nil {
		addError(&diags, summary, err)
		stream.Results = list.ListResultsStreamDiagnostics(diags)
		return
	}
	var names []matview.Name
	for name := range views {
		if model.Schema.IsNull() || name.Schema == model.Schema.ValueString() {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b matview.Name) int { return strings.Compare(a.String(), b.String()) })
	stream.Results = func(push func(list.ListResult) bool) {
		for i, name := range names {
			if req.Limit > 0 && int64(i) >= req.Limit || !push(r.listed(ctx, req, views[name])) {
				return
			}
		}
	}
}

func (r *viewListResource) listed(ctx context.Context, req list.ListRequest, v *matview.View) list.ListResult {
	result := req.NewListResult(ctx)
	result.DisplayName = v.ID
	r.identify(ctx, result.Identity, v.Name, &result.Diagnostics)
	if req.IncludeResource {
		result.Diagnostics.Append(r.describe(ctx, &result, v)...)
	}
	return result
}

// describe sets the resource as an import would.
func (r *viewListResource) describe(ctx context.Context, result *list.ListResult, v *matview.View) diag.Diagnostics {
	diags := setImported(ctx, result.Resource, v.Name)
	var model viewModel
	diags.Append(result.Resource.Get(ctx, &model)...)
	pool, err := r.client.open(ctx)
	if err != nil {
		addError(&diags, "Cannot read materialized view "+v.ID, err)
	}
	if diags.HasError() {
		return diags
	}
	model.read(ctx, pool, v, &viewPrivate{}, &diags)
	if !diags.HasError() {
		diags.Append(result.Resource.Set(ctx, &model)...)
	}
	return diags
}
