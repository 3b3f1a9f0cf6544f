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
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	urlEnv = "MATVIEW_TEST_DATABASE_URL"

	// namePrefix begins the names of all databases and roles of tests.
	namePrefix     = "matview_test_"
	cleanupTimeout = 30 * time.Second
)

// cluster is the server on which tests get their databases: one of ours, or a
// given one.
type cluster struct {
	server  *Server  // nil for a given one
	url     *url.URL // the superuser's
	version int

	// run begins the names of all databases and roles of this process.
	run  string
	last atomic.Int64

	// admin always keeps a connection with run as its application_name, which tells
	// other processes that the databases of this run are in use.
	admin *pgxpool.Pool

	templates sync.Map // by key: a function that returns a database's name and an error
}

// shared returns the cluster of this test binary, started by the first call.
var shared = sync.OnceValues(func() (*cluster, error) {
	ctx := context.Background()
	if given := os.Getenv(urlEnv); given != "" {
		return useServer(ctx, given)
	}
	server, err := Start(ctx, Options{})
	if err != nil {
		return nil, err
	}
	c, err := openCluster(ctx, server.URL("postgres"))
	if err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	c.server = server
	return c, nil
})

// useServer uses a given server, after dropping what ended processes left there.
func useServer(ctx context.Context, given string) (*cluster, error) {
	c, err := openCluster(ctx, given)
	if err == nil {
		err = c.dropLeftovers(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", urlEnv, err)
	}
	return c, nil
}

func openCluster(ctx context.Context, superuserURL string) (*cluster, error) {
	c := &cluster{run: newRun()}
	var err error
	if c.admin, err = openAdmin(ctx, superuserURL, c.run); err != nil {
		return nil, err
	}
	c.url, err = url.Parse(superuserURL)
	if err != nil || c.url.Scheme != "postgres" && c.url.Scheme != "postgresql" {
		err = errors.New("not a URL such as postgres://user:password@host:5432/postgres")
	} else {
		err = c.check(ctx)
	}
	if err != nil {
		c.admin.Close()
		return nil, err
	}
	return c, nil
}

func newRun() string { return namePrefix + strings.ToLower(rand.Text()[:10]) }

func openAdmin(ctx context.Context, superuserURL, run string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(superuserURL)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.ConnectTimeout = startTimeout
	config.ConnConfig.RuntimeParams["application_name"] = run
	config.MinConns = 1
	return pgxpool.NewWithConfig(ctx, config)
}

func (c *cluster) check(ctx context.Context) error {
	var super bool
	err := c.admin.QueryRow(ctx, `
SELECT current_setting('server_version_num')::int, rolsuper FROM pg_roles WHERE rolname = current_user`).Scan(&c.version, &super)
	switch {
	case err != nil:
		return err
	case c.version < minMajor*10000:
		return fmt.Errorf("the server has version %d, older than %d", c.version, minMajor)
	case !super:
		return errors.New("the user is not a superuser")
	}
	return nil
}

// dropLeftovers drops the databases and roles of runs that are over: no connection
// bears their name.
func (c *cluster) dropLeftovers(ctx context.Context) error {
	for _, leftovers := range []struct{ name, table, drop string }{
		{"datname", "pg_database", "DROP DATABASE IF EXISTS %s WITH (FORCE)"},
		// Nothing in a database belongs to them any more; other privileges may.
		{"rolname", "pg_roles", "DROP OWNED BY %[1]s CASCADE; DROP ROLE %[1]s"},
	} {
		rows, err := c.admin.Query(ctx, fmt.Sprintf(`
SELECT l.%s FROM %s AS l
WHERE l.%[1]s ~ '^matview_test_[a-z2-7]{10}_[0-9]+$'
  AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.application_name = regexp_replace(l.%[1]s, '_[0-9]+$', ''))`,
			leftovers.name, leftovers.table))
		if err != nil {
			return fmt.Errorf("look for what earlier tests left: %w", err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("look for what earlier tests left: %w", err)
		}
		for _, name := range names {
			if err := c.do(ctx, fmt.Sprintf(leftovers.drop, quote(name))); err != nil {
				return fmt.Errorf("drop %s, which an earlier test left: %w", name, err)
			}
		}
	}
	return nil
}

// name returns a new name for a database or role.
func (c *cluster) name() string { return fmt.Sprintf("%s_%d", c.run, c.last.Add(1)) }

// urlFor returns the cluster's URL for a database, and for another user unless
// user is empty.
func (c *cluster) urlFor(database, user, password string) string {
	u := *c.url
	u.Path, u.RawPath = "/"+database, ""
	query := u.Query()
	// pgx, like libpq, prefers these to the URL's own parts.
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

// do runs SQL as superuser, outside of any test database. Several statements are
// one transaction.
func (c *cluster) do(ctx context.Context, sql string) error {
	_, err := c.admin.Exec(ctx, sql)
	return err
}

// create creates a database. The template must have no connections.
func (c *cluster) create(ctx context.Context, template string) (string, error) {
	name := c.name()
	sql := "CREATE DATABASE " + quote(name) + " TEMPLATE " + quote(template)
	if c.version >= 150000 {
		// Copying files takes a checkpoint, which costs nothing without fsync, in
		// place of writing every block to the WAL.
		sql += " STRATEGY file_copy"
	}
	if err := c.do(ctx, sql); err != nil {
		return "", fmt.Errorf("create test database: %w", err)
	}
	return name, nil
}

// template returns the name of the template database for a key, which the first
// caller's setup fills. On a given server it stays until a later run drops the
// leftovers, as nothing says which test is the last.
func (c *cluster) template(ctx context.Context, key string, setup func(context.Context, *pgx.Conn) error) (string, error) {
	once, _ := c.templates.LoadOrStore(key, sync.OnceValues(func() (string, error) { return c.fill(ctx, setup) }))
	return once.(func() (string, error))() //nolint:forcetypeassert // stored above
}

func (c *cluster) fill(ctx context.Context, setup func(context.Context, *pgx.Conn) error) (string, error) {
	name, err := c.create(ctx, "template0")
	if err != nil {
		return "", err
	}
	conn, err := pgx.Connect(ctx, c.urlFor(name, "", ""))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	if err := setup(ctx, conn); err != nil {
		return "", err
	}
	// Any connection would make copies fail.
	return name, errors.Join(conn.Close(ctx), c.do(ctx, "ALTER DATABASE "+quote(name)+" ALLOW_CONNECTIONS false"))
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
