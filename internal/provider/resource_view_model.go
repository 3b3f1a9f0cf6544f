package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

type viewModel struct {
	ID                        types.String   `tfsdk:"id"`
	Name                      types.String   `tfsdk:"name"`
	Schema                    types.String   `tfsdk:"schema"`
	Definition                types.String   `tfsdk:"definition"`
	ColumnNames               types.List     `tfsdk:"column_names"`
	OnDefinitionChange        types.String   `tfsdk:"on_definition_change"`
	Tablespace                types.String   `tfsdk:"tablespace"`
	AccessMethod              types.String   `tfsdk:"access_method"`
	StorageParameters         types.Map      `tfsdk:"storage_parameters"`
	CanonicalDefinition       types.String   `tfsdk:"canonical_definition"`
	Indexes                   types.Map      `tfsdk:"indexes"`
	WithData                  types.Bool     `tfsdk:"with_data"`
	Owner                     types.String   `tfsdk:"owner"`
	Comment                   types.String   `tfsdk:"comment"`
	OutputColumns             types.List     `tfsdk:"output_columns"`
	SupportsConcurrentRefresh types.Bool     `tfsdk:"supports_concurrent_refresh"`
	Timeouts                  timeouts.Value `tfsdk:"timeouts"`
}

type indexModel struct {
	Keys    []string     `tfsdk:"keys"`
	Unique  types.Bool   `tfsdk:"unique"`
	Method  types.String `tfsdk:"method"`
	Where   types.String `tfsdk:"where"`
	Include []string     `tfsdk:"include"`

	NullsNotDistinct  types.Bool        `tfsdk:"nulls_not_distinct"`
	StorageParameters map[string]string `tfsdk:"storage_parameters"`
	Tablespace        types.String      `tfsdk:"tablespace"`
}

var (
	columnTypes = map[string]attr.Type{"name": types.StringType, "type": types.StringType}
	indexTypes  = map[string]attr.Type{
		"keys":    types.ListType{ElemType: types.StringType},
		"unique":  types.BoolType,
		"method":  types.StringType,
		"where":   types.StringType,
		"include": types.ListType{ElemType: types.StringType},

		"nulls_not_distinct": types.BoolType,
		"storage_parameters": types.MapType{ElemType: types.StringType},
		"tablespace":         types.StringType,
	}
)

func (m viewModel) name() matview.Name {
	return matview.Name{Schema: m.Schema.ValueString(), Relation: m.Name.ValueString()}
}

// describesSameView reports whether a change from state needs nothing of the server.
func (m viewModel) describesSameView(state viewModel) bool {
	return m.name() == state.name() && m.sameText(state) && m.Tablespace.Equal(state.Tablespace) && m.AccessMethod.Equal(state.AccessMethod) &&
		(m.StorageParameters.IsNull() || m.StorageParameters.Equal(state.StorageParameters)) && m.Comment.Equal(state.Comment) &&
		m.Owner.Equal(state.Owner) && (m.WithData.Equal(state.WithData) || !m.WithData.ValueBool()) && (m.Indexes.IsNull() || m.Indexes.Equal(state.Indexes))
}

// sameText reports whether the query has the same text.
func (m viewModel) sameText(state viewModel) bool {
	return m.Definition.Equal(state.Definition) && m.ColumnNames.Equal(state.ColumnNames)
}

func (m viewModel) columnNames() []string {
	var names []string
	for _, e := range m.ColumnNames.Elements() {
		if s, ok := e.(types.String); ok {
			names = append(names, s.ValueString())
		}
	}
	return names
}

// spec is what to create for a plan.
func (m viewModel) spec(indexes map[string]matview.Index) matview.Spec {
	return matview.Spec{
		Name: m.name(), Definition: m.Definition.ValueString(), ColumnNames: m.columnNames(), Storage: m.storage(),
		Owner: m.Owner.ValueString(), Comment: m.Comment.ValueString(), Indexes: indexes, WithData: m.WithData.ValueBool(),
	}
}

