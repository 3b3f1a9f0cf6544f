package scheduler

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// listener waits for notifications of changed schedules.
type listener struct {
	connected atomic.Bool // notifications arrive
	changed   atomic.Bool // a schedule may have changed since the last comparison
}

func (n *listener) pollInterval() time.Duration {
	if n.connected.Load() {
		return pollInterval
	}
	return pollWithoutNotify
}

// minListenPause is the pause between the loss of the connection that waits for
// notifications and the first try to make another. It doubles with each try.
const minListenPause = time.Second

// listen wakes the loop at each notification, until ctx ends. Notifications are
// only faster than polling, never needed: they do not pass a pooler in
// transaction mode.
func (l *Loop) listen(ctx context.Context) *listener {
	n := &listener{}
	if postgres.IsPooled(l.Pool) { // a LISTEN would stay behind in a session of the pooler's
		return n
	}
	go func() {
		pause := minListenPause
		for ctx.Err() == nil {
			err := l.receive(ctx, n)
			if n.connected.Swap(false) {
				pause = minListenPause
			}
			if ctx.Err() == nil {
				l.Logger.Debug("lost the connection that waits for changed schedules", "err", err)
				l.wakeUp() // without notifications, the loop must wait for less
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, maxRetry)
		}
	}()
	return n
}

// receive uses a connection of its own: one of the pool's would be missing there.
func (l *Loop) receive(ctx context.Context, n *listener) error {
	conn, err := postgres.Connect(ctx, l.Pool)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+store.ScheduleChannel); err != nil {
		return err
	}
	// A pooler in transaction mode accepts LISTEN and delivers nothing: only a
	// notification that arrives shows that they do.
	if _, err := l.Pool.Exec(ctx, "SELECT pg_notify($1, '')", store.ScheduleChannel); err != nil {
		return err
	}
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
		n.connected.Store(true)
		n.changed.Store(true)
		l.dependencies.invalidate() // a scheduled view may be made anew, and another exporter have planned it first
		l.wakeUp()
	}
}
