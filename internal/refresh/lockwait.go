package refresh

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
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
func (a *attempt) lockError(err error, tries int) error {
	if postgres.SQLState(err) != pgerrcode.LockNotAvailable {
		return err
	}
	var exchange *matview.ExchangeError
	if errors.As(err, &exchange) { // which names them
		return err
	}
	text := "a lock was not free within lock_timeout"
	if tries > 1 {
		text += fmt.Sprintf(", in none of %d tries", tries)
	}
	if blockers := a.blockers.Load(); blockers != nil {
		text += "; it was held by " + *blockers
	}
	return fmt.Errorf("%s: %w", text, err)
}

// How often another connection looks whether a statement waits for a lock: for
// the first time after firstPoll, so that a short statement costs nothing.
const (
	firstPoll = 50 * time.Millisecond
	nextPoll  = 25 * time.Millisecond
	maxPoll   = 500 * time.Millisecond
)

// lockWatch measures how long a statement waits for its locks, which PostgreSQL does
// not tell the statement's own session. It polls to the end: on a busy machine a
// statement may be slow to begin to wait, and one that waits wakes up for interrupts.
type lockWatch struct {
	cancel context.CancelFunc
	waited atomic.Int64 // nanoseconds
}

// watchLockWait watches the statement that begins now.
func (a *attempt) watchLockWait() *lockWatch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &lockWatch{cancel: cancel}
	go w.poll(ctx, a, a.conn.Conn().PgConn().PID())
	return w
}

// stop returns how long the statement waited, as far as the polls have seen it.
func (w *lockWatch) stop() time.Duration {
	w.cancel()
	return time.Duration(w.waited.Load())
}

// waitingSQL describes the blockers, which costs the server more, if $2.
var waitingSQL = `
SELECT coalesce(b.wait_event_type = 'Lock', false),
       CASE WHEN $2 AND b.wait_event_type = 'Lock' THEN (` + postgres.DescribeSessionsSQL("unnest(pg_blocking_pids($1)) AS pid") + `) END
FROM pg_stat_get_activity($1) AS b`

func (w *lockWatch) poll(ctx context.Context, a *attempt, pid uint32) {
	start := time.Now()
	last := start // the last poll that was answered
	var described time.Time
	for wait := firstPoll; ; wait = min(max(nextPoll, time.Since(start)/20), maxPoll) {
		if pause(ctx, wait) != nil {
			return
		}
		// Not cancelled by the end of the statement, which would cost the connection.
		query, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		var waiting bool
		var blockers *string
		polled := time.Now()
		err := a.monitor.QueryRow(query, waitingSQL, pid, polled.Sub(described) > time.Second).Scan(&waiting, &blockers)
		cancel()
		if err != nil { // a busy machine may have been too slow; the next poll tells
			continue
		}
		if waiting {
			if blockers != nil {
				described = polled
				a.blockers.Store(blockers)
			}
			if ctx.Err() != nil { // it may be another statement's wait
				return
			}
			w.waited.Add(int64(polled.Sub(last)))
		}
		last = polled
	}
}
