// Package provider is the Terraform provider: one file a resource or data
// source, each a thin layer over the packages that know PostgreSQL.
package provider

import (
	"context"
	"math"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/list"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

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

func (p *matviewProvider) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Declares PostgreSQL materialized views, the log of their refreshes and their refresh schedules, and reads how fresh each view is.\n\n" +
			"Every argument is optional. What is not set comes from `url`, then from the environment variables, service file and password file that `psql` reads, as [below](#connecting). " +
			"The provider connects when it first needs to, so values known only after apply, such as the host of a server made in the same apply, are no error.",
		Attributes: map[string]schema.Attribute{
			"host": schema.StringAttribute{
				MarkdownDescription: "Host name or address of the server, or of several with commas between, or the folder of its Unix socket. Default: `PGHOST`, else the local socket or `localhost`.",
				Optional:            true,
			},
			"port": schema.Int64Attribute{
				MarkdownDescription: "Port of the server. Default: `PGPORT`, else `5432`.",
				Optional:            true,
				Validators:          []validator.Int64{int64validator.Between(1, math.MaxUint16)},
			},
			"database": schema.StringAttribute{
				MarkdownDescription: "Database that holds the materialized views. Default: `PGDATABASE`, else the name of the user.",
				Optional:            true,
			},
			"username": schema.StringAttribute{
				MarkdownDescription: "Role to log in as: the owner of the views, or a member of the owner's role. Default: `PGUSER`, else the name of the operating system's user.",
				Optional:            true,
			},
			"password": schema.StringAttribute{
				MarkdownDescription: "Password of `username`. It may be an ephemeral value; it is in no state and in no error message. Default: `PGPASSWORD`, else the password file (`PGPASSFILE`, `~/.pgpass`).",
				Optional:            true,
				Sensitive:           true,
			},
			"sslmode": schema.StringAttribute{
				MarkdownDescription: "How to use TLS: `disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`, as in libpq. Default: `PGSSLMODE`, else `prefer`.",
				Optional:            true,
				Validators:          []validator.String{stringvalidator.OneOf("disable", "allow", "prefer", "require", "verify-ca", "verify-full")},
			},
			"sslrootcert": schema.StringAttribute{
				MarkdownDescription: "Certificates (PEM) of the authorities to trust, for `verify-ca` and `verify-full`: the name of a file, the text itself, or `system`. For Amazon RDS, the bundle that AWS publishes for the region. Default: `PGSSLROOTCERT`, else `~/.postgresql/root.crt` if that is there, else those of the machine.",
				Optional:            true,
			},
			"connect_timeout": schema.Int64Attribute{
				MarkdownDescription: "How long to wait for a connection to a host, in seconds. Default: `PGCONNECT_TIMEOUT`, else `30`.",
				Optional:            true,
				Validators:          []validator.Int64{int64validator.Between(1, int64(24*time.Hour/time.Second))},
			},
			"max_connections": schema.Int64Attribute{
				MarkdownDescription: "Most connections to hold at a time, from 1. Each `provider` block has its own, also where two of them name the same server. A connection is opened when it is needed; the actions of `matview_refresh` share one more, for the heartbeat of their refreshes. Default: `20`.",
				Optional:            true,
				Validators:          []validator.Int64{int64validator.Between(1, math.MaxInt32)},
			},
			"url": schema.StringAttribute{
				MarkdownDescription: "All of the above in one: `postgres://user:password@host:5432/database?sslmode=verify-full`, or libpq's list of `keyword=value`. An argument that is set wins over what the URL says. Characters other than letters and digits of a user name or password are percent-encoded in a URL.",
				Optional:            true,
				Sensitive:           true,
			},
			"log_schema": schema.StringAttribute{
				MarkdownDescription: "Schema of the refresh log and of the tables beside it, for every resource and data source that does not say otherwise. Default: `public`.",
				Optional:            true,
				Validators:          []validator.String{schemaName()},
			},
			"pgbouncer": schema.BoolAttribute{
				MarkdownDescription: "Whether a PgBouncer, or a pooler like it, in transaction mode is between: no prepared statements are kept then, and nothing that a session would have to remember. Default: `false`.",
				Optional:            true,
			},
			"aws_rds_iam_auth": schema.BoolAttribute{
				MarkdownDescription: "Whether to log in to Amazon RDS or Aurora with an IAM token in place of `password`. Each connection gets a new one, so that the 15 minutes that one lives limit nothing. It is sent over TLS only, and to one host. Default: `false`.",
				Optional:            true,
			},
			"aws_rds_iam_region": schema.StringAttribute{
				MarkdownDescription: "Region of the database, for `aws_rds_iam_auth`. Default: `AWS_REGION`, else that of the profile.",
				Optional:            true,
			},
			"aws_rds_iam_profile": schema.StringAttribute{
				MarkdownDescription: "Profile of the shared AWS configuration to take credentials from, for `aws_rds_iam_auth`. Default: the SDK's usual search, `AWS_PROFILE` among it.",
				Optional:            true,
			},
			"aws_rds_iam_provider_role_arn": schema.StringAttribute{
				MarkdownDescription: "Role to assume before a token is signed, for `aws_rds_iam_auth`.",
				Optional:            true,
			},
		},
		Blocks: map[string]schema.Block{
			"clientcert": schema.SingleNestedBlock{
				MarkdownDescription: "The client certificate to log in with, where the server asks for one.",
				Attributes: map[string]schema.Attribute{
					"cert": schema.StringAttribute{
						MarkdownDescription: "The certificate (PEM): the name of a file, or the text itself. Required in this block.",
						Optional:            true,
						Validators:          []validator.String{stringvalidator.AlsoRequires(keyOfClientCert)},
					},
					"key": schema.StringAttribute{
						MarkdownDescription: "The certificate's private key (PEM): the name of a file, or the text itself. Required in this block.",
						Optional:            true,
						Sensitive:           true,
						Validators:          []validator.String{stringvalidator.AlsoRequires(certOfClientCert)},
					},
				},
			},
		},
	}
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
		unknown:   model.unknown(),
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
		config.IAM = &postgres.IAM{Region: m.IAMRegion.ValueString(), Profile: m.IAMProfile.ValueString(), RoleARN: m.IAMRoleARN.ValueString()}
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

