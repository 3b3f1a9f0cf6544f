// Package provider is the Terraform provider. The files of a resource share a prefix,
// such as resource_refresh_schedule: its CRUD methods, _schema, _model, _plan.
package provider

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/list"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

const (
	applicationName       = "terraform-provider-matview"
	defaultMaxConnections = 20
)

var (
	_ provider.Provider                  = (*matviewProvider)(nil)
	_ provider.ProviderWithActions       = (*matviewProvider)(nil)
	_ provider.ProviderWithListResources = (*matviewProvider)(nil)
)

type matviewProvider struct {
	version string
}

// New makes the provider; Terraform's logs show the version.
func New(version string) func() provider.Provider {
	return func() provider.Provider { return &matviewProvider{version: version} }
}

type providerModel struct {
	Host           types.String     `tfsdk:"host"`
	Port           types.Int64      `tfsdk:"port"`
	Database       types.String     `tfsdk:"database"`
	Username       types.String     `tfsdk:"username"`
	Password       types.String     `tfsdk:"password"`
	SSLMode        types.String     `tfsdk:"sslmode"`
	SSLRootCert    types.String     `tfsdk:"sslrootcert"`
	ConnectTimeout types.Int64      `tfsdk:"connect_timeout"`
	MaxConnections types.Int64      `tfsdk:"max_connections"`
	URL            types.String     `tfsdk:"url"`
	LogSchema      types.String     `tfsdk:"log_schema"`
	PgBouncer      types.Bool       `tfsdk:"pgbouncer"`
	IAMAuth        types.Bool       `tfsdk:"aws_rds_iam_auth"`
	IAMRegion      types.String     `tfsdk:"aws_rds_iam_region"`
	IAMProfile     types.String     `tfsdk:"aws_rds_iam_profile"`
	IAMRoleARN     types.String     `tfsdk:"aws_rds_iam_provider_role_arn"`
	IAMEndpoint    types.String     `tfsdk:"aws_rds_iam_endpoint"`
	ClientCert     *clientCertModel `tfsdk:"clientcert"`
}

type clientCertModel struct {
	Cert types.String `tfsdk:"cert"`
	Key  types.String `tfsdk:"key"`
}

func (p *matviewProvider) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName = "matview"
	resp.Version = p.version
}

func (p *matviewProvider) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	var model providerModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &model)...)
	if resp.Diagnostics.HasError() {
		return
	}
	c := &client{
		config:    model.config(),
		logSchema: matview.PublicSchema,
		unknown:   unknownAttributes(req.Config),
	}
	if schema := model.LogSchema.ValueString(); schema != "" {
		c.logSchema = schema
	}
	resp.ResourceData, resp.DataSourceData, resp.ActionData, resp.ListResourceData = c, c, c, c
}

func (m providerModel) config() postgres.Config {
	config := postgres.Config{
		URL:             m.URL.ValueString(),
		Host:            m.Host.ValueString(),
		Port:            int(m.Port.ValueInt64()),
		Database:        m.Database.ValueString(),
		Username:        m.Username.ValueString(),
		Password:        m.Password.ValueString(),
		SSLMode:         m.SSLMode.ValueString(),
		SSLRootCert:     m.SSLRootCert.ValueString(),
		ConnectTimeout:  time.Duration(m.ConnectTimeout.ValueInt64()) * time.Second,
		MaxConnections:  int(m.MaxConnections.ValueInt64()),
		ApplicationName: applicationName,
		PgBouncer:       m.PgBouncer.ValueBool(),
	}
	if m.IAMAuth.ValueBool() {
		config.IAM = &postgres.IAM{
			Region: m.IAMRegion.ValueString(), Profile: m.IAMProfile.ValueString(), RoleARN: m.IAMRoleARN.ValueString(), Endpoint: m.IAMEndpoint.ValueString(),
		}
	}
	if m.ClientCert != nil {
		config.SSLCert = m.ClientCert.Cert.ValueString()
		config.SSLKey = m.ClientCert.Key.ValueString()
	}
	if config.MaxConnections == 0 {
		config.MaxConnections = defaultMaxConnections
	}
	return config
}

// unknownAttributes returns the attributes whose values only apply will know, such
// as the host of a server that the same apply creates.
func unknownAttributes(config tfsdk.Config) []string {
	var names []string
	var values map[string]tftypes.Value
	if err := config.Raw.As(&values); err == nil {
		for name, value := range values {
			if !value.IsFullyKnown() {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func (p *matviewProvider) Resources(context.Context) []func() resource.Resource {
	return []func() resource.Resource{
		NewViewResource,
		NewRefreshLogResource,
		NewRefreshScheduleResource,
	}
}

func (p *matviewProvider) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{
		NewFreshnessDataSource,
		NewViewsDataSource,
	}
}

// Actions implements [provider.ProviderWithActions], for Terraform 1.14 and later.
func (p *matviewProvider) Actions(context.Context) []func() action.Action {
	return []func() action.Action{NewRefreshAction}
}

// ListResources implements [provider.ProviderWithListResources], for terraform query
// of Terraform 1.14 and later.
func (p *matviewProvider) ListResources(context.Context) []func() list.ListResource {
	return []func() list.ListResource{NewViewListResource}
}
