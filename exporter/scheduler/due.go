package scheduler

import (
	"context"
	"errors"
	"fmt"

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
// exporter has taken it meanwhile.
func (s *Scheduler) RefreshDue(ctx context.Context, view string) (result refresh.Result, claimed bool, err error) {
	claims, err := s.claim(ctx, 1, view)
	if err != nil || len(claims) == 0 {
		return refresh.Result{}, false, err
	}
	result, err = s.Refresher.Refresh(ctx, claims[0].request())
	if err != nil && !errors.Is(err, refresh.ErrTakenOver) {
		s.backOff(ctx, claims[0])
	}
	return result, true, err
}
