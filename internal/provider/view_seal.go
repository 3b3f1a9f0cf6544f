package provider

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// seal is kept beside the state of a view, and says of which bytes it is known
// what the framework would answer: the state that it was given. It is made where
// the state is written; [server] compares.
type seal struct {
	Schema string `json:"s,omitempty"` // "" means public
	Name   string `json:"n"`
	// Read covers what the catalog says of the view, and the state.
	Read string `json:"r,omitempty"`
	// Config covers the configuration that was applied, and so was valid.
	Config string `json:"c,omitempty"`
	// Plan covers that configuration and the state.
	Plan string `json:"p,omitempty"`
	// Reworded says that the configuration says in other words what the state does,
	// with what they read as it was then.
	Reworded bool `json:"w,omitempty"`
}

const sealKey = "seal"

func (s seal) name() matview.Name {
	return matview.Name{Schema: cmp.Or(s.Schema, matview.PublicSchema), Relation: s.Name}
}

// sealOf reads private state as the framework writes it; it is empty where there
// is no seal.
func sealOf(private []byte) (s seal) {
	var keys map[string][]byte
	if len(private) > 0 && json.Unmarshal(private, &keys) == nil {
		_ = json.Unmarshal(keys[sealKey], &s) // what cannot be read is none
	}
	return s
}

// sealedBefore is the seal that a resource's method is given.
func sealedBefore(ctx context.Context, private privateReader, diags *diag.Diagnostics) (s seal) {
	data, d := private.GetKey(ctx, sealKey)
	diags.Append(d...)
	if data != nil {
		_ = json.Unmarshal(data, &s) // what cannot be read is none
	}
	return s
}

// readSeal and configSeal cover the provider's version, since another may make
// another state of the same facts.
func readSeal(version string, v *matview.View, state []byte) string {
	facts, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return digest([]byte(version), facts, state)
}

func configSeal(version string, config []byte) string {
	return digest([]byte(version), config)
}

func planSeal(config string, state []byte) string {
	return digest([]byte(config), state)
}

func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, part := range parts {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write(part)
	}
	return base64.RawStdEncoding.EncodeToString(h.Sum(nil)[:16])
}

// save seals a state that was just made of v; config is zero where none was
// applied. Where the two are not known to belong together, as while a lock hid
// the definition, v is nil.
func (s seal) save(ctx context.Context, version string, v *matview.View, config, state tftypes.Value, private privateWriter, diags *diag.Diagnostics) {
	s.Read = ""
	stateBytes := encoded(state)
	if v != nil && stateBytes != nil {
		s.Schema, s.Name = v.Name.Schema, v.Name.Relation
		if s.Schema == matview.PublicSchema {
			s.Schema = ""
		}
		s.Read = readSeal(version, v, stateBytes)
	}
	if configBytes := encoded(config); configBytes != nil && stateBytes != nil {
		s.Config = configSeal(version, configBytes)
		s.Plan = planSeal(s.Config, stateBytes)
	}
	data, err := json.Marshal(s)
	if err != nil {
		addError(diags, "Cannot remember the materialized view", err)
		return
	}
	diags.Append(private.SetKey(ctx, sealKey, data)...)
}

// encoded is a value as Terraform sends it; nil where there is none.
func encoded(value tftypes.Value) []byte {
	if value.Type() == nil {
		return nil
	}
	value = ordered(value)
	data, err := value.MarshalMsgPack(value.Type()) //nolint:staticcheck // as tfprotov6 does it
	if err != nil {
		return nil
	}
	return data
}

// ordered is a value that is encoded as value is, but always in the same order:
// tftypes writes a map in that of a Go map, while Terraform sorts it. The
// attributes of an object, which looks the same on the wire, it does sort.
func ordered(value tftypes.Value) tftypes.Value {
	if value.IsNull() || !value.IsKnown() {
		return value
	}
	switch value.Type().(type) {
	case tftypes.Map, tftypes.Object:
		var elements map[string]tftypes.Value
		if value.As(&elements) != nil {
			return value
		}
		types, values := make(map[string]tftypes.Type, len(elements)), make(map[string]tftypes.Value, len(elements))
		for name, element := range elements { // which are value's own
			values[name] = ordered(element)
			types[name] = values[name].Type()
		}
		return tftypes.NewValue(tftypes.Object{AttributeTypes: types}, values)
	case tftypes.List:
		var elements []tftypes.Value
		if value.As(&elements) != nil {
			return value
		}
		types, values := make([]tftypes.Type, len(elements)), make([]tftypes.Value, len(elements))
		for i, element := range elements {
			values[i] = ordered(element)
			types[i] = values[i].Type()
		}
		return tftypes.NewValue(tftypes.Tuple{ElementTypes: types}, values)
	}
	return value
}
