package postgrestest

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"
)

// template is a database that is copied, never connected to.
type template struct {
	once sync.Once
	name string
	err  error
}

// template returns the name of the template database for a key, filled by the
// first caller's setup. On a given server it stays until the next run drops
// the leftovers: nothing tells us which test is the last.
func (c *cluster) template(ctx context.Context, key string, setup func(context.Context, *pgx.Conn) error) (string, error) {
	v, _ := c.templates.LoadOrStore(key, new(template))
	tmpl := v.(*template)
	tmpl.once.Do(func() {
		// Stays if setup panics, or ends the test.
		tmpl.err = errors.New("its setup did not finish")
		tmpl.name, tmpl.err = c.fill(ctx, setup)
	})
	return tmpl.name, tmpl.err
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
	if err := errors.Join(setup(ctx, conn), conn.Close(ctx)); err != nil {
		return "", err
	}
	// Any connection would fail the copies.
	return name, c.do(ctx, "ALTER DATABASE "+quote(name)+" ALLOW_CONNECTIONS false")
}
