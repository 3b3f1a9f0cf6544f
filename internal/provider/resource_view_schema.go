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
		MarkdownDescription: "A materialized view of PostgreSQL, and its indexes.\n\n" +
			"Definitions are compared by meaning: the server itself brings the configured query and the one it stores into the same form, so that layout, comments, the case of keywords and a trailing semicolon are no change. " +
			"The query is checked by the server at plan, and an error names its line and column. " +
			"If the refresh log is installed in the provider's `log_schema`, creating or rebuilding a view with data is recorded there as a refresh.",
		Attributes: attributes,
	}
}

var viewTimeouts = timeouts.Opts{
	Create:            true,
	CreateDescription: "How long creating, filling and indexing the view may take, as a duration such as `30m`. Then the server cancels it and nothing is left. Default: `1h`.",
	Update:            true,
	UpdateDescription: "How long a change may take, as a duration such as `30m`; a change of the definition fills the view again. Then the server cancels it and nothing is changed. Default: `1h`.",
	Delete:            true,
	DeleteDescription: "How long dropping the view may take, as a duration such as `5m`. No wait for a lock is longer than " + matview.LockTimeout.String() + " in any case. Default: `10m`.",
}

var viewAttributes = map[string]schema.Attribute{
	"name": schema.StringAttribute{
		MarkdownDescription: "Name of the view, without quotes around it: `job_progress`, or `Odd name` for what SQL writes as `\"Odd name\"`. A change renames the view in place, and its rows in the refresh log, state and schedule of `log_schema`; readers of the old name fail from then on.",
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
			"A text in other words than the state's, as after an import, costs the server a temporary view at each plan until any change of the view is applied, for Terraform keeps nothing of an empty plan; with a thousand such views that doubled the time of a plan. Another layout costs nothing.",
		Required:   true,
		Validators: []validator.String{text()},
	},
	"column_names": schema.ListAttribute{
		MarkdownDescription: "Names for the columns that `definition` returns, in order and without quotes, as in `CREATE MATERIALIZED VIEW name (a, b)`; columns beyond the list keep theirs. A change of a name is a change of the definition. Without it, the query names the columns.",
		Optional:            true,
		ElementType:         types.StringType,
		Validators:          []validator.List{listvalidator.SizeAtLeast(1), listvalidator.NoNullValues(), listvalidator.ValueStringsAre(identifier())},
	},
	"on_definition_change": schema.StringAttribute{
		MarkdownDescription: "How a new definition comes about. `swap`: the new view is built beside the old one, filled, indexed and analyzed while readers go on, and exchanged for it in a moment; " +
			"privileges, comments, storage, statistics settings and indexes are those of before, and plain views over it are moved along. The wait for long readers is at most " + matview.LockTimeout.String() + ", then nothing is changed. " +
			"What cannot be carried over, such as a materialized view that reads this one, is an error at plan that names it. " +
			"It needs `CREATE` on the schema for the owner, and room for both views. While other columns come, a prepared statement over the view may fail once. " +
			"`recreate`: the view is dropped and created again in one transaction, with its owner, comment, privileges and indexes: readers wait for it to be filled, and nothing changes if that fails. It is refused at plan while other objects depend on the view, and a warning at plan names what would be lost. Default: `swap`.",
		Optional:   true,
		Computed:   true,
		Default:    stringdefault.StaticString(onChangeSwap),
		Validators: []validator.String{stringvalidator.OneOf(onChangeSwap, onChangeRecreate)},
	},
	"tablespace":    optionalName("Tablespace of the view's data. A change is made in place, for which all of it is written anew: readers wait. Default: `default_tablespace` of the provider's session, and where the view is after that."),
	"access_method": optionalName("Table access method, such as `heap`. A change is made in place, which takes PostgreSQL 15 or later, and for which all of it is written anew: readers wait. Default: `default_table_access_method` of the provider's session, and what the view has after that."),
	"storage_parameters": schema.MapAttribute{
		MarkdownDescription: "Storage parameters of the view, such as `{ fillfactor = \"70\", \"toast.autovacuum_enabled\" = \"off\" }`, with values as the server stores them. The map is all of them: one that is not in it is reset. A change is made in place. Without the argument, they are not managed here and stay as they are; after an import, the state holds those that were found.",
		Optional:            true,
		Computed:            true,
		PlanModifiers:       []planmodifier.Map{keepImported{}},
		ElementType:         types.StringType,
		Validators:          []validator.Map{mapvalidator.NoNullValues(), mapvalidator.KeysAre(parameterName())},
	},
	"indexes": schema.MapNestedAttribute{
		MarkdownDescription: "The indexes of the view, by name. The map is all of them: an index that is not in it is dropped. `{}` means none; without the argument, indexes are not managed here and stay as they are; after an import, the state holds those that were found. " +
			"A change builds new indexes before it drops others; meanwhile readers go on, and wait only for the drop, while a refresh waits. A unique index on plain columns, without `where`, lets the view be refreshed concurrently.",
		Optional:      true,
		Computed:      true,
		PlanModifiers: []planmodifier.Map{keepImported{}},
		NestedObject:  schema.NestedAttributeObject{Attributes: indexAttributes},
		Validators:    []validator.Map{mapvalidator.KeysAre(identifier())},
	},
	"with_data": schema.BoolAttribute{
		MarkdownDescription: "Whether to run the query and fill the view when it is created. A view without data cannot be read until it is refreshed. `true` also fills a view that is found without data later, as after `REFRESH MATERIALIZED VIEW … WITH NO DATA`; `false` leaves the data as it is. Default: `true`.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(true),
	},
	"owner": optionalName("Role that owns the view, and as which its query runs. The provider's role must be a member of it, and it needs `CREATE` on the schema. A change is made in place. Default: the provider's role, and whoever owns the view after that."),
	"comment": schema.StringAttribute{
		MarkdownDescription: "Comment on the view. A change is made in place; without the argument, the view has no comment.",
		Optional:            true,
		Validators:          []validator.String{text()},
	},
	// Not planned before the view is there, though it could be: what takes the view
	// by its id, a data source above all, waits for it that way.
	"id": schema.StringAttribute{
		MarkdownDescription: "Name of the view as the refresh log writes it: the bare name in schema `public`, else `schema.name`; each part quoted where SQL needs it. It is the import ID too.",
		Computed:            true,
		PlanModifiers:       []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
	},
	"canonical_definition": schema.StringAttribute{
		MarkdownDescription: "The query as the server stores it, every name qualified.",
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
		MarkdownDescription: "Whether an index allows `REFRESH MATERIALIZED VIEW CONCURRENTLY`: a unique one on plain columns, without `where`. The view must be populated as well when the time comes.",
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
		MarkdownDescription: "What is indexed, in order, each as in `CREATE INDEX`: a column, or an expression in parentheses or a function call, with `COLLATE`, operator class, `DESC` and `NULLS FIRST` after it where wanted: `job_id`, `created_at DESC`, `title gin_trgm_ops`, `(a + b)`. Compared by meaning, as `definition` is. A change builds the index anew.",
		Required:            true,
		ElementType:         types.StringType,
		Validators:          []validator.List{listvalidator.SizeAtLeast(1), listvalidator.NoNullValues(), listvalidator.ValueStringsAre(text())},
	},
	"unique": schema.BoolAttribute{
		MarkdownDescription: "Whether no two rows may have the same keys; a refresh that would bring such rows fails. A change builds the index anew. Default: `false`.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(false),
	},
	"method": schema.StringAttribute{
		MarkdownDescription: "Access method: `btree`, `hash`, `gin`, `gist`, `spgist`, `brin`, or one of an extension. A change builds the index anew. Default: `btree`.",
		Optional:            true,
		Computed:            true,
		Default:             stringdefault.StaticString(matview.DefaultMethod),
		Validators:          []validator.String{identifier()},
	},
	"where": schema.StringAttribute{
		MarkdownDescription: "Condition for a row to be indexed, such as `status = 'failed'`. Compared by meaning. A change builds the index anew. Without it, every row is.",
		Optional:            true,
		Validators:          []validator.String{text()},
	},
	"nulls_not_distinct": schema.BoolAttribute{
		MarkdownDescription: "Whether a unique index takes two nulls for the same. It takes PostgreSQL 15 or later. A change builds the index anew. Default: `false`.",
		Optional:            true,
		Computed:            true,
		Default:             booldefault.StaticBool(false),
	},
	"storage_parameters": schema.MapAttribute{
		MarkdownDescription: "Storage parameters of the index, such as `{ fillfactor = \"70\" }`, with values as the server stores them. A change builds the index anew. Without it, there are none.",
		Optional:            true,
		ElementType:         types.StringType,
		Validators:          []validator.Map{mapvalidator.SizeAtLeast(1), mapvalidator.NoNullValues(), mapvalidator.KeysAre(parameterName())},
	},
	"tablespace": schema.StringAttribute{
		MarkdownDescription: "Tablespace of the index. A change builds the index anew. Default: that of the database.",
		Optional:            true,
		Validators:          []validator.String{identifier()},
	},
	"include": schema.ListAttribute{
		MarkdownDescription: "Names of columns to keep in the index beside its keys, without quotes. A change builds the index anew. Without it, there are none.",
		Optional:            true,
		ElementType:         types.StringType,
		Validators:          []validator.List{listvalidator.SizeAtLeast(1), listvalidator.NoNullValues(), listvalidator.ValueStringsAre(identifier())},
	},
}
