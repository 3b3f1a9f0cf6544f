package provider

import (
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// addError adds err in one line; the summary says what was being done.
func addError(diags *diag.Diagnostics, summary string, err error) {
	diags.AddError(summary, postgres.Message(err))
}

// tablesMissing reports whether err means that our tables are not installed.
func tablesMissing(err error) bool {
	state := postgres.SQLState(err)
	return state == pgerrcode.UndefinedTable || state == pgerrcode.InvalidSchemaName
}

// addTableError is [addError] for what needs our tables. If they or privileges are
// missing, it says how to create or grant them.
func addTableError(diags *diag.Diagnostics, schema, summary string, err error) {
	switch {
	case tablesMissing(err):
		diags.AddError(summary, fmt.Sprintf("The tables of matview are not installed, or not complete, in schema %q. "+
			"Create a matview_refresh_log there first (and name it in depends_on), or set log_schema to where they are.", schema))
	case postgres.SQLState(err) == pgerrcode.InsufficientPrivilege:
		diags.AddError(summary, fmt.Sprintf("%s\n\nTerraform's role needs to own the tables of matview in schema %q, or to be a member of the role that does. "+
			"To read freshness, it is enough to be one of reader_roles of matview_refresh_log.", postgres.Message(err), schema))
	default:
		addError(diags, summary, err)
	}
}
