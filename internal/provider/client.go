package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// client is what the provider hands to its resources and data sources. It
// connects when it is first used, so that a configuration can be planned before
// its database exists.
type client struct {
	config    postgres.Config
	logSchema string
	// unknown names the provider attributes whose values only apply will know.
	unknown []string

	mu         sync.Mutex
	pool       *pgxpool.Pool
	besidePool *pgxpool.Pool

	reaching    sync.Mutex
	reached     bool
	unreachable error     // of the last attempt
	believed    time.Time // until when unreachable is

	catalog catalog
}

// errUnknownConfig says that the provider's own settings are not known yet.
var errUnknownConfig = errors.New("the provider's connection settings are known only after apply")

// open is the pool, shared by everything that this provider instance does.
func (c *client) open(ctx context.Context) (*pgxpool.Pool, error) {
	if len(c.unknown) > 0 {
		// Terraform takes no unknown value from a data source.
		return nil, fmt.Errorf("%w (%s); a data source is read then if its depends_on names what they come from", errUnknownConfig, strings.Join(c.unknown, ", "))
	}
	pool, err := c.openOnce(ctx, &c.pool, c.config)
	if err == nil {
		err = c.reach(ctx, pool)
	}
	return pool, err
}

// reach makes the first connection. A failure is believed for as long as it took:
// many resources do not each wait for a server that gives no answer, and one that
// refuses is asked again.
func (c *client) reach(ctx context.Context, pool *pgxpool.Pool) error {
	c.reaching.Lock()
	defer c.reaching.Unlock()
	start := time.Now()
	switch {
	case c.reached:
		return nil
	case start.Before(c.believed):
		return c.unreachable
	}
	err := pool.Ping(ctx)
	c.reached = err == nil
	if ctx.Err() == nil {
		c.unreachable, c.believed = err, time.Now().Add(time.Since(start))
	}
	return err
}

// openOnce does not keep a failure: a certificate that is missing now may be written
// by the same apply.
func (c *client) openOnce(ctx context.Context, pool **pgxpool.Pool, config postgres.Config) (_ *pgxpool.Pool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *pool == nil {
		// The pool outlives the request that happened to come first.
		*pool, err = postgres.Open(context.WithoutCancel(ctx), config)
	}
	return *pool, err
}

// beside is a pool of one connection more than max_connections, for the heartbeat of
// refreshes: the others are held by whatever else Terraform does at the time, and a
// refresh without a heartbeat is taken for dead.
func (c *client) beside(ctx context.Context) (*pgxpool.Pool, error) {
	config := c.config
	config.MaxConnections = 1
	pool, err := c.openOnce(ctx, &c.besidePool, config)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		return nil, err
	}
	return pool, nil
}

// planPool is the pool for planning what is not there yet. It is nil where the
// provider's settings are unknown and, with a warning, where the server does not
// let us in: the same apply may start it, or make the database, the login or a
// certificate.
func (c *client) planPool(ctx context.Context, diags *diag.Diagnostics) (*pgxpool.Pool, error) {
	pool, err := c.open(ctx)
	switch {
	case errors.Is(err, errUnknownConfig):
		return nil, nil
	case postgres.Unreachable(err):
		diags.AddWarning("Not checked: the server cannot be reached yet",
			postgres.Message(err)+"\n\nIf this apply starts the server, or makes the login or the certificate, before it comes to this (see depends_on), all is well; else the apply will fail.")
		return nil, nil
	}
	return pool, err
}

// retryRead calls read, which changes nothing, and again where another session was in
// its way; see [postgres.Retryable].
func retryRead[T any](ctx context.Context, read func() (T, bool, error)) (value T, found bool, err error) {
	err = postgres.Retry(ctx, func() (err error) {
		value, found, err = read()
		return err
	})
	return value, found, err
}

// withConn runs do on a connection of the pool, for what is more than a statement.
func (c *client) withConn(ctx context.Context, do func(*pgx.Conn) error) error {
	pool, err := c.open(ctx)
	if err != nil {
		return err
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return do(conn.Conn())
}

// planSchema is the schema of our tables that a resource is planned for: what
// its configuration says, else the provider's.
func (c *client) planSchema(ctx context.Context, config tfsdk.Config, attribute path.Path, diags *diag.Diagnostics) types.String {
	var configured types.String
	diags.Append(config.GetAttribute(ctx, attribute, &configured)...)
	switch {
	case !configured.IsNull():
		return configured
	case slices.Contains(c.unknown, "log_schema"):
		return types.StringUnknown()
	}
	return types.StringValue(c.logSchema)
}

// clientFrom takes the client out of what Configure was given; nil before the
// provider is configured.
func clientFrom(data any, diags *diag.Diagnostics) *client {
	if data == nil {
		return nil
	}
	c, ok := data.(*client)
	if !ok {
		diags.AddError("Provider data of the wrong type", fmt.Sprintf("Got %T. This is a bug of the provider; please report it.", data))
		return nil
	}
	return c
}

// addError reports err in one line, with what was being done as the summary.
func addError(diags *diag.Diagnostics, summary string, err error) {
	diags.AddError(summary, postgres.Message(err))
}

// tablesMissing reports whether err says that our tables are not installed.
func tablesMissing(err error) bool {
	state := postgres.SQLState(err)
	return state == pgerrcode.UndefinedTable || state == pgerrcode.InvalidSchemaName
}

// addTableError is [addError] for what needs our tables: without them it says
// what makes them.
func addTableError(diags *diag.Diagnostics, schema, summary string, err error) {
	if tablesMissing(err) {
		diags.AddError(summary, fmt.Sprintf("The tables of matview are not installed, or not complete, in schema %q. "+
			"Create a matview_refresh_log there first (and name it in depends_on), or set log_schema to where they are.", schema))
		return
	}
	if postgres.SQLState(err) == pgerrcode.InsufficientPrivilege {
		diags.AddError(summary, fmt.Sprintf("%s\n\nTerraform's role needs to own the tables of matview in schema %q, or to be a member of the role that does. "+
			"To read freshness, it is enough to be one of reader_roles of matview_refresh_log.", postgres.Message(err), schema))
		return
	}
	addError(diags, summary, err)
}
