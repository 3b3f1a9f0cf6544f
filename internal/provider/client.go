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
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// client is what the provider passes to its resources and data sources. It connects
// when it is first used, so that a configuration can be planned before its database
// exists.
type client struct {
	config    postgres.Config
	logSchema string
	// unknown are the provider's arguments whose values only apply will know.
	unknown []string

	mu            sync.Mutex // guards the pools; use open and openHeartbeat
	pool          *pgxpool.Pool
	heartbeatPool *pgxpool.Pool

	connecting sync.Mutex // guards what follows
	connected  bool
	connectErr error // of the last attempt
	retryAt    time.Time

	catalog catalog
}

// errUnknownConfig means that the provider's own arguments are not known yet.
var errUnknownConfig = errors.New("the provider's connection settings are known only after apply")

// open returns the pool that everything of this provider instance shares.
func (c *client) open(ctx context.Context) (*pgxpool.Pool, error) {
	if len(c.unknown) > 0 {
		// Terraform accepts no unknown value from a data source.
		return nil, fmt.Errorf("%w (%s); a data source is read then if its depends_on names what they come from", errUnknownConfig, strings.Join(c.unknown, ", "))
	}
	pool, err := c.openOnce(ctx, &c.pool, c.config)
	if err == nil {
		err = c.connect(ctx, pool)
	}
	return pool, err
}

// connect makes the first connection. It caches a failure for as long as the attempt
// took: then many resources do not each wait for a server that does not answer, and
// one that refuses connections is asked again at once.
func (c *client) connect(ctx context.Context, pool *pgxpool.Pool) error {
	c.connecting.Lock()
	defer c.connecting.Unlock()
	start := time.Now()
	switch {
	case c.connected:
		return nil
	case start.Before(c.retryAt):
		return c.connectErr
	}
	err := pool.Ping(ctx)
	c.connected = err == nil
	if ctx.Err() == nil {
		c.connectErr, c.retryAt = err, time.Now().Add(time.Since(start))
	}
	return err
}

// openOnce does not cache a failure: the same apply may write a certificate that is
// missing now.
func (c *client) openOnce(ctx context.Context, pool **pgxpool.Pool, config postgres.Config) (_ *pgxpool.Pool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *pool == nil {
		// The pool outlives the request that happens to come first.
		*pool, err = postgres.Open(context.WithoutCancel(ctx), config)
	}
	return *pool, err
}

// openHeartbeat returns a pool of one connection beyond max_connections, for the
// heartbeat of refreshes. Other resources may hold all other connections, and a
// refresh without a heartbeat counts as dead.
func (c *client) openHeartbeat(ctx context.Context) (*pgxpool.Pool, error) {
	config := c.config
	config.MaxConnections = 1
	pool, err := c.openOnce(ctx, &c.heartbeatPool, config)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		return nil, err
	}
	return pool, nil
}

// planPool returns the pool for the plan of a new resource. It is nil if the
// provider's arguments are unknown and, with a warning, if the server cannot be
// reached or refuses the login: the same apply may start the server, or create the
// database, the login or a certificate.
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

// lookUp calls read, which changes nothing, and repeats it where another session
// interfered; see [postgres.Retryable].
func lookUp[T any](ctx context.Context, read func() (T, bool, error)) (value T, found bool, err error) {
	err = postgres.Retry(ctx, func() (err error) {
		value, found, err = read()
		return err
	})
	return value, found, err
}

// withConn runs do on one connection of the pool.
func (c *client) withConn(ctx context.Context, do func(*pgx.Conn) error) error {
	pool, err := c.open(ctx)
	if err != nil {
		return err
	}
	return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return do(conn.Conn()) })
}

// planSchema returns the schema of our tables that a resource is planned for: the
// configured one, otherwise the provider's.
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

// clientFrom returns the client from the data of a Configure request; nil before the
// provider is configured.
func clientFrom(data any, diags *diag.Diagnostics) *client {
	if data == nil {
		return nil
	}
	c, ok := data.(*client)
	if !ok {
		diags.AddError("Unexpected provider data", fmt.Sprintf("Expected *client, got %T. This is a bug in the provider; please report it.", data))
	}
	return c
}
