package refresh

import (
	"context"
	"errors"
	"time"
)

// heartbeatInterval is how often a running attempt records that its process is alive.
// The SQL function materialized_view_attempt_timeout, which is the one place for that,
// says how long without a heartbeat makes it dead: several intervals.
const heartbeatInterval = 2 * time.Second

var errBackendGone = errors.New("the server has ended its session, or the connection to it is lost")

// KeepAlive sends heartbeats for an attempt, on a connection other than its own,
// until release is called. The context ends if the backend of the attempt is gone,
// which a connection through a broken network may not tell for minutes.
func (r *Refresher) KeepAlive(ctx context.Context, attempt int64) (alive context.Context, release func()) {
	alive, cancel := context.WithCancelCause(ctx)
	beating, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		ticker := time.NewTicker(heartbeatInterval)
		defer ticker.Stop()
		for {
			select {
			case <-beating.Done():
				return
			case <-ticker.C:
				if r.backendGone(beating, attempt) {
					cancel(errBackendGone)
				}
			}
		}
	}()
	return alive, func() {
		stop()
		cancel(nil)
	}
}

// backendGone sends one heartbeat, unless the backend is gone. It ignores errors:
// whoever watches the heartbeats acts on their absence.
func (r *Refresher) backendGone(ctx context.Context, attempt int64) bool {
	ctx, cancel := context.WithTimeout(ctx, heartbeatInterval)
	defer cancel()
	gone, err := r.store.Heartbeat(ctx, r.monitor, attempt)
	return err == nil && gone
}

// EndTransaction terminates the session whose transaction is that of an attempt, if
// there is one: the transaction of a frozen exporter holds its locks. It needs the
// rights of pg_terminate_backend. Behind a pooler too it ends nobody else's session.
func (r *Refresher) EndTransaction(ctx context.Context, attempt int64) error {
	return r.store.EndTransaction(ctx, r.pool, attempt)
}
