package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-timetypes/timetypes"
	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

func (r *refreshLogResource) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "The refresh log and the tables and views that belong to it: `materialized_view_refresh_log`, which other programs may read and write too, " +
			"the schedules, the state and history of refreshes, and `materialized_view_freshness`, which says how fresh each view is.\n\n" +
			"It installs what is missing, upgrades what is older and repairs what was dropped; the plan shows that as a change of `version`. " +
			"An existing `materialized_view_refresh_log` is adopted with its rows, and is kept when this resource is destroyed. " +
			"If its columns do not fit, an error names them. `matview-exporter migrate` does the same. One such resource per database is enough.",
		Attributes: refreshLogAttributes,
	}
}

var roleValidators = []validator.Set{setvalidator.NoNullValues(), setvalidator.ValueStringsAre(stringvalidator.LengthBetween(1, maxIdentifier))}

var refreshLogAttributes = map[string]schema.Attribute{
	"id": schema.StringAttribute{
		MarkdownDescription: "The schema.",
		Computed:            true,
	},
	"schema": schema.StringAttribute{
		MarkdownDescription: "Schema to install in. It is created if it does not exist, and never dropped. Default: the provider's `log_schema`. A change creates new, empty tables in the other schema and drops these.",
		Optional:            true,
		Computed:            true,
		Validators:          []validator.String{schemaName()},
	},
	"history_retention": schema.StringAttribute{
		MarkdownDescription: "How long an attempt to refresh stays in `materialized_view_refresh_history`, as a duration such as `720h`. Default: `720h` (30 days). Changed in place; the exporter removes what is older.",
		Optional:            true,
		Computed:            true,
		CustomType:          timetypes.GoDurationType{},
		Default:             stringdefault.StaticString("720h"),
		Validators:          []validator.String{positiveDuration()},
		PlanModifiers:       []planmodifier.String{sameDuration()},
	},
	"track_external_refreshes": schema.BoolAttribute{
		MarkdownDescription: "Whether an event trigger records every `REFRESH MATERIALIZED VIEW` by anyone else (psql, pg_cron, a function), of any view in the database, in the transaction that refreshes. " +
			"Otherwise such a view is reported as `changed_outside`, and its age is unknown. Default: `false`. " +
			"Turning it on or off requires a superuser; on Amazon RDS and Aurora, the master user or another member of `rds_superuser`. " +
			"Before a major upgrade of RDS, and of any server where `pg_upgrade` or a restore runs without a superuser, set it to `false` and apply: event triggers must be dropped there, and are part of a `pg_dump`. " +
			"See the guide *Refreshes by others*.",
		Optional: true,
		Computed: true,
		Default:  booldefault.StaticBool(false),
	},
	"writer_roles": schema.SetAttribute{
		MarkdownDescription: "Roles that record refreshes, such as the exporter's login: they may read all of these tables and write the log, the state and the history, but not the schedules. " +
			"They must exist. Changed in place: a role that is removed loses these privileges, and a role that has lost one of them shows as a change.",
		Optional:    true,
		ElementType: types.StringType,
		Validators:  roleValidators,
	},
	"reader_roles": schema.SetAttribute{
		MarkdownDescription: "Roles that read freshness: `SELECT` on the log, the schedules, the state, the history and the views over them, and nothing else. " +
			"They must exist. Changed in place, as `writer_roles`.",
		Optional:    true,
		ElementType: types.StringType,
		Validators:  roleValidators,
	},
	"deletion_protection": schema.BoolAttribute{
		MarkdownDescription: "Whether to refuse to destroy this resource, because schedules and history would be lost. Default: `true`. To destroy it, set `false` and apply first.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(true),
	},
	"version": schema.Int64Attribute{
		MarkdownDescription: "Version of the installed tables; `0` while something is missing, which the next apply repairs.",
		Computed:            true,
	},
}
