package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Database is a database of one test's own, on the server that the test binary
// shares. It is dropped after the test, and with it any connection left.
type Database struct {
	Name string

	cluster *cluster
	mu      sync.Mutex
	roles   []string // dropped after the database, and so after all they own in it
}

// New returns a new empty database for this test on the shared server.
func New(t testing.TB) *Database {
	t.Helper()
	return sharedCluster(t).database(t, "template0")
}

// NewFrom returns a copy of a template database, which setup fills once per key
// and test binary. That is faster than repeating a long setup. Setup must close
// other connections that it makes, and create no roles: these belong to the
// server, and nothing would drop them.
func NewFrom(t testing.TB, key string, setup func(context.Context, *pgx.Conn) error) *Database {
	t.Helper()
	c := sharedCluster(t)
	name, err := c.template(t.Context(), key, setup)
	if err != nil {
		t.Fatalf("postgrestest: template %q: %v", key, err)
	}
	return c.database(t, name)
}

// Version returns the shared server's server_version_num, such as 150018.
func Version(t testing.TB) int {
	t.Helper()
	return sharedCluster(t).version
}

func sharedCluster(t testing.TB) *cluster {
	t.Helper()
	c, err := shared()
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	return c
}

func (c *cluster) database(t testing.TB, template string) *Database {
	t.Helper()
	name, err := c.create(t.Context(), template)
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	d := &Database{Name: name, cluster: c}
	t.Cleanup(func() { d.drop(t) })
	return d
}

// cleanupContext is for what runs after a test, when the test's context has ended.
func cleanupContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), cleanupTimeout)
}

func (d *Database) drop(t testing.TB) {
	t.Helper()
	ctx, cancel := cleanupContext()
	defer cancel()
	err := d.cluster.do(ctx, "DROP DATABASE IF EXISTS "+quote(d.Name)+" WITH (FORCE)")
	if errors.Is(err, context.DeadlineExceeded) {
		// It waits for every backend of the server, also for one whose client another test
		// has stopped. What is left goes with the server.
		t.Logf("postgrestest: drop database %s: %v", d.Name, err)
		return
	}
	if err != nil {
		t.Errorf("postgrestest: drop database %s: %v", d.Name, err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, role := range d.roles {
		// Privileges on shared objects may be left. A role may also own something in
		// another test's database, which is not worth a failure: it goes with the
		// server, or with the leftovers.
		if err := d.cluster.do(ctx, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role); err != nil {
			t.Logf("postgrestest: drop role %s: %v", role, err)
		}
	}
}

// URL returns the superuser's URL for the database.
func (d *Database) URL() string { return d.cluster.urlFor(d.Name, "", "") }

// URLFor returns the URL for another user, such as one made with Role.
func (d *Database) URLFor(user, password string) string {
	return d.cluster.urlFor(d.Name, user, password)
}

// Server returns the server of the database, or nil if it is a given one
// (MATVIEW_TEST_DATABASE_URL), which is not ours to stop. Other tests use it,
// too; to crash a server, [Start] another one.
func (d *Database) Server() *Server { return d.cluster.server }

// Connect returns a connection of the superuser, closed after the test.
func (d *Database) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.URL())
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext()
		defer cancel()
		_ = conn.Close(ctx) // it may be broken on purpose
	})
	return conn
}

// Pool returns a pool of superuser connections, closed after the test.
func (d *Database) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), d.URL())
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	t.Cleanup(pool.Close) // waits until every connection is released
	return pool
}

// Exec runs SQL as superuser, on a connection of its own. Without arguments it may
// be several statements, which are one transaction.
func (d *Database) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // which is over in t.Cleanup
	conn, err := pgx.Connect(ctx, d.URL())
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("postgrestest: %v\n%s", err, sql)
	}
}

// Role creates a role that can log in, with options such as "CREATEROLE" or
// "IN ROLE pg_monitor". It is dropped after the database, so it may own objects
// there.
func (d *Database) Role(t testing.TB, options string) (name, password string) {
	t.Helper()
	name, password = d.cluster.name(), rand.Text()
	// rand.Text has nothing that needs quoting.
	sql := fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' %s", quote(name), password, options)
	if err := d.cluster.do(t.Context(), sql); err != nil {
		t.Fatalf("postgrestest: create role with options %q: %v", options, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.roles = append(d.roles, name)
	return name, password
}
