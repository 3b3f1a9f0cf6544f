package provider

import (
	"github.com/hashicorp/terraform-plugin-framework-timetypes/timetypes"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// An option of a schedule is a field here, in row and in set, and an attribute in
// refreshScheduleAttributes.
type refreshScheduleModel struct {
	ID               types.String         `tfsdk:"id"`
	View             types.String         `tfsdk:"view"`
	Cron             types.String         `tfsdk:"cron"`
	Every            timetypes.GoDuration `tfsdk:"every"`
	TargetStaleness  timetypes.GoDuration `tfsdk:"target_staleness"`
	TimeZone         types.String         `tfsdk:"time_zone"`
	Method           types.String         `tfsdk:"method"`
	Enabled          types.Bool           `tfsdk:"enabled"`
	Jitter           timetypes.GoDuration `tfsdk:"jitter"`
	LockTimeout      timetypes.GoDuration `tfsdk:"lock_timeout"`
	StatementTimeout timetypes.GoDuration `tfsdk:"statement_timeout"`
	MaxStaleness     timetypes.GoDuration `tfsdk:"max_staleness"`
	SkipUnchanged    types.Bool           `tfsdk:"skip_unchanged"`
	Settings         types.Map            `tfsdk:"settings"`
	Totals           types.Object         `tfsdk:"totals"`
	LogSchema        types.String         `tfsdk:"log_schema"`
}

var totalsTypes = map[string]attr.Type{"jobs": types.StringType, "objects": types.StringType}

// row is the table's row of a model whose values are all known.
func (m refreshScheduleModel) row(viewName string) store.Schedule {
	return store.Schedule{
		ViewName: viewName,
		Spec: schedule.Spec{
			Cron:            m.Cron.ValueString(),
			Every:           durationOf(m.Every),
			TargetStaleness: durationOf(m.TargetStaleness),
			TimeZone:        m.TimeZone.ValueString(),
			Jitter:          durationOf(m.Jitter),
		},
		Method:           m.Method.ValueString(),
		Enabled:          m.Enabled.ValueBool(),
		LockTimeout:      durationOf(m.LockTimeout),
		StatementTimeout: durationOf(m.StatementTimeout),
		MaxStaleness:     durationOf(m.MaxStaleness),
		SkipUnchanged:    m.SkipUnchanged.ValueBool(),
		Settings:         stringMapOf(m.Settings),
		TotalJobs:        m.total("jobs").ValueString(),
		TotalObjects:     m.total("objects").ValueString(),
	}
}

// set sets what the row says; view and log_schema stay as configured.
func (m *refreshScheduleModel) set(row store.Schedule) {
	m.Cron = stringOrNull(row.Cron)
	m.Every = durationValue(row.Every)
	m.TargetStaleness = durationValue(row.TargetStaleness)
	m.TimeZone = types.StringValue(row.TimeZone)
	m.Method = types.StringValue(row.Method)
	m.Enabled = types.BoolValue(row.Enabled)
	m.Jitter = durationValue(row.Jitter)
	m.LockTimeout = durationValue(row.LockTimeout)
	m.StatementTimeout = durationValue(row.StatementTimeout)
	m.MaxStaleness = durationValue(row.MaxStaleness)
	m.SkipUnchanged = types.BoolValue(row.SkipUnchanged)
	if len(row.Settings) > 0 || !m.Settings.IsNull() {
		m.Settings = stringMap(row.Settings)
	}
	if row.TotalJobs != "" || row.TotalObjects != "" || !m.Totals.IsNull() {
		m.Totals = types.ObjectValueMust(totalsTypes, map[string]attr.Value{
			"jobs":    stringOrNull(row.TotalJobs),
			"objects": stringOrNull(row.TotalObjects),
		})
	}
}

// total is the expression jobs or objects of totals.
func (m refreshScheduleModel) total(name string) types.String {
	if m.Totals.IsUnknown() {
		return types.StringUnknown()
	}
	value, ok := m.Totals.Attributes()[name].(types.String)
	if !ok {
		return types.StringNull()
	}
	return value
}
