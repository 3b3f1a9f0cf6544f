package main

import (
	"github.com/alecthomas/kingpin/v2"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// database is how the flags say to connect: as the provider's arguments of the
// same names do.
type database struct {
	url       string
	pgbouncer bool
	iamAuth   bool
	iam       postgres.IAM
}

func (d *database) addFlags(cli *kingpin.Application) {
	cli.Flag("database.url", "Connection URL, postgres://USER:PASSWORD@HOST:PORT/DATABASE. What it leaves out comes from the PG* variables. A password is better in one of those, in MATVIEW_DATABASE_URL or in a password file: others may list a flag.").
		PlaceHolder("URL").StringVar(&d.url)
	cli.Flag("database.pgbouncer", "A PgBouncer, or a pooler like it, in transaction mode is between: keep no prepared statements, and nothing that a session would have to remember.").
		BoolVar(&d.pgbouncer)
	cli.Flag("database.aws-rds-iam-auth", "Log in to Amazon RDS or Aurora with IAM tokens in place of a password, a new one for each connection.").
		BoolVar(&d.iamAuth)
	cli.Flag("database.aws-rds-iam-region", "Region of the database, for IAM tokens; AWS_REGION by default.").
		PlaceHolder("REGION").StringVar(&d.iam.Region)
	cli.Flag("database.aws-rds-iam-profile", "Profile of the shared AWS configuration to sign IAM tokens with; AWS_PROFILE by default.").
		PlaceHolder("PROFILE").StringVar(&d.iam.Profile)
	cli.Flag("database.aws-rds-iam-provider-role-arn", "Role to assume before an IAM token is signed.").
		PlaceHolder("ARN").StringVar(&d.iam.RoleARN)
	cli.Flag("database.aws-rds-iam-endpoint", "Host and port of the database to sign IAM tokens for, where the connection goes through a tunnel or proxy; those of the connection by default.").
		PlaceHolder("HOST:PORT").StringVar(&d.iam.Endpoint)
}

// config leaves the number of connections to the URL where it is 0.
func (d *database) config(maxConnections int) postgres.Config {
	c := postgres.Config{URL: d.url, ApplicationName: "matview-exporter", MaxConnections: maxConnections, PgBouncer: d.pgbouncer}
	if d.iamAuth {
		c.IAM = &d.iam
	}
	return c
}
