package scheduler

import (
	"context"
	"fmt"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// reap finds attempts whose process stopped answering, terminates the very sessions
// that they left behind, so that readers are free again, and makes their views due.
func (w *worker) reap(ctx context.Context) error {
	found, err := w.store.AbandonedAttempts(ctx, w.Pool)
	if err != nil {
		return err
	}
	for _, a := range found {
		if err := w.abandon(ctx, a); err != nil {
			return fmt.Errorf("record the abandoned attempt on %s: %w", a.ViewName, err)
		}
	}
	return nil
}

func (w *worker) abandon(ctx context.Context, a store.AbandonedAttempt) error {
	attemptedBy := "its exporter"
	if a.AttemptedBy != nil {
		attemptedBy = *a.AttemptedBy
	}
	// Best effort: if this fails, the next refresh waits for the lock.
	if err := w.Refresher.EndTransaction(ctx, a.ID); err != nil {
		w.Logger.Warn("cannot end the session of an abandoned attempt, which may hold its lock until it notices",
			"view", a.ViewName, "attempted_by", attemptedBy, "err", postgres.Message(err))
	}
	abandoned, err := w.store.Abandon(ctx, w.Pool, a.ID, fmt.Sprintf("abandoned: %s has stopped answering", attemptedBy))
	if postgres.SQLState(err) == pgerrcode.LockNotAvailable { // a later round does it
		w.Logger.Debug("an abandoned attempt is not recorded yet: another session has not committed its refresh", "view", a.ViewName)
		return nil
	}
	if abandoned && err == nil {
		w.Logger.Warn("found an abandoned attempt", "view", a.ViewName, "attempted_by", attemptedBy)
	}
	return err
}

// prune removes history past its retention.
func (w *worker) prune(ctx context.Context) {
	if err := w.store.PruneHistory(ctx, w.Pool); err != nil && ctx.Err() == nil {
		w.Logger.Warn("cannot remove old history", "err", postgres.Message(w.hint(err)))
	}
}
