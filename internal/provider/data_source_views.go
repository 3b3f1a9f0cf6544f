package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

var (
	_ datasource.DataSource              = (*viewsDataSource)(nil)
	_ datasource.DataSourceWithConfigure = (*viewsDataSource)(nil)
)

type viewsDataSource struct {
	client *client
}

// NewViewsDataSource makes the data source matview_views.
func NewViewsDataSource() datasource.DataSource { return &viewsDataSource{} }

type viewsModel struct {
	Schema    types.String                `tfsdk:"schema"`
	OnlyStale types.Bool                  `tfsdk:"only_stale"`
	Views     map[string]freshnessColumns `tfsdk:"views"`
}

func (d *viewsDataSource) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_views"
}

func (d *viewsDataSource) Configure(_ context.Context, req datasource.ConfigureRequest, resp *datasource.ConfigureResponse) {
	d.client = clientFrom(req.ProviderData, &resp.Diagnostics)
}

func (d *viewsDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "How fresh every materialized view of the database is, as `materialized_view_freshness` in the provider's `log_schema` says, and every row of the log or of a schedule whose view is gone. It takes no lock on any view, so a refresh in progress does not hold up a plan.\n\n" +
			"Its values change all the time: refer to it from the assertion of a `check` block rather than from an output. " +
			"As the keys of a `for_each` they are known only after apply where the data source waits for something in the same apply; build such a map from the resources instead.",
		Attributes: map[string]schema.Attribute{
			"schema": schema.StringAttribute{
				MarkdownDescription: "Only the views of this schema, unquoted. Default: those of all schemas.",
				Optional:            true,
				Validators:          []validator.String{schemaName()},
			},
			"only_stale": schema.BoolAttribute{
				MarkdownDescription: "Only the views that are stale: too old, or of an age that cannot be known. Views that nobody asked about, with neither a schedule nor a row in the log, are not. Default: `false`.",
				Optional:            true,
			},
			"views": schema.MapNestedAttribute{
				MarkdownDescription: "The views by `view_name`. What is not known is null, and `stale_reason` says why. Timestamps are RFC 3339 in UTC with milliseconds, rounded down.",
				Computed:            true,
				NestedObject:        schema.NestedAttributeObject{Attributes: freshnessAttributes()},
			},
		},
	}
}

func (d *viewsDataSource) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	const summary = "Cannot read the freshness of the views"
	var model viewsModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &model)...)
	if resp.Diagnostics.HasError() {
		return
	}
	pool, err := d.client.open(ctx)
	if err != nil {
		addError(&resp.Diagnostics, summary, err)
		return
	}
	var views []freshness.View
	err = postgres.Retry(ctx, func() (err error) {
		views, err = freshness.All(ctx, pool, d.client.logSchema)
		return err
	})
	if err != nil {
		addTableError(&resp.Diagnostics, d.client.logSchema, summary, err)
		return
	}
	model.Views = map[string]freshnessColumns{}
	for _, v := range views {
		if !model.wants(v) {
			continue
		}
		var columns freshnessColumns
		columns.set(v)
		model.Views[v.Name] = columns
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &model)...)
}

func (m viewsModel) wants(v freshness.View) bool {
	if m.OnlyStale.ValueBool() && (v.IsStale == nil || !*v.IsStale) {
		return false
	}
	return m.Schema.IsNull() || schemaOf(v) == m.Schema.ValueString()
}

// schemaOf is "" for a row whose view is gone and whose name does not tell.
func schemaOf(v freshness.View) string {
	if v.Schema != nil {
		return *v.Schema
	}
	name, err := matview.ParseName(v.Name)
	if err != nil {
		return ""
	}
	return name.Schema
}
