package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// UncertainError says that a transaction may or may not have been committed: the
// connection broke before COMMIT was acknowledged.
type UncertainError struct{ err error }

func (e *UncertainError) Error() string {
	return "COMMIT was not acknowledged, so it is unknown whether the transaction was committed: " + e.err.Error()
}

func (e *UncertainError) Unwrap() error { return e.err }

// Commit commits tx. Its error is an [UncertainError] unless nothing was committed for
// certain. A [Retryable] error is never uncertain.
//
// If the connection breaks after COMMIT was sent, pgx reports a closed connection and
// that a retry is safe ([pgconn.SafeToRetry]), which it is not.
func Commit(ctx context.Context, tx pgx.Tx) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case tx.Conn() == nil || tx.Conn().IsClosed():
		return pgconn.ErrConnClosed
	}
	err := tx.Commit(ctx)
	// After ERROR the server has rolled back. After FATAL, which ends the session, it may
	// have committed, for example while it waits for a standby (SyncRepWaitForLSN in
	// syncrep.c).
	var pgErr *pgconn.PgError
	if err == nil || errors.Is(err, pgx.ErrTxCommitRollback) || errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR" {
		return err
	}
	return &UncertainError{err}
}
