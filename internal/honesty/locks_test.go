package honesty

import (
	"context"
	"time"
)

// lockKinds are locks held against refreshes.
var lockKinds = []kind{
	{name: "reader in a long transaction", weight: 16, run: longReader},
	{name: "base locked", weight: 8, run: baseLocked},
	{name: "advisory lock held", weight: 6, run: advisoryHeld},
	{name: "log locked", weight: 4, run: logLocked},
	{name: "writer rests", weight: 4, run: func(_ context.Context, w *world, e *event) error {
		w.writer.restOnce(e.upTo(2 * time.Second))
		return nil
	}},
	{name: "burst of commits", weight: 6, run: func(_ context.Context, w *world, _ *event) error { w.writer.burstOnce(); return nil }},
}

func longReader(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		if err := s.all("BEGIN ISOLATION LEVEL "+e.isolation(), "SELECT count(*) FROM "+e.view.name); err != nil {
			return err
		}
		return s.hold(e.upTo(500 * time.Millisecond))
	})
}

// held locks something for a while.
func (w *world) held(ctx context.Context, e *event, d time.Duration, lock func(*session) error) error {
	return w.session(ctx, e, func(s *session) error {
		if err := s.exec("BEGIN"); err != nil {
			return err
		}
		if err := lock(s); err != nil {
			return err
		}
		return s.hold(e.upTo(d))
	})
}

func baseLocked(ctx context.Context, w *world, e *event) error {
	return w.held(ctx, e, 200*time.Millisecond, func(s *session) error {
		return s.exec("LOCK TABLE " + oneOf(e, "heartbeat", "ticks", "ticks_1") + " IN ACCESS EXCLUSIVE MODE")
	})
}

func advisoryHeld(ctx context.Context, w *world, e *event) error {
	return w.held(ctx, e, 300*time.Millisecond, func(s *session) error { return advisoryLock(s, e.view) })
}

// logLocked holds a refresh back between its statement and its record.
func logLocked(ctx context.Context, w *world, e *event) error {
	return w.held(ctx, e, 300*time.Millisecond, func(s *session) error {
		return s.exec("LOCK TABLE materialized_view_refresh_log IN " + oneOf(e, "SHARE", "ACCESS EXCLUSIVE") + " MODE")
	})
}
