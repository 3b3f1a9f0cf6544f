package postgrestest

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"
)

// template is a database that is copied, and never connected to once it is filled.
type template struct {
	once sync.Once
	name string
	err  error
}

// template returns the name of the template database for a key, which the first
// caller's setup fills. On a given server it stays until a later run drops the
// leftovers, as nothing says which test is the last.
func (c *cluster) template(ctx context.Context, key string, setup func(context.Context, *pgx.Conn) error) (string, error) {
	c.mu.Lock()
	t := c.templates[key]
	if t == nil {
		t = new(template)
		c.templates[key] = t
	}
	c.mu.Unlock()
	t.once.Do(func() {
		t.err = errors.New("its setup did not finish") // stays if setup panics or ends the test
		t.name, t.err = c.fill(ctx, setup)
	})
	return t.name, t.err
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
