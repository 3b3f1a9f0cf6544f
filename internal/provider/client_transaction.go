package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// inTransaction runs do in a transaction that holds the advisory locks of the views
// called names, so that none of our refreshes runs meanwhile. It is repeated where
// another session interfered (see [postgres.Retry]): each time, do must start from
// the same state.
func (c *client) inTransaction(ctx context.Context, do func(tx pgx.Tx) error, names ...matview.Name) (err error) {
	defer func() {
		// The server's error says no more than that it was asked to cancel.
		if overdue := ctx.Err(); err != nil && errors.Is(overdue, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", overdue, err)
		}
	}()
	pool, err := c.open(ctx)
	if err != nil {
		return err
	}
	return postgres.Retry(ctx, func() error { return c.tryTransaction(ctx, pool, do, names) })
}

func (c *client) tryTransaction(ctx context.Context, pool *pgxpool.Pool, do func(tx pgx.Tx) error, names []matview.Name) error {
	var canonical []string
	for _, name := range names {
		n, err := matview.CanonicalName(ctx, pool, name)
		if err != nil {
			return err
		}
		canonical = append(canonical, n)
	}
	// Everybody locks in the same order, so that two renames do not deadlock.
	slices.Sort(canonical)
	tx, err := matview.Begin(ctx, pool)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	for _, name := range slices.Compact(canonical) {
		if err := matview.Lock(ctx, tx, name); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		// Even if the commit fails: its answer may have been lost.
		defer c.catalog.forget()
	}
	if err := do(tx); err != nil {
		return err
	}
	return postgres.Commit(ctx, tx)
}
