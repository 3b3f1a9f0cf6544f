package provider

import (
	"context"
	"maps"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/boolplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/listplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// Values of on_definition_change.
const (
	onChangeSwap     = "swap"
	onChangeRecreate = "recreate"
)

func (r *viewResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	attributes := maps.Clone(viewAttributes)
	attributes["timeouts"] = timeouts.Attributes(ctx, viewTimeouts)
	resp.Schema = schema.Schema{
		MarkdownDescription: "A PostgreSQL materialized view and its indexes.\n\n" +
			"Definitions are compared by meaning: the server brings the configured query and the stored one into the same form, so that a different layout, comment, case of keywords or trailing semicolon is not a change. " +
			"The server checks the query at plan, and an error gives the line and column. " +
			"If the refresh log is installed in the provider's `log_schema`, creating or rebuilding a view with data is recorded there as a refresh.",
		Attributes: attributes,
	}
}

var viewTimeouts = timeouts.Opts{
	Create:            true,
	CreateDescription: "How long creating, filling and indexing the view may take, as a duration such as `30m`. After that the server cancels it, and nothing is left behind. Default: `1h`.",
	Update:            true,
	UpdateDescription: "How long a change may take, as a duration such as `30m`; a change of the definition fills the view again. After that the server cancels it, and nothing is changed. Default: `1h`.",
	Delete:            true,
	DeleteDescription: "How long dropping the view may take, as a duration such as `5m`. It never waits longer than " + matview.LockTimeout.String() + " for a lock. Default: `10m`.",
}

// Several checks of an attribute are one validator, by All: the framework traces each
// call of a validator to standard error, which is a large part of what a plan costs.
var viewAttributes = map[string]schema.Attribute{
	"name": schema.StringAttribute{
		MarkdownDescription: "Name of the view, without quotes: `job_progress`, or `Odd name` for what SQL writes as `\"Odd name\"`. A change renames the view in place, and its rows in the refresh log, state and schedule of `log_schema`; readers of the old name fail from then on.",
		Required:            true,
		Validators:          []validator.String{identifier()},
	},
	"schema": schema.StringAttribute{
		MarkdownDescription: "Schema of the view. It must exist. A change moves the view and its indexes in place. Default: `public`.",
		Optional:            true,
		Computed:            true,
		Default:             stringdefault.StaticString(matview.PublicSchema),
		Validators:          []validator.String{identifier()},
	},
	"definition": schema.StringAttribute{
		MarkdownDescription: "The query: a `SELECT`, `VALUES`, `TABLE` or `WITH` statement. A trailing semicolon is allowed; `WITH [NO] DATA` is not, see `with_data`. " +
			"Relations without a schema are found by the `search_path` of the provider's session. " +
			"A change of meaning replaces the view as `on_definition_change` says. " +
			"A change of text alone changes nothing. " +
			"If the text differs from the state's in more than layout, as it may after an import, each plan creates a temporary view to compare them, until any change of the view is applied: Terraform stores nothing of an empty plan. With a thousand such views a plan takes twice as long.",
		Required:   true,
		Validators: []validator.String{text()},
	},
	"column_names": schema.ListAttribute{
		MarkdownDescription: "Names for the columns that `definition` returns, in order and without quotes, as in `CREATE MATERIALIZED VIEW name (a, b)`; columns beyond the list keep theirs. A change of a name is a change of the definition. Default: the names that the query gives.",
		Optional:            true,
		ElementType:         types.StringType,
		Validators:          []validator.List{listvalidator.All(listvalidator.SizeAtLeast(1), listvalidator.NoNullValues(), listvalidator.ValueStringsAre(identifier()))},
	},
	"on_definition_change": schema.StringAttribute{
		MarkdownDescription: "How a changed definition is applied. `swap`: a replacement is built beside the old view, filled, indexed and analyzed while readers continue, and then exchanged for it in an instant; " +
			"it gets the privileges, comments, storage, statistics settings and indexes of the old view, and plain views that depend on the old view are changed to read it. It waits for long readers for at most " + matview.LockTimeout.String() + ", and then changes nothing. " +
			"Anything that cannot be carried over, such as a materialized view that reads this one, is an error at plan that names it. " +
			"The owner needs `CREATE` on the schema, and there must be space for both views. If the columns change, a prepared statement that reads the view may fail once. " +
			"`recreate`: the view is dropped and created again in one transaction, with its owner, comment, privileges and indexes: readers wait until it is filled, and nothing changes if that fails. The plan fails if other objects depend on the view, and warns of what would be lost. Default: `swap`.",
		Optional:   true,
		Computed:   true,
		Default:    stringdefault.StaticString(onChangeSwap),
		Validators: []validator.String{stringvalidator.OneOf(onChangeSwap, onChangeRecreate)},
	},
	"tablespace":    optionalName("Tablespace of the view's data. A change is made in place and rewrites all data; readers wait. Default: for a new view `default_tablespace` of the provider's session; an existing one is not moved."),
	"access_method": optionalName("Table access method, such as `heap`. A change is made in place, requires PostgreSQL 15 or later, and rewrites all data; readers wait. Default: for a new view `default_table_access_method` of the provider's session; an existing one is not changed."),
	"storage_parameters": schema.MapAttribute{
		MarkdownDescription: "Storage parameters of the view, such as `{ fillfactor = \"70\", \"toast.autovacuum_enabled\" = \"off\" }`, with values as the server stores them. The map is complete: a parameter that is not in it is reset. A change is made in place. Default: storage parameters are not managed; after an import, the state contains those that were found.",
		Optional:            true,
		Computed:            true,
		PlanModifiers:       []planmodifier.Map{keepImported{}},
		ElementType:         types.StringType,
		Validators:          []validator.Map{mapvalidator.All(mapvalidator.NoNullValues(), mapvalidator.KeysAre(parameterName()))},
	},
	"indexes": schema.MapNestedAttribute{
		MarkdownDescription: "The indexes of the view, by name. The map is complete: an index that is not in it is dropped, and `{}` means that there are none. Default: indexes are not managed; after an import, the state contains those that were found. " +
			"A change builds new indexes before it drops others; a refresh waits for all of that, readers only for the drop. A unique index on plain columns, without `where`, lets the view be refreshed concurrently.",
		Optional:      true,
		Computed:      true,
		PlanModifiers: []planmodifier.Map{keepImported{}},
		NestedObject:  schema.NestedAttributeObject{Attributes: indexAttributes},
		Validators:    []validator.Map{mapvalidator.KeysAre(identifier())},
	},
	"with_data": schema.BoolAttribute{
		MarkdownDescription: "Whether to run the query and fill the view when it is created. A view without data cannot be read until it is refreshed. `true` also fills a view that has lost its data, as after `REFRESH MATERIALIZED VIEW … WITH NO DATA`; `false` leaves the data as it is. Default: `true`.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(true),
	},
	"owner": optionalName("Role that owns the view, and as which its query runs. The provider's role must be a member of it, and it needs `CREATE` on the schema. A change is made in place. Default: the provider's role for a new view; the owner of an existing one is not changed."),
	"comment": schema.StringAttribute{
		MarkdownDescription: "Comment on the view. A change is made in place. Default: no comment.",
		Optional:            true,
		Validators:          []validator.String{text()},
	},
	// It is unknown in the plan of a new view, although it could be computed: whatever refers to
	// the view by its id, such as a data source, thus waits for it.
	"id": schema.StringAttribute{
		MarkdownDescription: "Name of the view as the refresh log writes it: the bare name in schema `public`, else `schema.name`; each part quoted where SQL needs it. It is also the import ID.",
		Computed:            true,
		PlanModifiers:       []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
	},
	"canonical_definition": schema.StringAttribute{
		MarkdownDescription: "The query as the server stores it, with every name qualified.",
		Computed:            true,
		PlanModifiers:       []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
	},
	"output_columns": schema.ListNestedAttribute{
		MarkdownDescription: "The columns of the view, in order.",
		Computed:            true,
		PlanModifiers:       []planmodifier.List{listplanmodifier.UseStateForUnknown()},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"name": schema.StringAttribute{Computed: true, MarkdownDescription: "Name of the column, without quotes."},
			"type": schema.StringAttribute{Computed: true, MarkdownDescription: "Type of the column in SQL, such as `numeric(10,2)`; qualified unless it is built in."},
		}},
	},
	"supports_concurrent_refresh": schema.BoolAttribute{
		MarkdownDescription: "Whether an index allows `REFRESH MATERIALIZED VIEW CONCURRENTLY`: a unique one on plain columns, without `where`. The view must also be populated at the time of the refresh.",
		Computed:            true,
		PlanModifiers:       []planmodifier.Bool{boolplanmodifier.UseStateForUnknown()},
	},
}

