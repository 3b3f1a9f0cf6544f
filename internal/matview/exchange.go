package matview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// ExchangeError says that a view stayed locked. Nothing was changed.
type ExchangeError struct {
	View     Name
	Timeout  time.Duration
	Attempts int
	Holders  string // the sessions that hold locks on the view; "": unknown
	Err      error  // of the last attempt
}

func (e *ExchangeError) Error() string {
	text := fmt.Sprintf("exchange %s for its replacement: other sessions held locks on it or on the views that read it for %s (%d attempts): %v", e.View, e.Timeout, e.Attempts, e.Err)
	if e.Holders != "" {
		text += "; one is held by " + e.Holders
	}
	return text
}

func (e *ExchangeError) Unwrap() error { return e.Err }

// ChangedError says that another session altered or dropped a view while its
// replacement was built.
type ChangedError struct{ View Name }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("another session altered or dropped %s, or an index of it, while its replacement was built; try again", e.View)
}

// errPropertiesChanged says that properties or dependents of the view changed after
// they were applied to the replacement.
var errPropertiesChanged = errors.New("the properties of the view have changed")

// finish applies the properties of the view to the replacement and exchanges the
// two. It starts again if another session has changed properties meanwhile, for
// example by GRANT.
func (s Swap) finish(ctx context.Context, tx pgx.Tx, r replacement) error {
	deadline := time.Now().Add(s.Timeout)
	for {
		savepoint, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if err := setDeparsedPath(ctx, savepoint); err != nil {
			return err
		}
		p, err := s.copyProperties(ctx, savepoint, r)
		if err == nil {
			err = s.exchange(ctx, savepoint, r, p, deadline)
		}
		if err == nil {
			return savepoint.Commit(ctx)
		}
		rollback(ctx, savepoint)
		if !errors.Is(err, errPropertiesChanged) {
			return err
		}
		if time.Now().After(deadline) {
			return &ChangedError{View: s.View.Name}
		}
	}
}

// exchange tries until the deadline.
func (s Swap) exchange(ctx context.Context, tx pgx.Tx, r replacement, p properties, deadline time.Time) error {
	if s.Pool != nil {
		flushWAL(ctx, s.Pool)
	}
	attempts, err := retryLock(ctx, tx, deadline, s.LockWait, func(tx pgx.Tx) error { return s.tryExchange(ctx, tx, r, p) })
	switch {
	case attempts > 0:
		return &ExchangeError{View: s.View.Name, Timeout: s.Timeout, Attempts: attempts, Holders: s.holders(ctx), Err: err}
	case err != nil:
		return fmt.Errorf("exchange %s for its replacement: %w", s.View.Name, err)
	}
	return nil
}

var holdersSQL = postgres.DescribeSessionsSQL(`pg_locks WHERE granted AND pid IS NOT NULL AND relation = to_regclass($1)
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)

// holders describes who holds locks on the view: whoever did all the time still does.
func (s Swap) holders(ctx context.Context) string {
	var holders *string
	if s.Pool == nil || s.Pool.QueryRow(ctx, holdersSQL, s.View.Name.SQL()).Scan(&holders) != nil || holders == nil {
		return ""
	}
	return *holders
}

// tryExchange locks the view, compares it with what was read of it, and exchanges
// the two.
func (s Swap) tryExchange(ctx context.Context, tx pgx.Tx, r replacement, p properties) error {
	old := Name{Schema: s.View.Name.Schema, Relation: temporaryName()}
	if err := s.lock(ctx, tx, p, old); err != nil {
		return err
	}
	// Only now, under the locks, does the state not change any more. The view that was
	// locked may be another one, if a session has given the name away.
	state, err := s.readState(ctx, tx, old.Relation)
	switch {
	case err != nil:
		return err
	case state.Structure != r.structure:
		return &ChangedError{View: s.View.Name}
	case state.Properties != p.state:
		return errPropertiesChanged
	}
	statements := s.exchangeStatements(r, p, old)
	if i, err := executeAll(ctx, tx, statements); err != nil {
		return fmt.Errorf("%w (%s)", err, statements[i])
	}
	if len(p.dependents) > 0 {
		if _, err := tx.Exec(ctx, pinSQL); err != nil {
			return err
		}
		moved, err := dependentViews(ctx, tx, r.OID)
		if err != nil {
			return err
		}
		if !slices.Equal(moved, p.dependents) {
			return errors.New("the views that read it would not mean the same as before")
		}
	}
	// What follows in this transaction may wait for locks, but not for long.
	_, err = tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'")
	return err
}

// lock locks in the order in which readers do: views before what they read. If the
// view was renamed before the plain views that read it are locked, readers of
// those would deadlock with it.
func (s Swap) lock(ctx context.Context, tx pgx.Tx, p properties, old Name) error {
	if s.Exchanging != nil {
		if err := execute(ctx, tx, attemptTimeoutSQL); err != nil {
			return err
		}
		if err := s.Exchanging(ctx); err != nil {
			return err
		}
	}
	statements := []string{attemptTimeoutSQL}
	if touch := s.touchColumns(); touch != "" {
		statements = append(statements, touch)
	}
	for _, v := range p.dependents {
		// Setting the owner that the view has takes the lock and changes nothing.
		statements = append(statements, "ALTER VIEW "+v.Name+" OWNER TO "+postgres.QuoteIdent(v.Owner))
	}
	statements = append(statements, "ALTER MATERIALIZED VIEW "+s.View.Name.SQL()+" RENAME TO "+postgres.QuoteIdent(old.Relation))
	_, err := executeAll(ctx, tx, statements)
	switch postgres.SQLState(err) {
	case pgerrcode.UndefinedTable:
		return errPropertiesChanged // one of the views was dropped or renamed
	case pgerrcode.UndefinedColumn:
		return &ChangedError{View: s.View.Name}
	}
	return err
}

// touchColumns writes the rows of all columns in pg_attribute anew, and changes nothing:
// there is no option of that name. GRANT on a column takes no lock but that of its row. So
// from here on, before readers wait, one in progress is waited for, and a new one waits;
// else it might be committed after the state was read and before the view is dropped, and
// be lost.
func (s Swap) touchColumns() string {
	resets := make([]string, len(s.View.Columns))
	for i, c := range s.View.Columns {
		resets[i] = "ALTER COLUMN " + postgres.QuoteIdent(c.Name) + " RESET (matview)"
	}
	if len(resets) == 0 {
		return ""
	}
	return "ALTER MATERIALIZED VIEW " + s.View.Name.SQL() + " " + strings.Join(resets, ", ")
}

// exchangeStatements follow the renaming of the view to old.
func (s Swap) exchangeStatements(r replacement, p properties, old Name) []string {
	statements := []string{"ALTER MATERIALIZED VIEW " + r.Name.SQL() + " RENAME TO " + postgres.QuoteIdent(s.View.Name.Relation)}
	for _, v := range p.dependents {
		// The names in the unchanged text now mean the replacement.
		statements = append(statements, v.createSQL())
	}
	statements = append(statements, "DROP MATERIALIZED VIEW "+old.SQL()+" RESTRICT")
	for name, temporary := range r.indexes {
		statements = append(statements, "ALTER INDEX "+Name{s.View.Name.Schema, temporary}.SQL()+" RENAME TO "+postgres.QuoteIdent(name))
	}
	for _, x := range p.statistics {
		statements = append(statements, "ALTER STATISTICS "+Name{x.Schema, x.TemporaryName}.SQL()+" RENAME TO "+postgres.QuoteIdent(x.Name))
	}
	return statements
}
