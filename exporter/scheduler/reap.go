package scheduler

import (
	"context"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// dead is an attempt whose process stopped saying that it lives.
type dead struct {
	ID          int64
	View        string
	AttemptedBy *string
}

// reap finds dead attempts, ends the very sessions that they left behind, so
// that readers are free again, and makes their views due, but for one whose schedule
// cannot run.
func (s *Scheduler) reap(ctx context.Context) error {
	rows, err := s.Pool.Query(ctx, `
SELECT id, view_name, attempted_by FROM `+s.table("history")+`
WHERE outcome = 'running' AND coalesce(heartbeat_at, started_at) < clock_timestamp() - $1 * interval '1 second'`,
		refresh.DeadAfter.Seconds())
	if err != nil {
		return fmt.Errorf("look for abandoned attempts: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[dead])
	if err != nil {
		return fmt.Errorf("look for abandoned attempts: %w", err)
	}
	for _, d := range found {
		s.endTransaction(ctx, d)
		err := s.abandon(ctx, d)
		if postgres.SQLState(err) == pgerrcode.LockNotAvailable { // in a later round then
			s.Logger.Debug("an abandoned attempt is not recorded yet: another session has not committed its refresh", "view", d.View)
			continue
		}
		if err != nil {
			return fmt.Errorf("record the abandoned attempt on %s: %w", d.View, err)
		}
	}
	return nil
}

// endTransaction frees what the attempt has locked. Where that fails it is said,
// and the attempt is recorded all the same: its view waits for the lock then.
func (s *Scheduler) endTransaction(ctx context.Context, d dead) {
	if err := s.Refresher.EndTransaction(ctx, d.ID); err != nil {
		s.Logger.Warn("cannot end the session of an abandoned attempt, which may hold its lock until it notices",
			"view", d.View, "attempted_by", d.attemptedBy(), "err", postgres.Message(err))
	}
}

func (s *Scheduler) abandon(ctx context.Context, d dead) error {
	batch := &pgx.Batch{} // one transaction
	batch.Queue(impatience)
	var recorded int64
	batch.Queue(`
WITH abandoned AS (
    UPDATE `+s.table("history")+`
    SET outcome = 'abandoned', finished_at = clock_timestamp(), error = $3, sqlstate = '57P01' -- its session was terminated
    WHERE id = $1 AND outcome = 'running'
      AND coalesce(heartbeat_at, started_at) < clock_timestamp() - $2 * interval '1 second'
    RETURNING view_name, started_at
)
INSERT INTO `+s.table("state")+` AS st (view_name, next_run_at, last_attempt_at, last_outcome, last_error, consecutive_failures)
SELECT view_name, clock_timestamp(), started_at, 'abandoned', $3, 1 FROM abandoned
ON CONFLICT (view_name) DO UPDATE SET
    next_run_at = CASE WHEN st.next_run_at IS NOT NULL THEN least(st.next_run_at, EXCLUDED.next_run_at) END, last_attempt_at = EXCLUDED.last_attempt_at,
    last_outcome = EXCLUDED.last_outcome, last_error = EXCLUDED.last_error, consecutive_failures = st.consecutive_failures + 1`,
		d.ID, refresh.DeadAfter.Seconds(), d.reason()).Exec(func(tag pgconn.CommandTag) error {
		recorded = tag.RowsAffected()
		return nil
	})
	err := s.Pool.SendBatch(ctx, batch).Close()
	if err == nil && recorded > 0 {
		s.Logger.Warn("found an abandoned attempt", "view", d.View, "attempted_by", d.attemptedBy())
	}
	return err
}

func (d dead) reason() string {
	return fmt.Sprintf("abandoned: %s has stopped answering", d.attemptedBy())
}

func (d dead) attemptedBy() string {
	if d.AttemptedBy == nil {
		return "its exporter"
	}
	return *d.AttemptedBy
}

// prune removes history past its retention. Running attempts stay.
func (s *Scheduler) prune(ctx context.Context) {
	_, err := s.Pool.Exec(ctx, `
DELETE FROM `+s.table("history")+`
WHERE outcome <> 'running' AND started_at < now() - (SELECT history_retention FROM `+s.table("settings")+`)`)
	if err != nil && ctx.Err() == nil {
		s.Logger.Warn("cannot remove old history", "err", postgres.Message(s.hint(err)))
	}
}
