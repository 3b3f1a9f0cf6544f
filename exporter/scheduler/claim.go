package scheduler

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// claim is one due refresh that this process has claimed: its running row is in
// the history, and its next run is set.
type claim struct {
	row     store.Schedule
	view    string // canonical
	attempt int64
	// upstream is not nil where the view waited for one that it reads, and that failed.
	upstream *refresh.UpstreamError
}

func (c claim) request() refresh.Request {
	req := refresh.Of(c.row, c.view, refresh.TriggerSchedule)
	req.Attempt, req.SkipUnchanged = c.attempt, skipping(c.row)
	return req
}

const commitTimeout = 5 * time.Second

// claim claims up to limit due refreshes, or only that of one view, in one short
// transaction. Row locks end with it: none is held while a refresh runs. missed is
// whether views that were found due are not claimed, since another exporter or a
// change of the schedule came first.
func (w *worker) claim(ctx context.Context, waiting store.Waiting, limit int, view string) (claims []claim, missed bool, err error) {
	tx, err := w.Pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return nil, false, fmt.Errorf("claim due refreshes: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	due, err := w.store.LockDue(ctx, tx, waiting, limit, view)
	if err != nil {
		return nil, false, fmt.Errorf("claim due refreshes: %w", err)
	}
	if len(due) == 0 {
		return nil, false, nil
	}
	if claims, err = w.claimLocked(ctx, tx, waiting, due); err != nil {
		return nil, false, fmt.Errorf("claim due refreshes: %w", err)
	}
	// Also where ctx ends meanwhile: nobody would refresh what is claimed.
	committing, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if err := tx.Commit(committing); err != nil {
		return nil, false, fmt.Errorf("claim due refreshes: %w", err)
	}
	return claims, len(claims) < len(due), nil
}

func (w *worker) claimLocked(ctx context.Context, tx pgx.Tx, waiting store.Waiting, due []store.DueSchedule) ([]claim, error) {
	failed, err := w.failedUpstreams(ctx, tx, waiting, due)
	if err != nil {
		return nil, err
	}
	wanted := make([]store.Claim, len(due))
	for i, d := range due {
		wanted[i] = store.Claim{ViewName: d.CanonicalName, Version: d.Version, NextRunAt: nextRun(d)}
	}
	ids, err := w.store.Claim(ctx, tx, wanted, w.AttemptedBy)
	if err != nil {
		return nil, err
	}
	var claims []claim
	for _, d := range due {
		if id, claimed := ids[d.CanonicalName]; claimed {
			claims = append(claims, claim{row: d.Schedule, view: d.CanonicalName, attempt: id, upstream: failed[d.CanonicalName]})
		}
	}
	return claims, nil
}

// nextRun is nil where the schedule has no next run, or does not parse since it
// was changed after it was planned: the next round logs why, and the refresh itself
// is still right.
func nextRun(d store.DueSchedule) *time.Time {
	parsed, err := schedule.Parse(d.Spec)
	if err != nil {
		return nil
	}
	next := parsed.NextRun(d.CanonicalName, d.ReadAt, d.DueAt)
	if next.IsZero() {
		return nil
	}
	return &next
}

// failedUpstreams finds the due views that waited for a refresh that failed.
func (w *worker) failedUpstreams(ctx context.Context, tx pgx.Tx, waiting store.Waiting, due []store.DueSchedule) (map[string]*refresh.UpstreamError, error) {
	if len(waiting.Readers) == 0 {
		return nil, nil
	}
	dueAt := make(map[string]time.Time, len(due))
	for _, d := range due {
		dueAt[d.CanonicalName] = d.DueAt
	}
	found, err := w.store.FailedUpstreams(ctx, tx, waiting, dueAt)
	if err != nil {
		return nil, err
	}
	failed := make(map[string]*refresh.UpstreamError, len(found))
	for _, f := range found {
		failed[f.ViewName] = &refresh.UpstreamError{View: f.Upstream, Cause: strings.TrimPrefix(f.Cause, "refresh "+f.Upstream+": ")}
	}
	return failed, nil
}
