package provider

import (
	"time"

	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

// freshnessColumns are the columns of materialized_view_freshness, as every data
// source shows them.
type freshnessColumns struct {
	LastRefreshedAt     types.String  `tfsdk:"last_refreshed_at"`
	ViewName            types.String  `tfsdk:"view_name"`
	SchemaName          types.String  `tfsdk:"schema_name"`
	RelationName        types.String  `tfsdk:"relation_name"`
	IsPopulated         types.Bool    `tfsdk:"is_populated"`
	IsScheduled         types.Bool    `tfsdk:"is_scheduled"`
	Enabled             types.Bool    `tfsdk:"enabled"`
	RefreshDurationMS   types.Int64   `tfsdk:"refresh_duration_ms"`
	DataAsOf            types.String  `tfsdk:"data_as_of"`
	StalenessSeconds    types.Float64 `tfsdk:"staleness_seconds"`
	SecondsSinceRefresh types.Float64 `tfsdk:"seconds_since_refresh"`
	DataAge             types.String  `tfsdk:"data_age"`
	PerformanceRating   types.String  `tfsdk:"performance_rating"`
	TotalJobs           types.Int64   `tfsdk:"total_jobs"`
	TotalObjects        types.Int64   `tfsdk:"total_objects"`
	MaxStalenessSeconds types.Float64 `tfsdk:"max_staleness_seconds"`
	IsStale             types.Bool    `tfsdk:"is_stale"`
	StaleReason         types.String  `tfsdk:"stale_reason"`
	LastAttemptAt       types.String  `tfsdk:"last_attempt_at"`
	LastOutcome         types.String  `tfsdk:"last_outcome"`
	LastError           types.String  `tfsdk:"last_error"`
	ConsecutiveFailures types.Int64   `tfsdk:"consecutive_failures"`
	NextRunAt           types.String  `tfsdk:"next_run_at"`
	RefreshInProgress   types.Bool    `tfsdk:"refresh_in_progress"`
	SizeBytes           types.Int64   `tfsdk:"size_bytes"`
}

func freshnessAttributes() map[string]schema.Attribute {
	text := func(description string) schema.Attribute {
		return schema.StringAttribute{MarkdownDescription: description, Computed: true}
	}
	integer := func(description string) schema.Attribute {
		return schema.Int64Attribute{MarkdownDescription: description, Computed: true}
	}
	number := func(description string) schema.Attribute {
		return schema.Float64Attribute{MarkdownDescription: description, Computed: true}
	}
	boolean := func(description string) schema.Attribute {
		return schema.BoolAttribute{MarkdownDescription: description, Computed: true}
	}
	return map[string]schema.Attribute{
		"last_refreshed_at":     text("When the last successful refresh finished. Null if none is recorded."),
		"view_name":             text("The view's canonical name: the relation's name for a view in `public`, else `schema.name`; each part quoted as `quote_ident` does."),
		"schema_name":           text("The view's schema, unquoted. Null if the view is gone."),
		"relation_name":         text("The view's name in its schema, unquoted. Null if the view is gone."),
		"is_populated":          boolean("Whether the view can be read: it was filled at least once. Null if the view is gone."),
		"is_scheduled":          boolean("Whether the view has a schedule."),
		"enabled":               boolean("Whether its schedule runs. Null without a schedule."),
		"refresh_duration_ms":   integer("How long the last successful refresh took, in milliseconds."),
		"data_as_of":            text("The data holds every transaction that was committed by then. Null if that cannot be known; it is never overstated."),
		"staleness_seconds":     number("Seconds since `data_as_of`."),
		"seconds_since_refresh": number("Seconds since `last_refreshed_at`."),
		"data_age":              text("Time since `last_refreshed_at` as PostgreSQL prints an interval, such as `00:04:30.5`."),
		"performance_rating":    text("`Fast` for a last refresh of less than 1000 ms, `Normal` for less than 5000 ms, else `Slow`."),
		"total_jobs":            integer("The schedule's `totals.jobs` as of the last refresh."),
		"total_objects":         integer("The schedule's `totals.objects` as of the last refresh."),
		"max_staleness_seconds": number("How old the data may be before the view counts as stale, in seconds."),
		"is_stale":              boolean("Whether the data is too old or its age cannot be known. Null for a view with neither a schedule nor a row in the log."),
		"stale_reason": text("Why it is stale: `never_refreshed`, `not_populated`, `older_than_max_staleness`, `recreated`, `changed_outside` (refreshed by somebody who did not record it), " +
			"`unverified` (a row in the log that cannot be believed), `missing` (there is no such view) or null."),
		"last_attempt_at":      text("When the last attempt to refresh started, whatever came of it."),
		"last_outcome":         text("What came of the last attempt: `succeeded`, `failed`, `skipped` or `abandoned`."),
		"last_error":           text("The error of the last attempt, if it failed."),
		"consecutive_failures": integer("Attempts that have failed since the last one that succeeded."),
		"next_run_at":          text("When the next refresh is due. Null if none is."),
		"refresh_in_progress":  boolean("Whether a recorded refresh of the view is running right now."),
		"size_bytes":           integer("Size of the view with its indexes after its last refresh, in bytes."),
	}
}

func (m *freshnessColumns) set(v freshness.View) {
	m.LastRefreshedAt = timestamp(v.LastRefreshedAt)
	m.ViewName = types.StringValue(v.Name)
	m.SchemaName = types.StringPointerValue(v.Schema)
	m.RelationName = types.StringPointerValue(v.Relation)
	m.IsPopulated = types.BoolPointerValue(v.IsPopulated)
	m.IsScheduled = types.BoolValue(v.IsScheduled)
	m.Enabled = types.BoolPointerValue(v.Enabled)
	m.RefreshDurationMS = types.Int64PointerValue(v.RefreshDurationMS)
	m.DataAsOf = timestamp(v.DataAsOf)
	m.StalenessSeconds = types.Float64PointerValue(v.StalenessSeconds)
	m.SecondsSinceRefresh = types.Float64PointerValue(v.SecondsSinceRefresh)
	m.DataAge = types.StringPointerValue(v.DataAge)
	m.PerformanceRating = types.StringPointerValue(v.PerformanceRating)
	m.TotalJobs = types.Int64PointerValue(v.TotalJobs)
	m.TotalObjects = types.Int64PointerValue(v.TotalObjects)
	m.MaxStalenessSeconds = types.Float64PointerValue(v.MaxStalenessSeconds)
	m.IsStale = types.BoolPointerValue(v.IsStale)
	m.StaleReason = types.StringPointerValue(v.StaleReason)
	m.LastAttemptAt = timestamp(v.LastAttemptAt)
	m.LastOutcome = types.StringPointerValue(v.LastOutcome)
	m.LastError = types.StringPointerValue(v.LastError)
	m.ConsecutiveFailures = types.Int64Value(v.ConsecutiveFailures)
	m.NextRunAt = timestamp(v.NextRunAt)
	m.RefreshInProgress = types.BoolValue(v.RefreshInProgress)
	m.SizeBytes = types.Int64PointerValue(v.SizeBytes)
}

// timestamp cuts to milliseconds rather than rounding: data is never said to be
// fresher than it is.
func timestamp(t *time.Time) types.String {
	if t == nil {
		return types.StringNull()
	}
	return types.StringValue(t.UTC().Truncate(time.Millisecond).Format("2006-01-02T15:04:05.000Z07:00"))
}
