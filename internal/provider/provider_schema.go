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
			"Every argument is optional. What is not set comes from `url`, then from the environment variables, service file and password file that `psql` reads, as [below](#connecting). " +
			"The provider connects when it first needs to, so values known only after apply, such as the host of a server made in the same apply, are no error.",
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
	"sslrootcert": optionalString("Certificates (PEM) of the authorities to trust, for `verify-ca` and `verify-full`: the name of a file, the text itself, or `system`. For Amazon RDS, the bundle that AWS publishes for the region. Default: `PGSSLROOTCERT`, else `~/.postgresql/root.crt` if that is there, else those of the machine."),
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
	"aws_rds_iam_region":            optionalString("Region of the database, for `aws_rds_iam_auth`. Default: `AWS_REGION`, else that of the profile."),
	"aws_rds_iam_profile":           optionalString("Profile of the shared AWS configuration to take credentials from, for `aws_rds_iam_auth`. Default: the SDK's usual search, `AWS_PROFILE` among it."),
	"aws_rds_iam_provider_role_arn": optionalString("Role to assume before a token is signed, for `aws_rds_iam_auth`."),
}

func optionalString(description string) schema.StringAttribute {
	return schema.StringAttribute{MarkdownDescription: description, Optional: true}
}

var clientCertBlock = schema.SingleNestedBlock{
	MarkdownDescription: "The client certificate to log in with, where the server asks for one.",
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
