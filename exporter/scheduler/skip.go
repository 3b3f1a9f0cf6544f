package scheduler

import (
	"time"

	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

const (
	// fullAfter and fullRuns are the bound that the documentation of skip_unchanged
	// states: a view is refreshed in any case after a day, or after ten gaps where its
	// runs are further apart than that.
	fullAfter = 24 * time.Hour
	fullRuns  = 10
)

// skipping is how far the schedule may go without a refresh, nil where it skips
// none. A skip must not leave the view to grow stale before its next run, nor one
// with a goal to be due again at once.
func skipping(row store.Schedule) *refresh.Skipping {
	if !row.SkipUnchanged {
		return nil
	}
	if row.TargetStaleness > 0 {
		limit := row.TargetStaleness
		if row.MaxStaleness > 0 {
			limit = min(limit, row.MaxStaleness)
		}
		return &refresh.Skipping{MaxLag: limit / 2, FullAfter: max(fullAfter, fullRuns*row.TargetStaleness)}
	}
	parsed, err := schedule.Parse(row.Spec)
	if err != nil {
		return nil // changed since it was planned: refresh it
	}
	gap := parsed.LongestGap() + row.Jitter
	lag := gap + refresh.CommitLag // what the default of max_staleness leaves, but for the duration
	if row.MaxStaleness > 0 {
		lag = row.MaxStaleness - gap
	}
	return &refresh.Skipping{MaxLag: lag, FullAfter: max(fullAfter, fullRuns*gap)}
}
