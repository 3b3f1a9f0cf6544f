package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// addViewError adds err to the attribute that it is about, with a remedy where one is
// known.
func addViewError(diags *diag.Diagnostics, summary string, err error) {
	var exists *matview.ExistsError
	var dependents *matview.DependentsError
	var obstacles *matview.ObstaclesError
	var exchange *matview.ExchangeError
	var uncertain *postgres.UncertainError
	var swapped *swappedError
	switch attribute, sqlErr := errorAttribute(err); {
	case errors.As(err, &swapped):
		diags.AddError(summary, postgres.Message(err)+". Plan again; what is left to do is done by the next apply.")
	case errors.As(err, &uncertain):
		text := postgres.Message(uncertain)
		if errors.Is(err, context.DeadlineExceeded) {
			text = "The timeout set in timeouts passed during COMMIT, so whether it was done is not known"
		}
		diags.AddError(summary, text+". Plan again to see what is there. What was created all the same is not in the state: import it, as the error of the next apply says.")
	case errors.As(err, &exists):
		diags.AddError(summary, existsDetail(exists))
	case errors.As(err, &dependents):
		diags.AddError(summary, fmt.Sprintf("Other objects use %s and would not survive it:\n%s\n\nDrop or change them first, or destroy them in the same apply. Nothing was changed.",
			dependents.View, bullets(dependents.Dependents)))
	case errors.As(err, &obstacles):
		diags.AddAttributeError(path.Root("definition"), summary, obstaclesDetail(obstacles.Obstacles))
	case errors.As(err, &exchange):
		diags.AddError(summary, exchange.Error()+". Nothing was changed. Run it again when the long queries on the view have ended; pg_stat_activity and pg_locks show whose they are.")
	case matview.IsLockTimeout(err):
		diags.AddError(summary, postgres.Message(err)+". Somebody else holds a lock for longer than this waits: a refresh, a long query on the view, or another change. "+
			"Nothing was changed. Run it again when that has ended; pg_stat_activity and pg_locks show who it is.")
	case errors.Is(err, context.DeadlineExceeded):
		diags.AddError(summary, "It took longer than the timeout set in timeouts. Nothing was changed.")
	case sqlErr != nil:
		diags.AddAttributeError(attribute, summary, sqlErr.Explain()+remedy(err))
	case !attribute.Equal(path.Empty()):
		diags.AddAttributeError(attribute, summary, postgres.Message(err)+remedy(err))
	default:
		diags.AddError(summary, postgres.Message(err)+remedy(err))
	}
}

// remedy returns what to do about err if the server's message does not say so.
func remedy(err error) string {
	var index *matview.IndexError
	var rights *matview.PrivilegeError
	var sqlErr *matview.SQLError
	switch state := postgres.SQLState(err); {
	case state == pgerrcode.QueryCanceled:
		return "\n\nNothing was changed. A view is filled by one statement: if that took longer than statement_timeout, give the provider's role more time, as in ALTER ROLE … SET statement_timeout = 0."
	case errors.As(err, &rights):
		detail := fmt.Sprintf("\n\nThis runs with the rights of the view's owner, %s.", postgres.QuoteIdent(rights.Role))
		if grant := postgres.MissingGrant(err, rights.Role); grant != "" {
			detail += " Grant it what it lacks: " + grant + "."
		}
		return detail
	case errors.As(err, &index) && state == pgerrcode.DuplicateTable:
		return fmt.Sprintf("\n\nTables, views and indexes of a schema share their names. Choose another name for the index; this one belongs to something other than %s.", index.View)
	case state == pgerrcode.InvalidSchemaName && (!errors.As(err, &sqlErr) || sqlErr.Line == 0): // not in the definition
		return "\n\nThis provider creates no schema for a view: create it first, or name it in depends_on if the same apply does."
	}
	return ""
}

// errorAttribute returns the attribute whose text err is about, and the server's error;
// the path is empty if err is about no attribute.
func errorAttribute(err error) (path.Path, *matview.SQLError) {
	var indexErr *matview.IndexError
	var sqlErr *matview.SQLError
	var roleErr *matview.RoleError
	isSQL := errors.As(err, &sqlErr)
	switch {
	case errors.As(err, &indexErr):
		at := path.Root("indexes").AtMapKey(indexErr.Index)
		switch {
		case indexErr.Placed && indexErr.Where:
			at = at.AtName("where")
		case indexErr.Placed:
			at = at.AtName("keys").AtListIndex(indexErr.Key)
		}
		return at, sqlErr
	case errors.As(err, &roleErr):
		return path.Root("owner"), nil
	case isSQL:
		return path.Root("definition"), sqlErr
	}
	return path.Empty(), nil
}

func obstaclesDetail(obstacles []string) string {
	return "The new view is built beside the old one and exchanged for it, but this cannot be carried over:\n" + bullets(obstacles) +
		"\n\nDrop or change what depends on the view, or grant what is missing, in an apply of its own: see the guide Replacing a definition safely. Nothing was changed."
}

func existsDetail(e *matview.ExistsError) string {
	if e.Kind != materializedView {
		article := "A"
		if e.Kind == "index" {
			article = "An"
		}
		return fmt.Sprintf("%s %s of that name is there already. Choose another name, or drop it.", article, e.Kind)
	}
	if e.Renamed != (matview.Name{}) {
		return fmt.Sprintf("A materialized view %s exists already, so %s cannot get that name. Nothing was changed. "+
			"If this apply drops or renames the other view, name its resource in depends_on here, so that it comes first; two views that exchange their names take a third name, and two applies.", e.Name, e.Renamed)
	}
	id := e.Name.String()
	return fmt.Sprintf("A materialized view %s exists already, and Terraform does not take over what it did not create. To manage it, import it, where ADDRESS is that of this resource, such as matview_view.example:\n\n"+
		"  terraform import ADDRESS '%s'\n\nor put this in the configuration:\n\n  import {\n    to = ADDRESS\n    id = %s\n  }\n\nElse choose another name, or drop it.",
		id, strings.ReplaceAll(id, "'", `'\''`), hclString(id))
}

// hclString quotes a string for HCL.
func hclString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "${", "$${", "%{", "%%{").Replace(s) + `"`
}

func bullets(lines []string) string { return "  - " + strings.Join(lines, "\n  - ") }
