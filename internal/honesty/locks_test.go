package honesty

import (
	"context"
	"time"
)

// lockKinds block refreshes with locks, or change the load of the writer.
var lockKinds = []kind{
	{name: "reader in a long transaction", weight: 16, run: longReader},
	{name: "base table locked", weight: 8, run: baseLocked},
	{name: "advisory lock held", weight: 6, run: advisoryHeld},
	{name: "log locked", weight: 4, run: logLocked},
	{name: "writer idles", weight: 4, run: func(_ context.Context, h *harness, e *event) error {
		h.writer.idleOnce(e.upTo(2 * time.Second))
		return nil
	}},
	{name: "burst of commits", weight: 6, run: func(_ context.Context, h *harness, _ *event) error { h.writer.burstOnce(); return nil }},
}

func longReader(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		if err := s.all("BEGIN ISOLATION LEVEL "+e.isolation(), "SELECT count(*) FROM "+e.view.name); err != nil {
			return err
		}
		return s.wait(e.upTo(500 * time.Millisecond))
	})
}

// withLock keeps a lock for a random time up to d.
func (h *harness) withLock(ctx context.Context, e *event, d time.Duration, lock func(*session) error) error {
	return h.session(ctx, e, func(s *session) error {
		if err := s.exec("BEGIN"); err != nil {
			return err
		}
		if err := lock(s); err != nil {
			return err
		}
		return s.wait(e.upTo(d))
	})
}

func baseLocked(ctx context.Context, h *harness, e *event) error {
	return h.withLock(ctx, e, 200*time.Millisecond, func(s *session) error {
		return s.exec("LOCK TABLE " + oneOf(e, "heartbeat", "ticks", "ticks_1") + " IN ACCESS EXCLUSIVE MODE")
	})
}

func advisoryHeld(ctx context.Context, h *harness, e *event) error {
	return h.withLock(ctx, e, 300*time.Millisecond, func(s *session) error { return advisoryLock(s, e.view) })
}

// logLocked blocks a refresh between its statement and its record.
func logLocked(ctx context.Context, h *harness, e *event) error {
	return h.withLock(ctx, e, 300*time.Millisecond, func(s *session) error {
		return s.exec("LOCK TABLE materialized_view_refresh_log IN " + oneOf(e, "SHARE", "ACCESS EXCLUSIVE") + " MODE")
	})
}
