package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/identityschema"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// viewIdentity identifies a view, for Terraform 1.12 and later.
type viewIdentity struct {
	Database types.String `tfsdk:"database"`
	Schema   types.String `tfsdk:"schema"`
	Name     types.String `tfsdk:"name"`
}

// IdentitySchema implements [resource.ResourceWithIdentity].
func (r *viewResource) IdentitySchema(_ context.Context, _ resource.IdentitySchemaRequest, resp *resource.IdentitySchemaResponse) {
	resp.IdentitySchema = identityschema.Schema{Attributes: map[string]identityschema.Attribute{
		"database": identityschema.StringAttribute{Description: "Database that holds the view. Default at import: the provider's.", OptionalForImport: true},
		"schema":   identityschema.StringAttribute{Description: "Schema of the view, without quotes. Default at import: public.", OptionalForImport: true},
		"name":     identityschema.StringAttribute{Description: "Name of the view, without quotes.", RequiredForImport: true},
	}}
}

// identify sets the identity of the view with this name. identity is nil if Terraform
// has no identities. If the provider's settings are unknown, the identity stays as it
// is, or has no database; it is never null, because the framework requires it.
func (r *viewResource) identify(ctx context.Context, identity *tfsdk.ResourceIdentity, name matview.Name, diags *diag.Diagnostics) {
	if identity == nil || diags.HasError() {
		return
	}
	database, err := r.client.database(ctx)
	unknown := errors.Is(err, errUnknownConfig)
	if err != nil && !unknown {
		addError(diags, "Cannot identify the materialized view", err)
		return
	}
	if unknown && !identity.Raw.IsFullyNull() {
		return
	}
	diags.Append(identity.Set(ctx, viewIdentity{
		Database: stringOrNull(database), Schema: types.StringValue(name.Schema), Name: types.StringValue(name.Relation),
	})...)
}

// identified returns the name in an identity to import.
func (r *viewResource) identified(ctx context.Context, identity *tfsdk.ResourceIdentity, diags *diag.Diagnostics) matview.Name {
	var id viewIdentity
	diags.Append(identity.Get(ctx, &id)...)
	if diags.HasError() {
		return matview.Name{}
	}
	name := matview.Name{Schema: matview.PublicSchema, Relation: id.Name.ValueString()}
	if schema := id.Schema.ValueString(); schema != "" {
		name.Schema = schema
	}
	database, err := r.client.database(ctx)
	switch wanted := id.Database.ValueString(); {
	case err != nil:
		addError(diags, fmt.Sprintf("Cannot import materialized view %s", name), err)
	case wanted != "" && wanted != database:
		diags.AddError(fmt.Sprintf("Cannot import materialized view %s", name),
			fmt.Sprintf("The identity names the database %q, but the provider is connected to %q. Leave database out, or choose the provider configuration of that database with provider = in the import block.", wanted, database))
	}
	return name
}

// database returns the name of the database that the provider is connected to.
func (c *client) database(ctx context.Context) (string, error) {
	pool, err := c.open(ctx)
	if err != nil {
		return "", err
	}
	return pool.Config().ConnConfig.Database, nil
}
