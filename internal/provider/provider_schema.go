package provider

import (
	"context"
	"math"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
)

func (p *matviewProvider) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Declares PostgreSQL materialized views, the log of their refreshes and their refresh schedules, and reads how fresh each view is.\n\n" +
			"Every argument is optional. What is not set comes from `url`, then from the environment variables, service file and password file that `psql` reads; see [below](#connecting). " +
			"The provider connects when it first needs to, so values known only after apply, such as the host of a server that the same apply creates, are not an error.",
		Attributes: providerAttributes,
		Blocks:     map[string]schema.Block{"clientcert": clientCertBlock},
	}
}

var providerAttributes = map[string]schema.Attribute{
	"host": optionalString("Host name or address of the server, or of several with commas between, or the folder of its Unix socket. Default: `PGHOST`, else the local socket or `localhost`."),
	"port": schema.Int64Attribute{
		MarkdownDescription: "Port of the server. Default: `PGPORT`, else `5432`.",
		Optional:            true,
		Validators:          []validator.Int64{int64validator.Between(1, math.MaxUint16)},
	},
	"database": optionalString("Database that holds the materialized views. Default: `PGDATABASE`, else the name of the user."),
	"username": optionalString("Role to log in as: the owner of the views, or a member of the owner's role. Default: `PGUSER`, else the name of the operating system's user."),
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
	"sslrootcert": optionalString("Certificates (PEM) of the authorities to trust, for `verify-ca` and `verify-full`: a file name, the PEM text itself, or `system`. For Amazon RDS, the bundle that AWS publishes for the region. Default: `PGSSLROOTCERT`, else `~/.postgresql/root.crt` if it exists, else the system's."),
	"connect_timeout": schema.Int64Attribute{
		MarkdownDescription: "How long to wait for a connection to a host, in seconds. Default: `PGCONNECT_TIMEOUT`, else `30`.",
		Optional:            true,
		Validators:          []validator.Int64{int64validator.Between(1, int64(24*time.Hour/time.Second))},
	},
	"max_connections": schema.Int64Attribute{
		MarkdownDescription: "Maximum number of open connections, at least 1. Each `provider` block has its own, even if two of them name the same server. A connection is opened when it is needed; all `matview_refresh` actions share one more, for the heartbeat of their refreshes. Default: `20`.",
		Optional:            true,
		Validators:          []validator.Int64{int64validator.Between(1, math.MaxInt32)},
	},
	"url": schema.StringAttribute{
		MarkdownDescription: "All of the above in one string: `postgres://user:password@host:5432/database?sslmode=verify-full`, or libpq's list of `keyword=value`. Arguments override the URL. Characters other than letters and digits of a user name or password are percent-encoded in a URL.",
		Optional:            true,
		Sensitive:           true,
	},
	"log_schema": schema.StringAttribute{
		MarkdownDescription: "Schema of the refresh log and the tables that belong to it, for every resource and data source that does not name another. Default: `public`.",
		Optional:            true,
		Validators:          []validator.String{schemaName()},
	},
	"pgbouncer": schema.BoolAttribute{
		MarkdownDescription: "Whether connections pass through PgBouncer, or a similar pooler, in transaction mode: then the provider uses no prepared statements and no other session state. Default: `false`.",
		Optional:            true,
	},
	"aws_rds_iam_auth": schema.BoolAttribute{
		MarkdownDescription: "Whether to log in to Amazon RDS or Aurora with an IAM token instead of `password`. Each connection gets a new token, so that its lifetime of 15 minutes limits nothing. A token is sent only over TLS, and only to one host. Default: `false`.",
		Optional:            true,
	},
	"aws_rds_iam_region":            optionalString("Region of the database, for `aws_rds_iam_auth`. Default: `AWS_REGION`, else that of the profile."),
	"aws_rds_iam_profile":           optionalString("Profile of the shared AWS configuration whose credentials to use, for `aws_rds_iam_auth`. Default: the AWS SDK's credential chain, which includes `AWS_PROFILE`."),
	"aws_rds_iam_provider_role_arn": optionalString("Role to assume before a token is signed, for `aws_rds_iam_auth`."),
	"aws_rds_iam_endpoint":          optionalString("Host and port of the database to sign tokens for, as `HOST:PORT`, if the connection goes through a tunnel or proxy, for `aws_rds_iam_auth`. Default: the host and port that are connected to."),
}

func optionalString(description string) schema.StringAttribute {
	return schema.StringAttribute{MarkdownDescription: description, Optional: true}
}

var clientCertBlock = schema.SingleNestedBlock{
	MarkdownDescription: "The client certificate to log in with, if the server asks for one.",
	Attributes: map[string]schema.Attribute{
		"cert": schema.StringAttribute{
			MarkdownDescription: "The certificate (PEM): the name of a file, or the text itself. Required in this block.",
			Optional:            true,
			Validators:          []validator.String{stringvalidator.AlsoRequires(path.MatchRoot("clientcert").AtName("key"))},
		},
		"key": schema.StringAttribute{
			MarkdownDescription: "The certificate's private key (PEM): the name of a file, or the text itself. Required in this block.",
			Optional:            true,
			Sensitive:           true,
			Validators:          []validator.String{stringvalidator.AlsoRequires(path.MatchRoot("clientcert").AtName("cert"))},
		},
	},
}
