package provider

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// However often a value with maps is encoded, it is the same, and still the value.
func TestEncoded(t *testing.T) {
	element := tftypes.Object{AttributeTypes: map[string]tftypes.Type{
		"keys": tftypes.List{ElementType: tftypes.String}, "with": tftypes.Map{ElementType: tftypes.String}, "unique": tftypes.Bool,
	}}
	typ := tftypes.Object{AttributeTypes: map[string]tftypes.Type{"indexes": tftypes.Map{ElementType: element}, "name": tftypes.String}}
	indexes := map[string]tftypes.Value{}
	for i := range 20 {
		with := tftypes.NewValue(tftypes.Map{ElementType: tftypes.String}, nil)
		if i%2 == 0 {
			with = tftypes.NewValue(tftypes.Map{ElementType: tftypes.String}, map[string]tftypes.Value{
				"b": tftypes.NewValue(tftypes.String, "1"), "a": tftypes.NewValue(tftypes.String, tftypes.UnknownValue),
			})
		}
		indexes[fmt.Sprint("i", i)] = tftypes.NewValue(element, map[string]tftypes.Value{
			"keys":   tftypes.NewValue(tftypes.List{ElementType: tftypes.String}, []tftypes.Value{tftypes.NewValue(tftypes.String, "id")}),
			"with":   with,
			"unique": tftypes.NewValue(tftypes.Bool, nil),
		})
	}
	value := tftypes.NewValue(typ, map[string]tftypes.Value{
		"indexes": tftypes.NewValue(tftypes.Map{ElementType: element}, indexes), "name": tftypes.NewValue(tftypes.String, "v"),
	})
	first := encoded(value)
	for range 20 {
		if again := encoded(value); !bytes.Equal(first, again) {
			t.Fatal("encoded in two ways")
		}
	}
	back, err := tfprotov6.DynamicValue{MsgPack: first}.Unmarshal(typ)
	if err != nil || !back.Equal(value) {
		t.Errorf("decoded as %s, %v", back, err)
	}
	if got := encoded(tftypes.Value{}); got != nil {
		t.Errorf("nothing is encoded as %x", got)
	}
}
