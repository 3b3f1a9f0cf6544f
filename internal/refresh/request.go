package refresh

import (
	"context"

	"github.com/matview/terraform-provider-matview/internal/store"
)

// AsScheduled is a request to refresh a view, by its canonical name, as its
// schedule in schema says, if it has one; but for skip_unchanged: who asks for a
// refresh gets it.
func AsScheduled(ctx context.Context, db store.DB, schema, view, trigger string) (Request, error) {
	row, found, err := store.New(schema).ScheduleOf(ctx, db, view)
	if err != nil {
		return Request{}, err
	}
	if !found {
		return Request{View: view, Trigger: trigger, LockTimeout: store.DefaultLockTimeout}, nil
	}
	return Of(row, view, trigger), nil
}

// Of is the request that a schedule's row makes, but for skip_unchanged.
func Of(row store.Schedule, view, trigger string) Request {
	return Request{
		View: view, Trigger: trigger, Method: Method(row.Method),
		LockTimeout: row.LockTimeout, StatementTimeout: row.StatementTimeout, Settings: row.Settings,
		TotalJobs: row.TotalJobs, TotalObjects: row.TotalObjects,
	}
}
