package refresh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// A refresh that waits for its lock makes all readers that come after it wait
// too. So it waits for lock_timeout only, lets them pass, and tries again.
const (
	lockTries = 3
	maxPause  = time.Second
)

// isLocked says that another try may get the lock. A swap has tried enough when
// it gives up.
func isLocked(err error) bool {
	var exchange *matview.ExchangeError
	return postgres.SQLState(err) == pgerrcode.LockNotAvailable && !errors.As(err, &exchange)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// lockError says who held the lock that was not free.
func (a *attempt) lockError(ctx context.Context, err error, tries int) error {
	if postgres.SQLState(err) != pgerrcode.LockNotAvailable {
		return err
	}
	var exchange *matview.ExchangeError
	if errors.As(err, &exchange) {
		// Who held it all the time holds it still.
		var holders *string
		if a.beside.QueryRow(ctx, holdersSQL, exchange.View.SQL()).Scan(&holders) == nil && holders != nil {
			return fmt.Errorf("%w; one is held by %s", err, *holders)
		}
		return err
	}
	text := "a lock was not free within lock_timeout"
	if tries > 1 {
		text += fmt.Sprintf(", in none of %d tries", tries)
	}
	a.blocked.Lock()
	defer a.blocked.Unlock()
	if a.blockers != "" {
		text += "; it was held by " + a.blockers
	}
	return fmt.Errorf("%s: %w", text, err)
}

// How often another connection looks whether a statement waits for a lock: for
// the first time after firstLook, so that a short one costs nothing.
const (
	firstLook = 50 * time.Millisecond
	nextLook  = 25 * time.Millisecond
	maxLook   = 500 * time.Millisecond
)

// watch measures how long a statement that begins now waits for its locks, which
// PostgreSQL does not tell the statement's own session. It takes them before it
// does anything else, so that the wait is over once it is seen to do so.
type watch struct {
	once sync.Once
	done chan struct{}

	mu     sync.Mutex
	waited time.Duration
}

func (a *attempt) watch() *watch {
	w := &watch{done: make(chan struct{})}
	go w.look(a, a.conn.Conn().PgConn().PID())
	return w
}

// stop returns how long the statement waited, rounded down to the last look.
func (w *watch) stop() time.Duration {
	w.once.Do(func() { close(w.done) })
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waited
}

// namedSQL describes the backends of p (pid). Those of other roles are told in
// full to members of pg_monitor only.
const namedSQL = `
SELECT string_agg(
    CASE WHEN p.pid = 0 THEN 'a prepared transaction'
         ELSE concat_ws(', ', format('process %%s (role %%s', p.pid, coalesce(s.usename, '?')), nullif(s.application_name, ''), s.state,
                        'in a transaction since ' || date_trunc('second', s.xact_start)) || ')' END, ', ')
FROM (SELECT DISTINCT pid FROM %s LIMIT 5) AS p
LEFT JOIN pg_stat_activity AS s ON s.pid = p.pid`

var (
	// waitingSQL names the blockers, which costs the server more, if $2.
	waitingSQL = `
SELECT coalesce(b.wait_event_type = 'Lock', false),
       CASE WHEN $2 AND b.wait_event_type = 'Lock' THEN (` + fmt.Sprintf(namedSQL, "unnest(pg_blocking_pids($1)) AS pid") + `) END
FROM pg_stat_get_activity($1) AS b`
	holdersSQL = fmt.Sprintf(namedSQL, `pg_locks WHERE granted AND pid IS NOT NULL AND relation = to_regclass($1)
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
)

func (w *watch) look(a *attempt, pid uint32) {
	start := time.Now()
	var asked time.Time
	for wait := firstLook; ; wait = min(max(nextLook, time.Since(start)/20), maxLook) {
		select {
		case <-w.done:
			return
		case <-time.After(wait):
		}
		// Not ended by the end of the statement, which would cost the connection.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		var waiting bool
		var blockers *string
		looked := time.Now()
		err := a.beside.QueryRow(ctx, waitingSQL, pid, looked.Sub(asked) > time.Second).Scan(&waiting, &blockers)
		cancel()
		if err != nil || !waiting {
			return
		}
		if blockers != nil {
			asked = looked
			a.blocked.Lock()
			a.blockers = *blockers
			a.blocked.Unlock()
		}
		select {
		case <-w.done: // what was seen may have been another statement's
			return
		default:
		}
		w.mu.Lock()
		w.waited = looked.Sub(start)
		w.mu.Unlock()
	}
}
