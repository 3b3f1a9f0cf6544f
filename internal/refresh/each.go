package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// UpstreamError says why a view was not refreshed: one that it reads was not.
type UpstreamError struct {
	View  string // the one that failed first
	Cause string // without the name of the view
}

func (e *UpstreamError) Error() string {
	return fmt.Sprintf("UPSTREAM: refresh of %s failed: %s", e.View, e.Cause)
}

// NewUpstreamError is what the failure of one view means to those that read it.
func NewUpstreamError(view string, err error) *UpstreamError {
	var upstream *UpstreamError
	if errors.As(err, &upstream) {
		return upstream
	}
	return &UpstreamError{View: view, Cause: strings.TrimPrefix(postgres.Message(err), "refresh "+view+": ")}
}

// Each calls run for every view, for up to limit of them at once, for each only
// after those of them that it reads, also through views that are not among them.
// If one failed, run is called for those that read it with an upstream that is not
// nil, and what it returns is passed on to whoever reads them. Each returns when all
// have ended. When ctx ends, no more are begun.
func (r Reads) Each(ctx context.Context, views []string, limit int, run func(ctx context.Context, view string, upstream *UpstreamError) error) {
	wanted := set(views)
	waitsFor := make(map[string][]string, len(views)) // only others of the views
	for _, view := range views {
		waitsFor[view] = slices.DeleteFunc(r.Upstreams(view), func(up string) bool { return !wanted[up] })
	}
	type end struct {
		view string
		err  error
	}
	ends := make(chan end)
	ended := map[string]error{}
	left, running := r.Sort(views), 0
	for {
		left = slices.DeleteFunc(left, func(view string) bool {
			if running >= limit || ctx.Err() != nil {
				return false
			}
			var upstream *UpstreamError
			for _, up := range waitsFor[view] {
				err, done := ended[up]
				if !done {
					return false
				}
				if err != nil && upstream == nil {
					upstream = NewUpstreamError(up, err)
				}
			}
			running++
			go func() { ends <- end{view, run(ctx, view, upstream)} }()
			return true
		})
		if running == 0 {
			return
		}
		e := <-ends
		ended[e.view] = e.err
		running--
	}
}

// RecordUpstream records an attempt that was not made, as failed, and why: whoever
// waits for the view sees at once where to look. It returns why. It records also
// after ctx has ended.
func (r *Refresher) RecordUpstream(ctx context.Context, req Request, why *UpstreamError) error {
	name, err := matview.ParseName(req.View)
	if err != nil {
		return r.beginFailed(ctx, req, err)
	}
	beginCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	row, err := r.insert(beginCtx, r.pool, req, name)
	if err != nil {
		return r.beginFailed(ctx, req, err)
	}
	outcome, recordErr := r.recordFailure(ctx, store.Failure{Attempt: row.ID, Reason: why.Error(), FailedUpstream: why.View}, why)
	return failure(fmt.Errorf("refresh %s: %w", row.ViewName, why), outcome, recordErr)
}
