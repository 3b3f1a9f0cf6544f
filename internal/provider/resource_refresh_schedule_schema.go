package provider

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timetypes/timetypes"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

func (r *refreshScheduleResource) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "When `matview-exporter` refreshes a materialized view, and how. It is one row of `materialized_view_refresh_schedule`, so a `matview_refresh_log` must exist first.\n\n" +
			"Every change is made in place, takes effect within a second and waits for no refresh; only a change of `log_schema` creates a new schedule. " +
			"Durations are written as `90s`, `5m` or `1h30m`.",
		Attributes: refreshScheduleAttributes,
	}
}

var refreshScheduleAttributes = map[string]schema.Attribute{
	"id": schema.StringAttribute{
		MarkdownDescription: "The view's canonical name, under which the schedule is stored: the relation's name for a view in `public`, else `schema.name`; each part quoted as `quote_ident` does.",
		Computed:            true,
	},
	"view": schema.StringAttribute{
		MarkdownDescription: "The materialized view: `job_progress` or `schema.name`, with double quotes around parts that contain dots or quotes. Prefer a reference such as `matview_view.job_progress.id`, so that the view is created first. " +
			"Changed in place: the schedule moves to the other view, or follows the view's new name.",
		Required:      true,
		Validators:    []validator.String{viewName()},
		PlanModifiers: []planmodifier.String{sameView()},
	},
	"cron": schema.StringAttribute{
		MarkdownDescription: "When to refresh: five fields (minute, hour, day of month, month, day of week) as in crontab, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`; in `time_zone`. Exactly one of `cron`, `every` and `target_staleness` is required.",
		Optional:            true,
		Validators:          []validator.String{cronExpression()},
	},
	"every": optionalDuration("How often to refresh: the time from one refresh's start to the next one's, at least `1s`. Exactly one of `cron`, `every` and `target_staleness` is required.", durationBetween(time.Second, maxInterval, time.Microsecond)),
	"target_staleness": optionalDuration("How old the data may become, at least `5s`: a target, not a limit. Each refresh starts early enough for the 95th percentile of the last fifty durations. Materialized views that this one reads are refreshed before it if their data is older than half of the target and they have no schedule, or one that refreshes them too rarely; not if their schedule is disabled. "+
		"If refreshes take too long to meet the target, the exporter's log and `matview-exporter status` say so. Exactly one of `cron`, `every` and `target_staleness` is required.", durationBetween(5*time.Second, maxInterval, time.Microsecond)),
	"time_zone": schema.StringAttribute{
		MarkdownDescription: "Time zone of `cron`, by its IANA name such as `America/New_York`. Default: `UTC`.",
		Optional:            true,
		Computed:            true,
		Default:             stringdefault.StaticString("UTC"),
		Validators:          []validator.String{timeZone()},
	},
	"method": schema.StringAttribute{
		MarkdownDescription: "How to refresh: `blocking` (`REFRESH MATERIALIZED VIEW`, readers wait), `concurrently` (readers never wait; needs a unique index and a populated view; takes several times as long), `swap` (fills a replacement of the view and exchanges the two, for which readers wait some milliseconds; needs `CREATE` on the schema and membership in the owners of plain views over it, and nothing else may depend on it) or `auto`, which chooses by the duration and the changes of the last refreshes, and gives the reason in the history. Default: `auto`.",
		Optional:            true,
		Computed:            true,
		Default:             stringdefault.StaticString("auto"),
		Validators:          []validator.String{stringvalidator.OneOf(refresh.Methods...)},
	},
	"enabled": schema.BoolAttribute{
		MarkdownDescription: "Whether the schedule runs. A disabled one keeps its row, and the view is still reported as stale when it becomes too old. Default: `true`.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(true),
	},
	"jitter": optionalDuration("Spread the runs of many views over up to this long after they are due. The delay of a view is always the same. With `every`, runs are due at whole multiples of the interval in UTC, plus the delay; with `target_staleness` they are earlier by the delay, which is then at most a quarter of the target. Default: none.", positiveDuration()),
	"lock_timeout": schema.StringAttribute{
		MarkdownDescription: "How long a refresh waits for its lock on the view before the attempt fails; while a blocking refresh waits, so does every new reader. Whole milliseconds. Default: `10s`.",
		Optional:            true,
		Computed:            true,
		CustomType:          timetypes.GoDurationType{},
		Default:             stringdefault.StaticString("10s"),
		Validators:          []validator.String{timeoutDuration()},
		PlanModifiers:       []planmodifier.String{sameDuration()},
	},
	"statement_timeout": optionalDuration("How long a refresh may take before it is cancelled and counts as failed. Whole milliseconds. Default: no limit.", timeoutDuration()),
	"max_staleness":     optionalDuration("How old the data may be before the view counts as stale. Default: twice the longest gap between two runs, plus the usual duration of a refresh, plus 61 seconds with `skip_unchanged`.", positiveDuration()),
	"skip_unchanged": schema.BoolAttribute{
		MarkdownDescription: "Skip a refresh if nothing that the view's query reads has changed since the last one. Requires PostgreSQL 15 or later. " +
			"A skip advances `data_as_of` to what it can prove: 61 seconds ago, or 61 seconds before the start of the longest statement or transaction that is open in the database. " +
			"It is still refreshed if it would otherwise become older than `max_staleness` before its next run, " +
			"24 hours after the last refresh (or ten gaps of the schedule, if that is longer), and whenever a change cannot be ruled out: if the query calls functions that are not immutable, or are written in SQL or PL/pgSQL, " +
			"reads foreign or unlogged tables, system catalogs, sequences or tables with row security, if counters were reset, or if the exporter's role lacks `pg_read_all_stats`. The `reason` in the history says which. Default: `false`.",
		Optional: true,
		Computed: true,
		Default:  booldefault.StaticBool(false),
	},
	"settings": schema.MapAttribute{
		MarkdownDescription: "PostgreSQL settings for the refresh only, such as `{ work_mem = \"256MB\" }`: those that any role may set, except `role`, `client_encoding` and others that a refresh relies on. Timeouts have their own arguments. Default: none.",
		Optional:            true,
		ElementType:         types.StringType,
		Validators:          []validator.Map{mapvalidator.KeysAre(settingName())},
	},
	"totals": schema.SingleNestedAttribute{
		MarkdownDescription: "SQL expressions over the view, evaluated after each refresh and recorded with it, such as `count(*)`. They are checked against the view at plan. " +
			"If one fails later, the refresh records null and a warning, and still succeeds. Default: none.",
		Optional: true,
		Attributes: map[string]schema.Attribute{
			"jobs": schema.StringAttribute{
				MarkdownDescription: "Expression for `total_jobs`, an integer.",
				Optional:            true,
				Validators:          []validator.String{stringvalidator.LengthAtLeast(1)},
			},
			"objects": schema.StringAttribute{
				MarkdownDescription: "Expression for `total_objects`, a big integer.",
				Optional:            true,
				Validators:          []validator.String{stringvalidator.LengthAtLeast(1)},
			},
		},
	},
	"log_schema": schema.StringAttribute{
		MarkdownDescription: "Schema of the tables, where `matview_refresh_log` installed them. Default: the provider's `log_schema`. A change creates a new schedule in the other schema and removes this one.",
		Optional:            true,
		Computed:            true,
		Validators:          []validator.String{schemaName()},
	},
}

