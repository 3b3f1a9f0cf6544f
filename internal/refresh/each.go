package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Upstream begins the error and the reason of an attempt that was not made
// because the refresh of a view that it reads had failed.
const Upstream = "UPSTREAM: "

// UpstreamError says why a view was not refreshed: one that it reads was not.
type UpstreamError struct {
	View  string // the one that failed first
	Cause string // without the name of the view
}

func (e *UpstreamError) Error() string {
	return fmt.Sprintf("%srefresh of %s failed: %s", Upstream, e.View, e.Cause)
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
// Where one failed, those that read it are told: upstream is then not nil, and
// what run returns is passed on to whoever reads them. It returns when all have
// ended. When ctx ends, no more are begun.
func (r Reads) Each(ctx context.Context, views []string, limit int, run func(ctx context.Context, view string, upstream *UpstreamError) error) {
	wanted := set(views)
	waits := make(map[string][]string, len(views)) // for what, among the views
	for _, view := range views {
		waits[view] = slices.DeleteFunc(r.Upstreams(view), func(up string) bool { return !wanted[up] })
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
			for _, up := range waits[view] {
				err, over := ended[up]
				if !over {
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

// RecordUpstream records an attempt that was not made, as failed, and why:
// whoever waits for the view sees at once where to look. It returns why. It
// records also where ctx has ended.
func (r *Refresher) RecordUpstream(ctx context.Context, req Request, why *UpstreamError) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	attempt, err := r.begin(ctx, req)
	if err != nil {
		return r.notBegun(ctx, req, fmt.Errorf("refresh %s: %w", req.View, err))
	}
	defer attempt.end()
	attempt.chosen.reason = why.Error()
	attempt.conn.Release() // the failure is recorded on another
	if err := r.recordFailure(ctx, attempt, why); err != nil {
		return fmt.Errorf("refresh %s: record that it was not refreshed: %w", attempt.view, err)
	}
	return fmt.Errorf("refresh %s: %w", attempt.view, why)
}
