package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// Attempts and the pauses between them, which grow between these two: about ten
// seconds in all, while what they run into lasts as long as another's transaction.
const (
	maxAttempts = 10
	minPause    = 50 * time.Millisecond
	maxPause    = 2 * time.Second
)

// Retry calls do, and again where its error is [Retryable], after a pause that
// grows. do must be one whole transaction, from its beginning to its commit, and
// leave nothing behind where it fails. The error after the last attempt is that of
// do; no pause outlasts ctx.
func Retry(ctx context.Context, do func() error) error {
	for attempt, pause := 1, minPause; ; attempt, pause = attempt+1, min(2*pause, maxPause) {
		err := do()
		if !Retryable(err) {
			return err
		}
		// Not all at once, where several have run into each other.
		timer := time.NewTimer(pause/2 + rand.N(pause))
		if attempt < maxAttempts {
			select {
			case <-ctx.Done():
			case <-timer.C:
				continue
			}
		}
		timer.Stop()
		return fmt.Errorf("%w (given up after %d attempts)", err, attempt)
	}
}

// Retryable tells whether err says only that another session did something at the
// same moment: nothing is wrong with the transaction, which may be run again.
//
// A catalog row that another session changes meanwhile, as GRANT does without any
// lock, is an internal error (simple_heap_update in heapam.c), and a name that it
// takes meanwhile a unique violation in the catalog. The transaction that is run
// again sees what is there by then, and says so in words of its own. What reads
// only runs into others as well: into a deadlock where it reads several tables, and,
// on a standby, into what the primary has done, which is a serialization failure.
func Retryable(err error) bool {
	var uncertain *UncertainError
	var vanished *vanishedError
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &uncertain): // it may have been done
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

// Vanished is err, from a statement on what the same transaction had found before:
// [Retryable] where it says that this is not there any more, as a table that
// another session has dropped since.
func Vanished(err error) error {
	switch SQLState(err) {
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction:
		return &vanishedError{err}
	}
	return err
}

type vanishedError struct{ error }

func (e *vanishedError) Unwrap() error { return e.error }
