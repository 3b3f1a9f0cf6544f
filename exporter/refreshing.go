package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/exporter/scheduler"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// refreshing is one run of refreshes: of the refresh command, or an invocation
// in Lambda.
type refreshing struct {
	*app
	pool      *pgxpool.Pool
	flags     refreshFlags
	refresher *refresh.Refresher
	oneShot   *scheduler.OneShot
	reader    *freshness.Reader
	publishing

	mu       sync.Mutex
	attempts []publish.Attempt
}

// connections are one for each refresh, one that says that this process lives,
// one that asks what the refreshes wait for, and one for reading beside them.
func (f refreshFlags) connections() int { return f.maxConcurrent + 3 }

// newRefreshing makes what refreshes by the flags. It asks nobody yet.
func (a *app) newRefreshing(ctx context.Context, pool *pgxpool.Pool, f refreshFlags) (_ *refreshing, err error) {
	r := &refreshing{app: a, pool: pool, flags: f, refresher: refresh.New(pool, a.schema, attemptedBy())}
	r.oneShot = scheduler.NewOneShot(scheduler.Options{
		Pool: pool, Refresher: r.refresher, Schema: a.schema, AttemptedBy: attemptedBy(), MaxConcurrent: f.maxConcurrent, Logger: a.logger,
	})
	r.reader = freshness.NewReader(pool, a.schema, announceTimeout, time.Now)
	r.publishing, err = a.newPublishing(ctx, f.publish, pool, r.reader, prometheus.NewRegistry())
	return r, err
}

// again is another run with what lives longer than one.
func (r *refreshing) again(f refreshFlags) *refreshing {
	return &refreshing{
		app: r.app, pool: r.pool, flags: f, refresher: r.refresher, oneShot: r.oneShot, reader: r.reader,
		publishing: r.publishing,
	}
}

// wanted are the canonical names of the views to refresh.
func (r *refreshing) wanted(ctx context.Context) ([]string, error) {
	views, err := r.asked(ctx)
	if err != nil {
		return nil, r.hint(err)
	}
	return views, nil
}

func (r *refreshing) asked(ctx context.Context) ([]string, error) {
	if r.flags.due {
		return r.oneShot.Due(ctx)
	}
	var views []freshness.View
	var err error
	if r.flags.all {
		views, err = freshness.All(ctx, r.pool, r.schema)
	} else {
		views, err = r.find(ctx, r.pool, r.flags.views)
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, v := range views {
		if v.OID != nil || !r.flags.all {
			names = append(names, v.Name)
		}
	}
	return names, nil
}

// each refreshes the views, each after those that it reads. begun and done are
// called for each, done for one at a time; claimed is false if another exporter
// has taken it meanwhile. left are those that were not begun, since ctx ended.
func (r *refreshing) each(ctx context.Context, views []string, begun func(view string),
	done func(view string, result refresh.Result, claimed bool, err error),
) (left []string, err error) {
	var reads refresh.Reads
	if len(views) > 1 {
		if reads, err = refresh.ReadReads(ctx, r.pool, r.schema); err != nil {
			return views, err
		}
	}
	left = slices.Clone(views)
	reads.Each(ctx, views, r.flags.maxConcurrent, func(ctx context.Context, view string, upstream *refresh.UpstreamError) error {
		r.mu.Lock()
		left = slices.DeleteFunc(left, func(v string) bool { return v == view })
		r.mu.Unlock()
		begun(view)
		result, claimed, err := r.attempt(ctx, view, upstream)
		r.mu.Lock()
		defer r.mu.Unlock()
		if claimed || err != nil {
			r.attempts = append(r.attempts, attempted(view, result, err))
		}
		done(view, result, claimed, err)
		return err
	})
	return left, nil
}

// trigger is what the history says of the attempts.
func (r *refreshing) trigger() string {
	if r.flags.due {
		return refresh.TriggerSchedule
	}
	return refresh.TriggerManual
}

// attempt refreshes one view.
func (r *refreshing) attempt(ctx context.Context, view string, upstream *refresh.UpstreamError) (result refresh.Result, claimed bool, err error) {
	if r.flags.due {
		return r.oneShot.Refresh(ctx, view)
	}
	result, err = r.named(ctx, view, upstream)
	return result, true, err
}

// named refreshes as the view's schedule says, if it has one, but for
// skip_unchanged: whoever asks for a refresh gets it. Where a view that it reads
// has just failed, it records that instead: the data would be no younger.
func (r *refreshing) named(ctx context.Context, view string, upstream *refresh.UpstreamError) (refresh.Result, error) {
	if upstream != nil {
		return refresh.Result{}, r.refresher.RecordUpstream(ctx, refresh.Request{View: view, Trigger: refresh.TriggerManual}, upstream)
	}
	req, err := refresh.AsScheduled(ctx, r.pool, r.schema, view, refresh.TriggerManual)
	if err != nil {
		return refresh.Result{}, err
	}
	if r.flags.method != "" {
		req.Method = refresh.Method(r.flags.method)
	}
	return r.refresher.Refresh(ctx, req)
}
