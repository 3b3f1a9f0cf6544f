package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The pauses between attempts grow from minPause to maxPause: about ten seconds in
// total. A conflict lasts as long as another session's transaction.
const (
	maxAttempts = 10
	minPause    = 50 * time.Millisecond
	maxPause    = 2 * time.Second
)

// Retry calls do, and calls it again after a growing pause while its error is
// [Retryable]. do must be one whole transaction, from BEGIN to COMMIT, that leaves
// nothing behind if it fails. After the last attempt, and when ctx ends during a pause,
// Retry returns do's error.
func Retry(ctx context.Context, do func() error) error {
	for attempt, pause := 1, minPause; ; attempt, pause = attempt+1, min(2*pause, maxPause) {
		err := do()
		if !Retryable(err) {
			return err
		}
		// Spread the next attempts of sessions that conflicted with each other.
		timer := time.NewTimer(pause/2 + rand.N(pause))
		if attempt < maxAttempts {
			select {
			case <-ctx.Done():
			case <-timer.C:
				continue
			}
		}
		timer.Stop()
		return fmt.Errorf("%w (gave up after %d attempts)", err, attempt)
	}
}

// Retryable reports whether err only says that another session did something at the
// same time: the transaction itself is right, and may run again.
//
// If another session updates a catalog row, as GRANT does without any lock, the error
// is an internal one (simple_heap_update in heapam.c); if it creates the same name, a
// unique violation in the catalog. The repeated transaction sees the new state and
// reports an error of its own if need be. Read-only transactions conflict, too: they
// deadlock if they read several tables and, on a standby, get a serialization failure
// if they conflict with recovery.
func Retryable(err error) bool {
	var uncertain *UncertainError
	var vanished *vanishedError
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &uncertain): // it may have been committed
		return false
	case errors.As(err, &vanished):
		return true
	case !errors.As(err, &pgErr):
		return false
	}
	switch pgErr.Code {
	case pgerrcode.SerializationFailure, pgerrcode.DeadlockDetected:
		return true
	case pgerrcode.InternalError:
		return strings.HasPrefix(pgErr.Message, "tuple concurrently ")
	case pgerrcode.UniqueViolation:
		return pgErr.SchemaName == "pg_catalog"
	}
	return false
}

// Vanished returns the error of a statement on an object that the same transaction
// found earlier. It is [Retryable] if the object no longer exists, because another
// session has dropped it.
func Vanished(err error) error {
	switch SQLState(err) {
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction:
		return &vanishedError{err}
	}
	return err
}

type vanishedError struct{ error }

func (e *vanishedError) Unwrap() error { return e.error }

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

// InheritSQL is the statement, as text, after which the session's role has the privileges
// of another one, whose OID is the SQL expression role. A membership may be one without
// INHERIT, to which GRANT alone adds nothing: from PostgreSQL 16 on that is the
// membership's own, before it is the member's.
func InheritSQL(role string) string {
	return `CASE WHEN NOT pg_has_role(` + role + `, 'MEMBER') THEN format('GRANT %I TO %I', pg_get_userbyid(` + role + `), current_user)
     WHEN current_setting('server_version_num')::int >= 160000 THEN format('GRANT %I TO %I WITH INHERIT TRUE', pg_get_userbyid(` + role + `), current_user)
     ELSE format('ALTER ROLE %I INHERIT', current_user) END`
}
