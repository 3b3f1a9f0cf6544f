package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

var (
	_ datasource.DataSource              = (*freshnessDataSource)(nil)
	_ datasource.DataSourceWithConfigure = (*freshnessDataSource)(nil)
)

type freshnessDataSource struct {
	client *client
}

// NewFreshnessDataSource makes the data source matview_freshness.
func NewFreshnessDataSource() datasource.DataSource { return &freshnessDataSource{} }

type freshnessModel struct {
	View types.String `tfsdk:"view"`
	freshnessColumns
}

func (d *freshnessDataSource) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_freshness"
}

func (d *freshnessDataSource) Configure(_ context.Context, req datasource.ConfigureRequest, resp *datasource.ConfigureResponse) {
	d.client = clientFrom(req.ProviderData, &resp.Diagnostics)
}

func (d *freshnessDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	attributes := freshnessAttributes()
	attributes["view"] = schema.StringAttribute{
		MarkdownDescription: "The materialized view: `job_progress` or `schema.name`, with parts that hold dots or quotes in double quotes.",
		Required:            true,
		Validators:          []validator.String{viewName()},
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "How fresh a materialized view is, as `materialized_view_freshness` in the provider's `log_schema` says. It takes no lock on the view, so a refresh in progress does not hold up a plan.\n\n" +
			"What is not known is null, and `stale_reason` says why. Timestamps are RFC 3339 in UTC with milliseconds, rounded down. " +
			"Refer to it from the assertion of a `check` block rather than from an output, which would change at every plan; declared inside that block, it is read again at apply, which `terraform plan -detailed-exitcode` counts as a change.",
		Attributes: attributes,
	}
}

func (d *freshnessDataSource) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var model freshnessModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &model)...)
	if resp.Diagnostics.HasError() {
		return
	}
	name := model.View.ValueString()
	pool, err := d.client.open(ctx)
	if err != nil {
		addError(&resp.Diagnostics, "Cannot read the freshness of "+name, err)
		return
	}
	view, found, err := lookUp(ctx, func() (freshness.View, bool, error) {
		return freshness.Find(ctx, pool, d.client.logSchema, name)
	})
	if err != nil {
		addTableError(&resp.Diagnostics, d.client.logSchema, "Cannot read the freshness of "+name, err)
		return
	}
	if !found {
		resp.Diagnostics.AddAttributeError(path.Root("view"), "Unknown view",
			fmt.Sprintf("There is no materialized view %s in the database, and neither a schedule nor a row in the refresh log in schema %q about one.", name, d.client.logSchema))
		return
	}
	model.set(view)
	resp.Diagnostics.Append(resp.State.Set(ctx, &model)...)
}
