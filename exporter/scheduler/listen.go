package scheduler

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// listener waits for notifications of changed schedules.
type listener struct {
	arrives atomic.Bool
	told    atomic.Bool // of a change, since that was last asked
}

func (l *listener) pollInterval() time.Duration {
	if l.arrives.Load() {
		return pollInterval
	}
	return pollWithoutNotify
}

// listen wakes the loop at each notification, until ctx ends. Notifications are
// only faster than polling, never needed: they do not pass a pooler in
// transaction mode.
func (s *Scheduler) listen(ctx context.Context) *listener {
	l := &listener{}
	if postgres.IsPooled(s.Pool) { // a LISTEN would stay behind in a session of the pooler's
		return l
	}
	go func() {
		pause := minListenPause
		for ctx.Err() == nil {
			err := s.receive(ctx, l)
			if l.arrives.Swap(false) {
				pause = minListenPause
			}
			if ctx.Err() == nil {
				s.Logger.Debug("lost the connection that waits for changed schedules", "err", err)
				s.wakeUp() // what the loop waits for is too long without notifications
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, maxRetry)
		}
	}()
	return l
}

// minListenPause is between the loss of the connection that waits for notifications
// and the first try to make another, twice that before the next try, and so on.
const minListenPause = time.Second

// receive holds a connection of its own, outside the pool, which it would
// otherwise shrink.
func (s *Scheduler) receive(ctx context.Context, l *listener) error {
	conn, err := postgres.Connect(ctx, s.Pool)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+schedule.Channel); err != nil {
		return err
	}
	// A pooler in transaction mode takes LISTEN and delivers nothing: only a
	// notification that has come says that they come.
	if _, err := s.Pool.Exec(ctx, "SELECT pg_notify($1, '')", schedule.Channel); err != nil {
		return err
	}
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
		l.arrives.Store(true)
		l.told.Store(true)
		s.forgetUpstreams() // what is scheduled may be made anew, and another may have noticed first
		s.wakeUp()
	}
}
