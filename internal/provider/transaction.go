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

// inTransaction calls do in one transaction that holds the advisory locks of the
// views called names: no refresh of ours runs meanwhile. Where another session did
// something at the same moment that is run again from its beginning, see
// [postgres.Retry]: do begins each time with what there was before.
func (c *client) inTransaction(ctx context.Context, do func(tx pgx.Tx) error, names ...matview.Name) (err error) {
	defer func() {
		// The server says no more than that it was asked to cancel.
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
	// In one order for everybody, or two renames could wait for each other.
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
		// Also where the answer to a commit was lost.
		defer c.catalog.forget()
	}
	if err := do(tx); err != nil {
		return err
	}
	return postgres.Commit(ctx, tx)
}
