// schemajson prints what `terraform providers schema -json` prints of the
// provider, but whole: a Terraform older than 1.14 leaves out the actions and the
// lists, and the docs must not depend on whose Terraform makes them.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	tfjson "github.com/hashicorp/terraform-json"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/matview/terraform-provider-matview/internal/provider"
)

// address is what tfplugindocs looks for: the name of the provider, as of a
// configuration that says no source.
const address = "registry.terraform.io/hashicorp/matview"

func main() {
	schemas, err := read(context.Background())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(schemas)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "schemajson: %v\n", err)
		os.Exit(1)
	}
}

func read(ctx context.Context) (*tfjson.ProviderSchemas, error) {
	server := providerserver.NewProtocol6(provider.New("docs")())()
	resp, err := server.GetProviderSchema(ctx, &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		return nil, err
	}
	identities, err := server.GetResourceIdentitySchemas(ctx, &tfprotov6.GetResourceIdentitySchemasRequest{})
	if err != nil {
		return nil, err
	}
	for _, d := range append(resp.Diagnostics, identities.Diagnostics...) {
		return nil, fmt.Errorf("%s: %s", d.Summary, d.Detail)
	}
	p := &tfjson.ProviderSchema{
		ResourceSchemas: map[string]*tfjson.Schema{}, DataSourceSchemas: map[string]*tfjson.Schema{},
		ListResourceSchemas: map[string]*tfjson.Schema{}, ActionSchemas: map[string]*tfjson.ActionSchema{},
		ResourceIdentitySchemas: map[string]*tfjson.IdentitySchema{},
	}
	if p.ConfigSchema, err = schema(resp.Provider); err != nil {
		return nil, err
	}
	for _, kind := range []struct {
		from map[string]*tfprotov6.Schema
		to   map[string]*tfjson.Schema
	}{{resp.ResourceSchemas, p.ResourceSchemas}, {resp.DataSourceSchemas, p.DataSourceSchemas}, {resp.ListResourceSchemas, p.ListResourceSchemas}} {
		for name, s := range kind.from {
			if kind.to[name], err = schema(s); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for name, s := range resp.ActionSchemas {
		converted, err := schema(s.Schema)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		p.ActionSchemas[name] = &tfjson.ActionSchema{Block: converted.Block}
	}
	for name, s := range identities.IdentitySchemas {
		if p.ResourceIdentitySchemas[name], err = identity(s); err != nil {
			return nil, fmt.Errorf("identity of %s: %w", name, err)
		}
	}
	return &tfjson.ProviderSchemas{FormatVersion: "1.0", Schemas: map[string]*tfjson.ProviderSchema{address: p}}, nil
}

func schema(s *tfprotov6.Schema) (*tfjson.Schema, error) {
	b, err := block(s.Block)
	if err != nil {
		return nil, err
	}
	return &tfjson.Schema{Version: uint64(max(s.Version, 0)), Block: b}, nil
}

func identity(s *tfprotov6.ResourceIdentitySchema) (*tfjson.IdentitySchema, error) {
	to := &tfjson.IdentitySchema{Version: uint64(max(s.Version, 0)), Attributes: map[string]*tfjson.IdentityAttribute{}}
	for _, a := range s.IdentityAttributes {
		t, err := typeOf(a.Type)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Name, err)
		}
		to.Attributes[a.Name] = &tfjson.IdentityAttribute{
			IdentityType: t, Description: a.Description, RequiredForImport: a.RequiredForImport, OptionalForImport: a.OptionalForImport,
		}
	}
	return to, nil
}

func block(b *tfprotov6.SchemaBlock) (*tfjson.SchemaBlock, error) {
	to := &tfjson.SchemaBlock{Description: b.Description, DescriptionKind: kind(b.DescriptionKind), Deprecated: b.Deprecated}
	var err error
	if to.Attributes, err = attributes(b.Attributes); err != nil {
		return nil, err
	}
	for _, nested := range b.BlockTypes {
		inner, err := block(nested.Block)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", nested.TypeName, err)
		}
		if to.NestedBlocks == nil {
			to.NestedBlocks = map[string]*tfjson.SchemaBlockType{}
		}
		mode := map[tfprotov6.SchemaNestedBlockNestingMode]tfjson.SchemaNestingMode{
			tfprotov6.SchemaNestedBlockNestingModeSingle: tfjson.SchemaNestingModeSingle, tfprotov6.SchemaNestedBlockNestingModeGroup: tfjson.SchemaNestingModeGroup,
			tfprotov6.SchemaNestedBlockNestingModeList: tfjson.SchemaNestingModeList, tfprotov6.SchemaNestedBlockNestingModeSet: tfjson.SchemaNestingModeSet,
			tfprotov6.SchemaNestedBlockNestingModeMap: tfjson.SchemaNestingModeMap,
		}[nested.Nesting]
		to.NestedBlocks[nested.TypeName] = &tfjson.SchemaBlockType{
			NestingMode: mode, Block: inner, MinItems: uint64(max(nested.MinItems, 0)), MaxItems: uint64(max(nested.MaxItems, 0)),
		}
	}
	return to, nil
}

func attributes(from []*tfprotov6.SchemaAttribute) (map[string]*tfjson.SchemaAttribute, error) {
	to := map[string]*tfjson.SchemaAttribute{}
	for _, a := range from {
		converted := &tfjson.SchemaAttribute{
			Description: a.Description, DescriptionKind: kind(a.DescriptionKind), Deprecated: a.Deprecated,
			Required: a.Required, Optional: a.Optional, Computed: a.Computed, Sensitive: a.Sensitive, WriteOnly: a.WriteOnly,
		}
		var err error
		if a.NestedType == nil {
			converted.AttributeType, err = typeOf(a.Type)
		} else {
			mode := map[tfprotov6.SchemaObjectNestingMode]tfjson.SchemaNestingMode{
				tfprotov6.SchemaObjectNestingModeSingle: tfjson.SchemaNestingModeSingle, tfprotov6.SchemaObjectNestingModeList: tfjson.SchemaNestingModeList,
				tfprotov6.SchemaObjectNestingModeSet: tfjson.SchemaNestingModeSet, tfprotov6.SchemaObjectNestingModeMap: tfjson.SchemaNestingModeMap,
			}[a.NestedType.Nesting]
			converted.AttributeNestedType = &tfjson.SchemaNestedAttributeType{NestingMode: mode}
			converted.AttributeNestedType.Attributes, err = attributes(a.NestedType.Attributes)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Name, err)
		}
		to[a.Name] = converted
	}
	return to, nil
}

// typeOf goes by way of JSON, which both libraries write alike.
func typeOf(t tftypes.Type) (cty.Type, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return cty.NilType, err
	}
	return ctyjson.UnmarshalType(text)
}

func kind(k tfprotov6.StringKind) tfjson.SchemaDescriptionKind {
	if k == tfprotov6.StringKindMarkdown {
		return tfjson.SchemaDescriptionKindMarkdown
	}
	return tfjson.SchemaDescriptionKindPlain
}