// unknown are the attributes whose values only apply will know, as in the
// database that the same apply makes.
func (m providerModel) unknown() []string {
	var names []string
	for _, a := range []struct {
		name  string
		value attr.Value
	}{
		{"host", m.Host},
		{"port", m.Port},
		{"database", m.Database},
		{"username", m.Username},
		{"password", m.Password},
		{"sslmode", m.SSLMode},
		{"sslrootcert", m.SSLRootCert},
		{"connect_timeout", m.ConnectTimeout},
		{"max_connections", m.MaxConnections},
		{"url", m.URL},
		{"log_schema", m.LogSchema},
		{"pgbouncer", m.PgBouncer},
		{"aws_rds_iam_auth", m.IAMAuth},
		{"aws_rds_iam_region", m.IAMRegion},
		{"aws_rds_iam_profile", m.IAMProfile},
		{"aws_rds_iam_provider_role_arn", m.IAMRoleARN},
	} {
		if a.value.IsUnknown() {
			names = append(names, a.name)
		}
	}
	if m.ClientCert != nil && (m.ClientCert.Cert.IsUnknown() || m.ClientCert.Key.IsUnknown()) {
		names = append(names, "clientcert")
	}
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

// Actions implements [provider.ProviderWithActions]: Terraform 1.14 and later
// asks for them.
func (p *matviewProvider) Actions(context.Context) []func() action.Action {
	return []func() action.Action{NewRefreshAction}
}

// ListResources implements [provider.ProviderWithListResources]: terraform query,
// of 1.14 and later, asks for them.
func (p *matviewProvider) ListResources(context.Context) []func() list.ListResource {
	return []func() list.ListResource{NewViewListResource}
}
