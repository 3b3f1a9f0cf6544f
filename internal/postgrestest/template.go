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
	c.mu.Lock()
	tmpl := c.templates[key]
	if tmpl == nil {
		tmpl = new(template)
		c.templates[key] = tmpl
	}
	c.mu.Unlock()
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
	filled := false
	defer func() {
		if !filled { // be it by a panic
			ctx, cancel := cleanupContext()
			defer cancel()
			_ = c.drop(ctx, name) // the error of setup says more
		}
	}()
	conn, err := pgx.Connect(ctx, c.urlFor(name, "", ""))
	if err != nil {
		return "", err
	}
	if err := errors.Join(setup(ctx, conn), conn.Close(ctx)); err != nil {
		return "", err
	}
	// Any connection would fail the copies.
	if err := c.do(ctx, "ALTER DATABASE "+quote(name)+" ALLOW_CONNECTIONS false"); err != nil {
		return "", err
	}
	filled = true
	return name, nil
}
