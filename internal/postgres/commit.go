package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// UncertainError says that a transaction may have been committed, or may not: the
// answer to its COMMIT did not come.
type UncertainError struct{ err error }

func (e *UncertainError) Error() string {
	return "the answer to COMMIT did not come, so whether it was done is not known: " + e.err.Error()
}

func (e *UncertainError) Unwrap() error { return e.err }

// Commit commits tx. The error is an [UncertainError] unless it is certain that
// nothing was committed. No [Retryable] error is uncertain.
//
// What pgx says of a connection that ended after COMMIT was sent is that it was
// closed, and that this was safe to retry ([pgconn.SafeToRetry]); it is not.
func Commit(ctx context.Context, tx pgx.Tx) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case tx.Conn() == nil || tx.Conn().IsClosed():
		return pgconn.ErrConnClosed
	}
	err := tx.Commit(ctx)
	// A server that says ERROR has rolled back. One that ends the session (FATAL) may
	// have committed before, as while it waits for a standby (SyncRepWaitForLSN in
	// syncrep.c).
	var pgErr *pgconn.PgError
	if err == nil || errors.Is(err, pgx.ErrTxCommitRollback) || errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR" {
		return err
	}
	return &UncertainError{err}
}