// optionalName is the name of something that the view keeps if the configuration
// leaves it out.
func optionalName(description string) schema.StringAttribute {
	return schema.StringAttribute{
		MarkdownDescription: description,
		Optional:            true,
		Computed:            true,
		PlanModifiers:       []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
		Validators:          []validator.String{identifier()},
	}
}

var indexAttributes = map[string]schema.Attribute{
	"keys": schema.ListAttribute{
		MarkdownDescription: "The keys in order, each as in `CREATE INDEX`: a column, a function call or an expression in parentheses, optionally followed by `COLLATE`, an operator class, `DESC` or `NULLS FIRST`: `job_id`, `created_at DESC`, `title gin_trgm_ops`, `(a + b)`. Compared by meaning, as `definition` is. A change rebuilds the index.",
		Required:            true,
		ElementType:         types.StringType,
		Validators:          []validator.List{listvalidator.All(listvalidator.SizeAtLeast(1), listvalidator.NoNullValues(), listvalidator.ValueStringsAre(text()))},
	},
	"unique": schema.BoolAttribute{
		MarkdownDescription: "Whether no two rows may have the same keys; a refresh that yields such rows fails. A change rebuilds the index. Default: `false`.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(false),
	},
	"method": schema.StringAttribute{
		MarkdownDescription: "Access method: `btree`, `hash`, `gin`, `gist`, `spgist`, `brin`, or one of an extension. A change rebuilds the index. Default: `btree`.",
		Optional:            true,
		Computed:            true,
		Default:             stringdefault.StaticString(matview.DefaultMethod),
		Validators:          []validator.String{identifier()},
	},
	"where": schema.StringAttribute{
		MarkdownDescription: "Condition for a row to be indexed, such as `status = 'failed'`. Compared by meaning. A change rebuilds the index. Default: every row is indexed.",
		Optional:            true,
		Validators:          []validator.String{text()},
	},
	"nulls_not_distinct": schema.BoolAttribute{
		MarkdownDescription: "Whether a unique index considers nulls equal. Requires PostgreSQL 15 or later. A change rebuilds the index. Default: `false`.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(false),
	},
	"storage_parameters": schema.MapAttribute{
		MarkdownDescription: "Storage parameters of the index, such as `{ fillfactor = \"70\" }`, with values as the server stores them. A change rebuilds the index. Default: none.",
		Optional:            true,
		ElementType:         types.StringType,
		Validators:          []validator.Map{mapvalidator.All(mapvalidator.SizeAtLeast(1), mapvalidator.NoNullValues(), mapvalidator.KeysAre(parameterName()))},
	},
	"tablespace": schema.StringAttribute{
		MarkdownDescription: "Tablespace of the index. A change rebuilds the index. Default: the database's.",
		Optional:            true,
		Validators:          []validator.String{identifier()},
	},
	"include": schema.ListAttribute{
		MarkdownDescription: "Names of columns that the index includes besides its keys, without quotes. A change rebuilds the index. Default: none.",
		Optional:            true,
		ElementType:         types.StringType,
		Validators:          []validator.List{listvalidator.All(listvalidator.SizeAtLeast(1), listvalidator.NoNullValues(), listvalidator.ValueStringsAre(identifier()))},
	},
}
