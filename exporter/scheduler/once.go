package scheduler

import (
	"context"
	"time"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// OneShot refreshes once what is due, in a run that ends by itself. It is safe for
// concurrent use.
type OneShot struct{ *worker }

// NewOneShot makes a one-shot run.
func NewOneShot(o Options) *OneShot { return &OneShot{newWorker(o)} }

// Due lists the scheduled views that are due now. [OneShot.Refresh] then claims
// them one by one.
func (o *OneShot) Due(ctx context.Context) ([]string, error) {
	if err := o.planner.plan(ctx); err != nil {
		return nil, err
	}
	if err := o.reap(ctx); err != nil {
		return nil, err
	}
	return o.store.DueViews(ctx, o.Pool)
}

// Refresh refreshes one view if it is still due; claimed is false if another
// exporter has claimed it meanwhile. It waits while another is refreshing a view
// that this one reads.
func (o *OneShot) Refresh(ctx context.Context, view string) (result refresh.Result, claimed bool, err error) {
	if _, err := o.dependencies.refresh(ctx); err != nil {
		return refresh.Result{}, false, err
	}
	planned := false
	for {
		waiting := o.dependencies.waiting(o.UpstreamWait)
		// A view that is only due has had its turn in this run, and nobody else may be there.
		waiting.OnlyRunning = true
		claims, _, err := o.claim(ctx, waiting, 1, view)
		if err != nil {
			return refresh.Result{}, false, err
		}
		if len(claims) > 0 {
			result, err = o.attempt(ctx, claims[0])
			return result, true, err
		}
		waits, err := o.store.IsWaiting(ctx, o.Pool, waiting, view)
		if err != nil {
			return refresh.Result{}, false, err
		}
		if !waits && planned {
			return refresh.Result{}, false, nil
		}
		// What it waited for may have ended since the claim, or its schedule have changed
		// since it was found due: then it is claimed after this.
		if planned = !waits; planned {
			err = o.planner.plan(ctx)
		} else {
			err = o.awaitUpstream(ctx)
		}
		if err != nil {
			return refresh.Result{}, false, err
		}
	}
}

func (o *OneShot) awaitUpstream(ctx context.Context) error {
	select {
	case <-time.After(waitingPoll):
		return o.reap(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}
