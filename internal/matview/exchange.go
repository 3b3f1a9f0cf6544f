package matview

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// exchangeTimeout is how long one attempt waits for a lock, and so how long
// readers wait behind it in vain. It is far below deadlock_timeout.
const exchangeTimeout = "5ms"

// The pause between attempts, when the view is nobody's, grows between these.
const (
	minPause = 20 * time.Millisecond
	maxPause = time.Second
)

// ExchangeError says that a view stayed locked. Nothing was changed.
type ExchangeError struct {
	View     Name
	Patience time.Duration
	Attempts int
	Err      error // of the last attempt
}

func (e *ExchangeError) Error() string {
	return fmt.Sprintf("exchange %s for its successor: others held locks on it or on the views over it for all of %s (%d attempts): %v", e.View, e.Patience, e.Attempts, e.Err)
}

func (e *ExchangeError) Unwrap() error { return e.Err }

// ChangedError says that a view was altered or dropped while its successor was built.
type ChangedError struct{ View Name }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s was altered or dropped by somebody else, or its indexes were, while its successor was being built; try again", e.View)
}

// errDress says that what belongs to the view, or its dependents, changed after
// the twin was given the same.
var errDress = errors.New("what belongs to the view has changed")

// finish dresses the twin and exchanges the two, again where somebody changed
// what belongs to the view, with GRANT say, since it was read.
func (s Swap) finish(ctx context.Context, tx pgx.Tx, t twin) error {
	deadline := time.Now().Add(s.Patience)
	for {
		savepoint, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		d, err := s.dress(ctx, savepoint, t)
		if err == nil {
			err = s.exchange(ctx, savepoint, t, d, deadline)
		}
		if err == nil {
			return savepoint.Commit(ctx)
		}
		rollback(ctx, savepoint)
		if !errors.Is(err, errDress) {
			return err
		}
		if time.Now().After(deadline) {
			return &ChangedError{View: s.View.Name}
		}
	}
}

// exchange tries until the deadline.
func (s Swap) exchange(ctx context.Context, tx pgx.Tx, t twin, d dressed, deadline time.Time) error {
	if s.Beside != nil {
		flushWAL(ctx, s.Beside)
	}
	pause := minPause
	for attempt := 1; ; attempt++ {
		start := time.Now()
		savepoint, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if err = s.tryExchange(ctx, savepoint, t, d); err == nil {
			return savepoint.Commit(ctx)
		}
		if rollbackErr := savepoint.Rollback(ctx); rollbackErr != nil {
			return errors.Join(err, rollbackErr)
		}
		if !isPassing(err) {
			return err
		}
		// Not all at once, where several sessions wait for each other.
		wait := pause/2 + rand.N(pause)
		if time.Now().Add(wait).After(deadline) {
			s.addWait(time.Since(start))
			return &ExchangeError{View: s.View.Name, Patience: s.Patience, Attempts: attempt, Err: err}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		s.addWait(time.Since(start))
		pause = min(2*pause, maxPause)
	}
}

func (s Swap) addWait(d time.Duration) {
	if s.Waited != nil {
		*s.Waited += d
	}
}

// isPassing tells what another attempt may not meet.
func isPassing(err error) bool {
	return postgres.SQLState(err) == pgerrcode.LockNotAvailable || postgres.Retryable(err)
}

// tryExchange locks in the order in which readers do: views before what they
// read. Renaming the view before its dependents are locked would deadlock with
// readers of those.
func (s Swap) tryExchange(ctx context.Context, tx pgx.Tx, t twin, d dressed) error {
	doing := func(err error) error { return fmt.Errorf("exchange %s for its successor: %w", s.View.Name, err) }
	old := Name{Schema: s.View.Name.Schema, Relation: randomName()}
	const brief = "SET LOCAL lock_timeout = '" + exchangeTimeout + "'"
	if s.Exchanging != nil {
		if err := execute(ctx, tx, brief); err != nil {
			return doing(err)
		}
		if err := s.Exchanging(ctx); err != nil {
			return doing(err)
		}
	}
	lock := []string{brief, "SET LOCAL search_path = ''"}
	for _, v := range d.dependents {
		// To the owner that it has: that changes nothing, but takes the lock.
		lock = append(lock, "ALTER VIEW "+v.Name+" OWNER TO "+postgres.QuoteIdent(v.Owner))
	}
	lock = append(lock, "ALTER MATERIALIZED VIEW "+s.View.Name.SQL()+" RENAME TO "+postgres.QuoteIdent(old.Relation))
	switch _, err := executeAll(ctx, tx, lock); {
	case postgres.SQLState(err) == pgerrcode.UndefinedTable:
		return errDress // one of them was dropped or renamed
	case err != nil:
		return doing(err)
	}
	// Now, and not before, nothing of this changes any more. What was locked may be
	// another view, if somebody has given the name away.
	frame, dress, err := s.fingerprints(ctx, tx, old.Relation)
	switch {
	case err != nil:
		return doing(err)
	case frame != t.frame:
		return &ChangedError{View: s.View.Name}
	case dress != d.fingerprint:
		return errDress
	}
	change := []string{"ALTER MATERIALIZED VIEW " + t.Name.SQL() + " RENAME TO " + postgres.QuoteIdent(s.View.Name.Relation)}
	for _, v := range d.dependents {
		// In the words that it had, which mean the twin now.
		change = append(change, v.createSQL())
	}
	change = append(change, "DROP MATERIALIZED VIEW "+old.SQL()+" RESTRICT")
	for name, aside := range t.indexes {
		change = append(change, "ALTER INDEX "+Name{s.View.Name.Schema, aside}.SQL()+" RENAME TO "+postgres.QuoteIdent(name))
	}
	for _, x := range d.statistics {
		change = append(change, "ALTER STATISTICS "+Name{x.Schema, x.aside}.SQL()+" RENAME TO "+postgres.QuoteIdent(x.Name))
	}
	if i, err := executeAll(ctx, tx, change); err != nil {
		return doing(fmt.Errorf("%w (%s)", err, change[i]))
	}
	if len(d.dependents) > 0 {
		moved, err := dependentViews(ctx, tx, t.OID)
		if err != nil {
			return doing(err)
		}
		if !slices.Equal(moved, d.dependents) {
			return doing(errors.New("the views over it would not mean the same as before"))
		}
	}
	// What follows the exchange may wait for others, but not for long.
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'"); err != nil {
		return doing(err)
	}
	return nil
}
