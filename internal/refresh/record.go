package refresh

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

const (
	// recordTimeout bounds the recording of a failure, which must happen also when
	// the refresh's own context has ended.
	recordTimeout = 5 * time.Second
	// recordPause is between two tries to record a failure.
	recordPause = 200 * time.Millisecond
)

// recordFailure records why an attempt failed, on any connection, and returns the
// outcome that the history has then; see [store.Store.RecordFailure]. It tries again
// while the server cannot be reached or has no connection to spare, which is often
// why the refresh failed: unrecorded, its error is lost.
func (r *Refresher) recordFailure(ctx context.Context, f store.Failure, cause error) (outcome string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	f.Error, f.SQLState = postgres.Message(cause), sqlState(cause)
	for {
		outcome, err = r.store.RecordFailure(ctx, r.pool, f)
		if !isUnavailable(err) || pause(ctx, recordPause) != nil {
			return outcome, err
		}
	}
}

// isUnavailable says that no session could be had, or that it ended.
func isUnavailable(err error) bool {
	state := postgres.SQLState(err)
	return err != nil && (state == "" || slices.ContainsFunc(unavailableClasses, func(class string) bool { return strings.HasPrefix(state, class) }))
}

// unavailableClasses are connection exceptions, too few resources, and shutdowns.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
var unavailableClasses = []string{"08", "53", "57P"}

func recordError(err error) error {
	switch postgres.SQLState(err) {
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction, pgerrcode.InsufficientPrivilege:
		return fmt.Errorf("record it: %w; run `matview-exporter migrate` or apply matview_refresh_log with this role among writer_roles", err)
	}
	return fmt.Errorf("record it: %w", err)
}
