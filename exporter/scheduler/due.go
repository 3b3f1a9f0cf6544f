package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// Due lists the scheduled views that are due now, for a run that ends by itself.
// [Scheduler.RefreshDue] then takes them one by one.
func (s *Scheduler) Due(ctx context.Context) ([]string, error) {
	if err := s.reconcile(ctx); err != nil {
		return nil, err
	}
	if err := s.reap(ctx); err != nil {
		return nil, err
	}
	rows, err := s.Pool.Query(ctx, `
SELECT st.view_name FROM `+s.table("state")+` AS st
JOIN `+s.table("schedule")+` AS s ON s.view_name = st.schedule_name AND s.enabled
WHERE st.next_run_at <= clock_timestamp() ORDER BY st.next_run_at`)
	if err != nil {
		return nil, fmt.Errorf("list due refreshes: %w", err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list due refreshes: %w", err)
	}
	return views, nil
}

// RefreshDue refreshes one view if it is still due; claimed is false if another
// exporter has taken it meanwhile. It waits where another is refreshing a view
// that this one reads.
func (s *Scheduler) RefreshDue(ctx context.Context, view string) (result refresh.Result, claimed bool, err error) {
	if _, err := s.readUpstreams(ctx); err != nil {
		return refresh.Result{}, false, err
	}
	reconciled := false
	for {
		claims, err := s.claim(ctx, 1, view)
		if err != nil {
			return refresh.Result{}, false, err
		}
		if len(claims) > 0 {
			result, err = s.attempt(ctx, claims[0])
			return result, true, err
		}
		waits, err := s.waits(ctx, view)
		if err != nil {
			return refresh.Result{}, false, err
		}
		if !waits {
			if reconciled {
				return refresh.Result{}, false, nil
			}
			// What it waited for may have ended since the claim, or its schedule have
			// changed since it was found due.
			if err := s.reconcile(ctx); err != nil {
				return refresh.Result{}, false, err
			}
			reconciled = true
			continue
		}
		reconciled = false
		select {
		case <-time.After(waitingPoll):
		case <-ctx.Done():
			return refresh.Result{}, false, ctx.Err()
		}
		if err := s.reap(ctx); err != nil {
			return refresh.Result{}, false, err
		}
	}
}

// waits is whether the view is due and one that it reads is being refreshed.
func (s *Scheduler) waits(ctx context.Context, view string) (waits bool, err error) {
	readers, read := s.pairs()
	err = s.Pool.QueryRow(ctx, fmt.Sprintf(`
SELECT EXISTS (SELECT FROM %[1]s AS st
               WHERE st.view_name = $5 AND st.next_run_at <= clock_timestamp() AND `+waitsSQL+`
                 AND NOT EXISTS (SELECT FROM %[3]s AS h WHERE h.outcome = 'running' AND h.view_name = st.view_name))`,
		s.table("state"), s.table("schedule"), s.table("history")), readers, read, s.upstreamWait(), false, view).Scan(&waits)
	if err != nil {
		return false, fmt.Errorf("look what %s waits for: %w", view, err)
	}
	return waits, nil
}
