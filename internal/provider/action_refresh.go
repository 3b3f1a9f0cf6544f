package provider

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/action/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

var (
	_ action.Action              = (*refreshAction)(nil)
	_ action.ActionWithConfigure = (*refreshAction)(nil)
)

type refreshAction struct {
	client *client
}

// NewRefreshAction makes the action matview_refresh.
func NewRefreshAction() action.Action { return &refreshAction{} }

type refreshActionModel struct {
	View   types.String `tfsdk:"view"`
	Method types.String `tfsdk:"method"`
}

func (a *refreshAction) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_refresh"
}

func (a *refreshAction) Configure(_ context.Context, req action.ConfigureRequest, resp *action.ConfigureResponse) {
	a.client = clientFrom(req.ProviderData, &resp.Diagnostics)
}

func (a *refreshAction) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Refreshes a materialized view now and records it, as the exporter would: for example after a migration, or by hand with `terraform apply -invoke=action.matview_refresh.NAME`. " +
			"It uses the options of the view's schedule, if there is one (`lock_timeout`, `statement_timeout`, `settings`, `totals`), waits for a refresh of the view that is in progress, and then always refreshes, even with `skip_unchanged`. " +
			"It requires the refresh log in the provider's `log_schema`, and Terraform 1.14 or later.",
		Attributes: map[string]schema.Attribute{
			"view": schema.StringAttribute{
				MarkdownDescription: "The materialized view: `job_progress` or `schema.name`, with double quotes around parts that contain dots or quotes.",
				Required:            true,
				Validators:          []validator.String{viewName()},
			},
			"method": schema.StringAttribute{
				MarkdownDescription: "How to refresh: `auto`, `blocking`, `concurrently` or `swap`, as in `matview_refresh_schedule`. Default: the method of the view's schedule, else `auto`.",
				Optional:            true,
				Validators:          []validator.String{stringvalidator.OneOf(refresh.Methods...)},
			},
		},
	}
}

func (a *refreshAction) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	var model refreshActionModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &model)...)
	if resp.Diagnostics.HasError() {
		return
	}
	name := model.View.ValueString()
	summary := "Cannot refresh " + name
	pool, err := a.client.open(ctx)
	if err != nil {
		addError(&resp.Diagnostics, summary, err)
		return
	}
	view, found, err := lookUp(ctx, func() (freshness.View, bool, error) {
		return freshness.Find(ctx, pool, a.client.logSchema, name)
	})
	switch {
	case err != nil:
		addTableError(&resp.Diagnostics, a.client.logSchema, summary, err)
		return
	case !found || view.OID == nil:
		resp.Diagnostics.AddAttributeError(path.Root("view"), summary, fmt.Sprintf("There is no materialized view %s in the database.", name))
		return
	}
	heartbeat, err := a.client.openHeartbeat(ctx)
	if err != nil {
		addError(&resp.Diagnostics, summary+": there is no second connection, which its heartbeat needs", err)
		return
	}
	resp.SendProgress(action.InvokeProgressEvent{Message: fmt.Sprintf("Refreshing %s", view.Name)})
	result, err := a.refresh(ctx, pool, heartbeat, view.Name, model.Method.ValueString())
	if err != nil {
		addError(&resp.Diagnostics, summary, err)
		return
	}
	if result.Warning != "" {
		resp.Diagnostics.AddWarning("Refreshed "+name+" with a warning", result.Warning)
	}
	resp.SendProgress(action.InvokeProgressEvent{Message: fmt.Sprintf("Refreshed %s in %s, %s: %s",
		result.View, result.Duration.Round(time.Millisecond), result.Method, result.Reason)})
}

func (a *refreshAction) refresh(ctx context.Context, pool, heartbeat *pgxpool.Pool, view, method string) (refresh.Result, error) {
	req, err := refresh.AsScheduled(ctx, pool, a.client.logSchema, view, refresh.TriggerTerraform)
	if err != nil {
		return refresh.Result{}, err
	}
	if method != "" {
		req.Method = refresh.Method(method)
	}
	return refresh.New(pool, a.client.logSchema, "terraform").WithMonitorPool(heartbeat).Refresh(ctx, req)
}