// storage is the planned storage, without what is null or unknown.
func (m viewModel) storage() matview.Storage {
	s := matview.Storage{Tablespace: m.Tablespace.ValueString(), AccessMethod: m.AccessMethod.ValueString()}
	if !m.StorageParameters.IsNull() {
		s.Parameters = stringMapOf(m.StorageParameters)
	}
	return s
}

func stringMapOf(value types.Map) map[string]string {
	values := make(map[string]string, len(value.Elements()))
	for name, e := range value.Elements() {
		if s, ok := e.(types.String); ok {
			values[name] = s.ValueString()
		}
	}
	return values
}

func stringMap(values map[string]string) types.Map {
	elements := make(map[string]attr.Value, len(values))
	for name, v := range values {
		elements[name] = types.StringValue(v)
	}
	return types.MapValueMust(types.StringType, elements)
}

// indexes returns nil if the attribute is null: indexes are not managed.
func (m viewModel) indexes(ctx context.Context, diags *diag.Diagnostics) map[string]matview.Index {
	if m.Indexes.IsNull() {
		return nil
	}
	var models map[string]indexModel
	diags.Append(m.Indexes.ElementsAs(ctx, &models, false)...)
	indexes := make(map[string]matview.Index, len(models))
	for name, x := range models {
		indexes[name] = matview.Index{
			Keys: x.Keys, Unique: x.Unique.ValueBool(), Method: x.Method.ValueString(), Where: x.Where.ValueString(), Include: x.Include,
			NullsNotDistinct: x.NullsNotDistinct.ValueBool(), Parameters: x.StorageParameters, Tablespace: x.Tablespace.ValueString(),
		}
	}
	return indexes
}

func indexesValue(indexes map[string]matview.Index) types.Map {
	elements := make(map[string]attr.Value, len(indexes))
	for name, x := range indexes {
		include := types.ListNull(types.StringType)
		if len(x.Include) > 0 {
			include = stringList(x.Include)
		}
		parameters := types.MapNull(types.StringType)
		if len(x.Parameters) > 0 {
			parameters = stringMap(x.Parameters)
		}
		elements[name] = types.ObjectValueMust(indexTypes, map[string]attr.Value{
			"keys":    stringList(x.Keys),
			"unique":  types.BoolValue(x.Unique),
			"method":  types.StringValue(x.Method),
			"where":   stringOrNull(x.Where),
			"include": include,

			"nulls_not_distinct": types.BoolValue(x.NullsNotDistinct),
			"storage_parameters": parameters,
			"tablespace":         stringOrNull(x.Tablespace),
		})
	}
	return types.MapValueMust(types.ObjectType{AttrTypes: indexTypes}, elements)
}

func stringList(values []string) types.List {
	elements := make([]attr.Value, len(values))
	for i, v := range values {
		elements[i] = types.StringValue(v)
	}
	return types.ListValueMust(types.StringType, elements)
}

// set sets what the catalog says, except the definition and the indexes: those are
// compared by meaning.
func (m *viewModel) set(v *matview.View) {
	m.ID = types.StringValue(v.ID)
	m.Name = types.StringValue(v.Name.Relation)
	m.Schema = types.StringValue(v.Name.Schema)
	m.Owner = types.StringValue(v.Owner)
	m.Comment = stringOrNull(v.Comment)
	m.Tablespace = types.StringValue(v.Storage.Tablespace)
	m.AccessMethod = types.StringValue(v.Storage.AccessMethod)
	if !v.Populated {
		m.WithData = types.BoolValue(false)
	}
	if !m.StorageParameters.IsNull() {
		m.StorageParameters = stringMap(v.Storage.Parameters)
	}
	m.SupportsConcurrentRefresh = types.BoolValue(v.SupportsConcurrentRefresh())
	columns := make([]attr.Value, len(v.Columns))
	for i, c := range v.Columns {
		columns[i] = types.ObjectValueMust(columnTypes, map[string]attr.Value{
			"name": types.StringValue(c.Name), "type": types.StringValue(c.Type),
		})
	}
	m.OutputColumns = types.ListValueMust(types.ObjectType{AttrTypes: columnTypes}, columns)
}
