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
func Commit(ctx context.Context, tx pgx.Tx) error {
	err := tx.Commit(ctx)
	if err == nil || rolledBack(err) {
		return err
	}
	return &UncertainError{err}
}

// rolledBack tells whether err, of a COMMIT, says that it was not done. A server
// that says ERROR has rolled back. One that ends the session (FATAL) may have
// committed before that, as while it waits for a standby (SyncRepWaitForLSN in
// syncrep.c).
func rolledBack(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.SeverityUnlocalized == "ERROR"
	}
	return errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, pgx.ErrTxClosed) || pgconn.SafeToRetry(err)
}
