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

// stringSet is a set of strings; no strings are null where they were null before.
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

// durationOf is 0 where the attribute is null. What does not parse was refused
// by its type.
func durationOf(d timetypes.GoDuration) time.Duration {
	parsed, _ := time.ParseDuration(d.ValueString())
	return parsed
}

// durationValue is null for 0.
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

// keepSame keeps the state's spelling where the configuration means the same:
// the framework compares by meaning only what it reads, not what it plans.
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

// sameDuration: 5m is 5m0s is 300s.
func sameDuration() planmodifier.String {
	return keepSame{"another spelling of the same duration is no change", func(a, b string) bool {
		da, errA := time.ParseDuration(a)
		db, errB := time.ParseDuration(b)
		return errA == nil && errB == nil && da == db
	}}
}

// sameView: public.job_progress is job_progress.
func sameView() planmodifier.String {
	return keepSame{"another spelling of the same name is no change", func(a, b string) bool {
		na, errA := matview.ParseName(a)
		nb, errB := matview.ParseName(b)
		return errA == nil && errB == nil && na == nb
	}}
}