func optionalDuration(description string, limits validator.String) schema.StringAttribute {
	return schema.StringAttribute{
		MarkdownDescription: description,
		Optional:            true,
		CustomType:          timetypes.GoDurationType{},
		Validators:          []validator.String{limits},
		PlanModifiers:       []planmodifier.String{sameDuration()},
	}
}

func viewName() validator.String {
	return check{
		summary:     "Invalid view name",
		description: "a name such as job_progress or schema.name, with quoted parts where needed",
		err: func(value string) error {
			_, err := matview.ParseName(value)
			return err
		},
	}
}

func cronExpression() validator.String {
	return check{
		summary:     "Invalid cron expression",
		description: "a cron expression of five fields",
		err: func(value string) error {
			if value == "" {
				return fmt.Errorf("the expression is empty")
			}
			return schedule.ValidateCron(value)
		},
	}
}

func timeZone() validator.String {
	return check{
		summary:     "Invalid time zone",
		description: "a time zone's IANA name",
		err: func(value string) error {
			if value == "" {
				return fmt.Errorf("the name is empty; leave time_zone out for UTC")
			}
			return schedule.ValidateTimeZone(value)
		},
	}
}

var settingSyntax = regexp.MustCompile(`^[a-z_][a-z0-9_.]*$`)

// ownSettings are the settings that a refresh sets itself. Overriding one would
// falsify what it records, or change whose privileges it has.
var ownSettings = []string{
	"role", "session_authorization", "transaction_isolation", "transaction_read_only", "transaction_deferrable",
	"default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable",
	"idle_in_transaction_session_timeout", "transaction_timeout", "client_connection_check_interval",
}

func settingName() validator.String {
	return check{
		summary:     "Invalid setting",
		description: "a setting of PostgreSQL in lower case",
		err: func(name string) error {
			switch {
			case !settingSyntax.MatchString(name):
				return fmt.Errorf("%q is no name of a setting: lower case letters, digits, underscores and dots", name)
			case name == "lock_timeout" || name == "statement_timeout":
				return fmt.Errorf("%q has an argument of its own: set %s beside settings", name, name)
			case slices.Contains(ownSettings, name) || strings.HasPrefix(name, "matview."):
				return fmt.Errorf("%q belongs to the refresh itself and cannot be changed", name)
			}
			return nil
		},
	}
}
