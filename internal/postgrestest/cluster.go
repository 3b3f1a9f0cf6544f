package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const urlEnv = "MATVIEW_TEST_DATABASE_URL"

const cleanupTimeout = 30 * time.Second

// cluster is the server on which tests get their databases: one of ours, or a
// given one.
type cluster struct {
	server  *Server  // nil for a given one
	url     *url.URL // the superuser's
	admin   func() string
	version int

	// run begins the names of all databases and roles of this process. A
	// given server may serve several machines, so a process id is not enough.
	run  string
	last atomic.Int64

	// presence is a connection to a given server whose application_name tells
	// other processes that the databases of this run are in use.
	presence *pgx.Conn

	mu        sync.Mutex // guards templates
	templates map[string]*template
}

// shared returns the cluster of this test binary, started at the first call.
var shared = sync.OnceValues(func() (*cluster, error) {
	ctx := context.Background()
	if given := os.Getenv(urlEnv); given != "" {
		return openCluster(ctx, given)
	}
	server, err := Start(ctx, Options{})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(server.URL("postgres"))
	if err != nil {
		return nil, err
	}
	return &cluster{
		server:  server,
		url:     u,
		admin:   func() string { return server.socketURL("postgres") },
		version: server.Version(),
		run:     newRun(),

		templates: map[string]*template{},
	}, nil
})

func newRun() string {
	return fmt.Sprintf("%s%d_%s", namePrefix, os.Getpid(), strings.ToLower(rand.Text()[:6]))
}

// openCluster uses a given server, after dropping what dead processes left
// there.
func openCluster(ctx context.Context, given string) (*cluster, error) {
	u, err := url.Parse(given)
	if err != nil {
		var parseErr *url.Error
		if errors.As(err, &parseErr) {
			err = parseErr.Err // the rest of it shows the password
		}
		return nil, fmt.Errorf("%s: %w", urlEnv, err)
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, fmt.Errorf("%s: not a URL such as postgres://user:password@host:5432/postgres", urlEnv)
	}
	c := &cluster{url: u, admin: u.String, run: newRun(), templates: map[string]*template{}}

	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if c.presence, err = connectPresence(ctx, given, c.run); err != nil {
		return nil, fmt.Errorf("%s: %w", urlEnv, err)
	}
	if c.version, err = checkGiven(ctx, c.presence); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", urlEnv, err), c.presence.Close(ctx))
	}
	if err := dropLeftovers(ctx, c.presence); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", urlEnv, err), c.presence.Close(ctx))
	}
	return c, nil
}

func connectPresence(ctx context.Context, given, run string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(given)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] = run
	return pgx.ConnectConfig(ctx, config)
}

func checkGiven(ctx context.Context, conn *pgx.Conn) (version int, err error) {
	if version, err = serverVersion(ctx, conn); err != nil {
		return 0, err
	}
	if version < minMajor*10000 {
		return 0, fmt.Errorf("the server has version %d, older than %d", version, minMajor)
	}
	var super bool
	err = conn.QueryRow(ctx, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`).Scan(&super)
	if err != nil {
		return 0, fmt.Errorf("look for the rights of the user: %w", err)
	}
	if !super {
		return 0, errors.New("the user is not a superuser")
	}
	return version, nil
}

// name returns a new name for a database or role.
func (c *cluster) name() string {
	return fmt.Sprintf("%s_%d", c.run, c.last.Add(1))
}

// urlFor returns the cluster's URL for a database, and another user unless
// user is empty.
func (c *cluster) urlFor(database, user, password string) string {
	u := *c.url
	u.Path, u.RawPath = "/"+database, ""
	query := u.Query()
	// pgx, as libpq, prefers these to the URL's own parts.
	query.Del("dbname")
	query.Del("database")
	if user != "" {
		u.User = url.UserPassword(user, password)
		query.Del("user")
		query.Del("password")
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// do runs one statement as superuser, outside of any test database.
func (c *cluster) do(ctx context.Context, sql string) error {
	return c.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

func (c *cluster) with(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, c.admin())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return f(conn)
}

// create makes a database. The template must have no connections.
func (c *cluster) create(ctx context.Context, template string) (string, error) {
	name := c.name()
	err := c.do(ctx, "CREATE DATABASE "+quote(name)+" TEMPLATE "+quote(template))
	if err != nil {
		return "", fmt.Errorf("create test database: %w", err)
	}
	return name, nil
}

func (c *cluster) drop(ctx context.Context, database string) error {
	if err := c.do(ctx, "DROP DATABASE IF EXISTS "+quote(database)+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop test database %q: %w", database, err)
	}
	return nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
