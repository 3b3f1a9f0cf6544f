package provider

import (
	"context"
	"encoding/json"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// scheduledView is the view of a schedule, as last seen, beside the state: a
// rename of the view takes the schedule's row along, which the schedule itself
// learns of later, and not in the same apply where that ended between or has a
// -target. By then another view may have the old name, and a schedule.
type scheduledView struct {
	OID uint32 `json:"o"`
	ID  string `json:"n"` // the canonical name
}

const scheduledViewKey = "view"

// lastScheduled is empty for a state of before it was kept.
func lastScheduled(ctx context.Context, private privateReader, diags *diag.Diagnostics) (v scheduledView) {
	data, d := private.GetKey(ctx, scheduledViewKey)
	diags.Append(d...)
	if data != nil {
		_ = json.Unmarshal(data, &v) // what cannot be read is seen anew
	}
	return v
}

func (v scheduledView) save(ctx context.Context, private privateWriter, diags *diag.Diagnostics) {
	data, err := json.Marshal(v)
	if err != nil {
		addError(diags, "Cannot remember the view of the schedule", err)
		return
	}
	diags.Append(private.SetKey(ctx, scheduledViewKey, data)...)
}

// now is the view as it is; moved says that it was renamed since and that its
// schedule is stored under the new name.
func (v scheduledView) now(ctx context.Context, pool *pgxpool.Pool, catalog *catalog, state refreshScheduleModel) (view scheduledView, moved bool, err error) {
	name, err := matview.ParseName(state.ID.ValueString())
	if err != nil {
		return v, false, nil //nolint:nilerr // a row by hand may have any name
	}
	found, err := catalog.read(ctx, pool, name)
	if err != nil {
		return v, false, err
	}
	if found == nil || v.OID != 0 && v.OID != found.OID {
		renamed, err := catalog.byOID(ctx, pool, v.OID)
		if err != nil {
			return v, false, err
		}
		if renamed != nil && renamed.ID != v.ID {
			_, stored, err := lookUp(ctx, func() (store.Schedule, bool, error) {
				return store.New(state.LogSchema.ValueString()).Schedule(ctx, pool, renamed.ID)
			})
			if err != nil || stored {
				return scheduledView{renamed.OID, renamed.ID}, stored, err
			}
		}
	}
	if found == nil {
		return v, false, nil
	}
	return scheduledView{found.OID, found.ID}, false, nil
}
