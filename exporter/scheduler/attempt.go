package scheduler

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

const (
	firstBackoff = 5 * time.Second
	maxBackoff   = 15 * time.Minute
)

// attempt makes the claimed refresh, or records why it is not made, and plans the
// next one.
func (w *worker) attempt(ctx context.Context, c claim) (result refresh.Result, err error) {
	if c.row.TargetStaleness > 0 && c.upstream == nil {
		c.upstream = w.refreshUpstreams(ctx, c)
	}
	if c.upstream != nil {
		err = w.Refresher.RecordUpstream(ctx, c.request(), c.upstream)
	} else {
		result, err = w.Refresher.Refresh(ctx, c.request())
	}
	switch {
	case errors.Is(err, refresh.ErrTakenOver):
	case err != nil:
		w.backOff(ctx, c.view)
	default:
		if err := w.planNextStart(context.WithoutCancel(ctx), c); err != nil {
			w.Logger.Error("cannot plan the next refresh; it is tried when the target has passed", "view", c.view, "err", postgres.Message(err))
		}
	}
	return result, err
}

// backOff schedules the retry of a view that failed.
func (w *worker) backOff(ctx context.Context, view string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	spread := 0.75 + rand.Float64()/2 //nolint:gosec // so that views do not all retry at once
	times := func(d time.Duration) time.Duration { return time.Duration(spread * float64(d)) }
	if err := w.store.BackOff(ctx, w.Pool, view, times(firstBackoff), times(maxBackoff)); err != nil {
		w.Logger.Error("cannot schedule the retry; the next regular run stands", "view", view, "err", postgres.Message(err))
	}
}

// report logs the result of an attempt, and notifies the observer.
func (w *worker) report(c claim, began time.Time, result refresh.Result, err error, more ...any) {
	log := w.Logger.With("view", c.view, "trigger", refresh.TriggerSchedule).With(more...)
	if err != nil {
		w.observe(c.view, c.row.Method, "failed", time.Since(began))
		if errors.Is(err, refresh.ErrTakenOver) {
			log.Warn("another exporter has taken this refresh over", "err", postgres.Message(err))
			return
		}
		log.Error("refresh failed", "method", c.row.Method, "duration", time.Since(began).Round(time.Millisecond), "err", postgres.Message(err))
		return
	}
	if result.Skipped {
		w.observe(c.view, c.row.Method, "skipped", result.Duration)
		log.Info("skipped", "reason", result.Reason, "data_as_of", result.AsOf, "duration", result.Duration.Round(time.Millisecond))
		return
	}
	w.observe(c.view, string(result.Method), "succeeded", result.Duration)
	log = log.With("method", string(result.Method), "duration", result.Duration.Round(time.Millisecond),
		"lock_wait", result.LockWait.Round(time.Millisecond), "reason", result.Reason)
	if result.Warning != "" {
		log.Warn("refreshed with a warning", "warning", result.Warning)
		return
	}
	log.Info("refreshed")
}

func (w *worker) observe(view, method, outcome string, duration time.Duration) {
	if w.Observer != nil {
		w.Observer.Observe(view, method, outcome, duration)
	}
}
