package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Querier is what reading needs: a connection, a pool or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}
