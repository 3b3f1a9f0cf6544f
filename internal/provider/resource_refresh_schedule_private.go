package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// scheduledView is the private state of a schedule: its view, as last read. A
// rename of the view renames the schedule's row, which this resource finds out
// later: in another apply, if this one failed between the two or has a -target. By
// then another view may have the old name, and a schedule.
type scheduledView struct {
	OID uint32 `json:"oid"`
	ID  string `json:"id"` // the canonical name
}

const scheduledViewKey = "view"

func readScheduledView(ctx context.Context, private privateReader, diags *diag.Diagnostics) (v scheduledView) {
	readPrivate(ctx, private, scheduledViewKey, &v, diags)
	return v
}

func (v scheduledView) save(ctx context.Context, private privateWriter, diags *diag.Diagnostics) {
	writePrivate(ctx, private, scheduledViewKey, v, diags)
}

// current returns the view as it is now. renamed means that it was renamed since v
// was read, and that its schedule is stored under the new name.
func (v scheduledView) current(ctx context.Context, pool *pgxpool.Pool, catalog *catalog, state refreshScheduleModel) (view scheduledView, renamed bool, err error) {
	name, err := matview.ParseName(state.ID.ValueString())
	if err != nil {
		return v, false, nil //nolint:nilerr // a row written by hand may have any name
	}
	found, err := catalog.read(ctx, pool, name)
	if err != nil {
		return v, false, err
	}
	if found == nil || v.OID != 0 && v.OID != found.OID {
		other, err := catalog.byOID(ctx, pool, v.OID)
		if err != nil {
			return v, false, err
		}
		if other != nil && other.ID != v.ID {
			_, stored, err := lookUp(ctx, func() (store.Schedule, bool, error) {
				return store.New(state.LogSchema.ValueString()).Schedule(ctx, pool, other.ID)
			})
			if err != nil || stored {
				return scheduledView{other.OID, other.ID}, stored, err
			}
		}
	}
	if found == nil {
		return v, false, nil
	}
	return scheduledView{found.OID, found.ID}, false, nil
}
