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
		MarkdownDescription: "When `matview-exporter` refreshes a materialized view, and how. It is one row of `materialized_view_refresh_schedule`, so a `matview_refresh_log` must be there first.\n\n" +
			"Every change is made in place, takes effect within a second and waits for no refresh; only `log_schema` makes a new schedule. " +
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
		MarkdownDescription: "The materialized view: `job_progress` or `schema.name`, with parts that hold dots or quotes in double quotes; best a reference such as `matview_view.job_progress.id`, so that the view is made first. " +
			"Changed in place: the schedule goes over to the other view, or follows the view's new name.",
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
	"target_staleness": optionalDuration("How old the data may grow, at least `5s`: a goal, not a limit. Each refresh starts early enough for the 95th percentile of how long the last fifty took. Materialized views that this one reads are refreshed before it where their data is older than half of this: those without a schedule, and those that theirs refreshes too rarely; not those whose schedule is disabled. "+
		"Where refreshes take so long that the goal cannot be met, the exporter's log and `matview-exporter status` say so. Exactly one of `cron`, `every` and `target_staleness` is required.", durationBetween(5*time.Second, maxInterval, time.Microsecond)),
	"time_zone": schema.StringAttribute{
		MarkdownDescription: "Time zone of `cron`, by its IANA name such as `America/New_York`. Default: `UTC`.",
		Optional:            true,
		Computed:            true,
		Default:             stringdefault.StaticString("UTC"),
		Validators:          []validator.String{timeZone()},
	},
	"method": schema.StringAttribute{
		MarkdownDescription: "How to refresh: `blocking` (`REFRESH MATERIALIZED VIEW`, readers wait), `concurrently` (readers never wait; needs a unique index and a populated view; takes several times as long), `swap` (fills a twin of the view and exchanges the two, for which readers wait some milliseconds; needs `CREATE` on the schema, membership in the owners of the plain views over it, and nothing else that depends on it) or `auto`, which chooses by what the last refreshes took and changed, and says why in the history. Default: `auto`.",
		Optional:            true,
		Computed:            true,
		Default:             stringdefault.StaticString("auto"),
		Validators:          []validator.String{stringvalidator.OneOf(refresh.Methods...)},
	},
	"enabled": schema.BoolAttribute{
		MarkdownDescription: "Whether the schedule runs. A disabled one keeps its row, and the view still shows as stale when it grows old. Default: `true`.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(true),
	},
	"jitter": optionalDuration("Spread the runs of many views over up to this long after they are due. Each view's own delay is always the same: with `every` the runs are at whole multiples of it, in UTC, and the delay; with `target_staleness` they are earlier by it, a quarter of the target at most. Default: none.", positiveDuration()),
	"lock_timeout": schema.StringAttribute{
		MarkdownDescription: "How long a refresh waits for its lock on the view before the attempt fails; while a blocking refresh waits, so does every new reader. Whole milliseconds. Default: `10s`.",
		Optional:            true,
		Computed:            true,
		CustomType:          timetypes.GoDurationType{},
		Default:             stringdefault.StaticString("10s"),
		Validators:          []validator.String{timeoutDuration()},
		PlanModifiers:       []planmodifier.String{sameDuration()},
	},
	"statement_timeout": optionalDuration("How long a refresh may take before it is cancelled and counts as failed. Whole milliseconds. Default: no limit of its own.", timeoutDuration()),
	"max_staleness":     optionalDuration("How old the data may be before the view counts as stale. Default: twice the longest gap between two runs, plus the usual duration of a refresh, plus 61 seconds with `skip_unchanged`.", positiveDuration()),
	"skip_unchanged": schema.BoolAttribute{
		MarkdownDescription: "Skip a refresh where nothing that the view's query reads has changed since the last one. Needs PostgreSQL 15 or later. " +
			"A skip moves `data_as_of` on to what it can prove: 61 seconds ago, or 61 seconds before the start of the longest statement or transaction that is open in the database. " +
			"Refreshed it is all the same where that would leave it older than `max_staleness` before its next run, " +
			"24 hours after the last refresh (ten gaps of the schedule, where that is longer), and wherever it cannot be told: if the query calls functions that are not immutable, or are written in SQL or PL/pgSQL, " +
			"reads foreign or unlogged tables, system catalogs, sequences or tables with row security, if counters were reset, or if the exporter's role lacks `pg_read_all_stats`. The history's `reason` says which. Default: `false`.",
		Optional: true,
		Computed: true,
		Default:  booldefault.StaticBool(false),
	},
	"settings": schema.MapAttribute{
		MarkdownDescription: "Settings of PostgreSQL for the refresh alone, such as `{ work_mem = \"256MB\" }`. Only those that a plain role may set, and not `role`, `client_encoding` and others that a refresh relies on. Timeouts have arguments of their own. Default: none.",
		Optional:            true,
		ElementType:         types.StringType,
		Validators:          []validator.Map{mapvalidator.KeysAre(settingName())},
	},
	"totals": schema.SingleNestedAttribute{
		MarkdownDescription: "SQL expressions over the view, evaluated after each refresh and recorded with it, such as `count(*)`. They are checked against the view at plan. " +
			"One that fails later records null and a warning; the refresh itself stands. Default: none.",
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
		MarkdownDescription: "Schema of the tables, where `matview_refresh_log` installed them. Default: the provider's `log_schema`. Another schema makes a new schedule there and removes this one.",
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

// ownSettings are what a refresh sets itself: overriding one would break what is
// recorded about it, or whose rights it has.
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
