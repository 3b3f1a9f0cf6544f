package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// AbandonedAttempt is a running attempt whose process stopped answering.
type AbandonedAttempt struct {
	ID          int64
	ViewName    string
	AttemptedBy *string
}

const silent = `outcome = 'running' AND coalesce(heartbeat_at, started_at) < clock_timestamp() - {attempt_timeout}()`

// beatsLater is the condition that the last heartbeat of a running attempt is from before
// the clock was set back.
const beatsLater = `coalesce(heartbeat_at, started_at) > clock_timestamp() + {attempt_timeout}()`

// AbandonedAttempts reads the running attempts that count as dead. One whose last
// heartbeat is in the future has as long as any other to show another.
func (s *Store) AbandonedAttempts(ctx context.Context, db DB) ([]AbandonedAttempt, error) {
	_, err := db.Exec(ctx, s.SQL(`UPDATE {history} SET heartbeat_at = clock_timestamp() WHERE outcome = 'running' AND `+beatsLater))
	if err != nil {
		return nil, fmt.Errorf("look for abandoned attempts: %w", err)
	}
	found, err := collect[AbandonedAttempt](db.Query(ctx, s.SQL(`SELECT id, view_name, attempted_by FROM {history} WHERE `+silent)))
	if err != nil {
		return nil, fmt.Errorf("look for abandoned attempts: %w", err)
	}
	return found, nil
}

// Abandon ends an attempt that still counts as dead, and makes its view due, unless
// its schedule cannot run. It fails with [pgerrcode.LockNotAvailable] where the
// view's state is locked. abandoned is false if the attempt has ended, or answers again.
func (s *Store) Abandon(ctx context.Context, db BatchSender, id int64, reason string) (abandoned bool, err error) {
	batch := &pgx.Batch{}
	batch.Queue(boundLockWait)
	batch.Queue(s.SQL(`
WITH abandoned AS (
    UPDATE {history}
    SET outcome = 'abandoned', finished_at = clock_timestamp(), error = @reason, sqlstate = '57P01' -- its session was terminated
    WHERE id = @id AND `+silent+`
    RETURNING view_name, started_at
)
INSERT INTO {state} AS st (view_name, next_run_at, last_attempt_at, last_outcome, last_error, consecutive_failures)
SELECT view_name, clock_timestamp(), started_at, 'abandoned', @reason, 1 FROM abandoned
ON CONFLICT (view_name) DO UPDATE SET
    next_run_at = CASE WHEN st.next_run_at IS NOT NULL THEN least(st.next_run_at, EXCLUDED.next_run_at) END, last_attempt_at = EXCLUDED.last_attempt_at,
    last_outcome = EXCLUDED.last_outcome, last_error = EXCLUDED.last_error, consecutive_failures = st.consecutive_failures + 1`),
		pgx.NamedArgs{"id": id, "reason": reason}).Exec(func(tag pgconn.CommandTag) error {
		abandoned = tag.RowsAffected() > 0
		return nil
	})
	return abandoned, db.SendBatch(ctx, batch).Close()
}

// PruneHistory removes attempts past their retention. Running ones stay.
func (s *Store) PruneHistory(ctx context.Context, db DB) error {
	_, err := db.Exec(ctx, s.SQL(`
DELETE FROM {history}
WHERE outcome <> 'running' AND started_at < now() - (SELECT history_retention FROM {settings})`))
	return err
}
