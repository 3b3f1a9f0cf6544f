package provider

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timetypes/timetypes"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// stringSet returns a set of strings, or null if there are none and before is null.
func stringSet(values []string, before types.Set) types.Set {
	if len(values) == 0 && before.IsNull() {
		return types.SetNull(types.StringType)
	}
	elements := make([]attr.Value, 0, len(values))
	for _, v := range values {
		elements = append(elements, types.StringValue(v))
	}
	return types.SetValueMust(types.StringType, elements)
}

func setStrings(set types.Set) []string {
	var values []string
	for _, e := range set.Elements() {
		if s, ok := e.(types.String); ok {
			values = append(values, s.ValueString())
		}
	}
	return values
}

// durationOf returns 0 if the attribute is null. Its type has refused what does not
// parse.
func durationOf(d timetypes.GoDuration) time.Duration {
	parsed, _ := time.ParseDuration(d.ValueString())
	return parsed
}

// durationValue returns null for 0.
func durationValue(d time.Duration) timetypes.GoDuration {
	if d == 0 {
		return timetypes.NewGoDurationNull()
	}
	return timetypes.NewGoDurationValue(d)
}

func stringOrNull(s string) types.String {
	if s == "" {
		return types.StringNull()
	}
	return types.StringValue(s)
}

// keepSame plans the state's spelling if the configuration means the same: the
// framework compares semantically what is read, but not what is planned.
type keepSame struct {
	description string
	same        func(a, b string) bool
}

var _ planmodifier.String = keepSame{}

func (k keepSame) Description(context.Context) string         { return k.description }
func (k keepSame) MarkdownDescription(context.Context) string { return k.description }

func (k keepSame) PlanModifyString(_ context.Context, req planmodifier.StringRequest, resp *planmodifier.StringResponse) {
	if req.StateValue.IsNull() || req.PlanValue.IsNull() || req.PlanValue.IsUnknown() {
		return
	}
	if k.same(req.StateValue.ValueString(), req.PlanValue.ValueString()) {
		resp.PlanValue = req.StateValue
	}
}

// sameDuration keeps another spelling of a duration: 5m, 5m0s and 300s are the same.
func sameDuration() planmodifier.String {
	return keepSame{"another spelling of the same duration is not a change", func(a, b string) bool {
		da, errA := time.ParseDuration(a)
		db, errB := time.ParseDuration(b)
		return errA == nil && errB == nil && da == db
	}}
}

// sameView keeps another spelling of a name: public.job_progress is job_progress.
func sameView() planmodifier.String {
	return keepSame{"another spelling of the same name is not a change", func(a, b string) bool {
		na, errA := matview.ParseName(a)
		nb, errB := matview.ParseName(b)
		return errA == nil && errB == nil && na == nb
	}}
}
