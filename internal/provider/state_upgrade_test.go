package provider

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// A state that lacks attributes was written by an older release, one that has
// more by a newer one with the same schema version. Either is read, and what is
// missing is null.
func TestStateOfOtherReleases(t *testing.T) {
	s := newServer()
	for typeName, attributes := range map[string]string{
		"matview_view":             `"id": "v", "name": "v", "schema": "public", "definition": "SELECT 1", "indexes": null, "with_data": true`,
		"matview_refresh_log":      `"id": "public", "schema": "public", "deletion_protection": true, "version": 1`,
		"matview_refresh_schedule": `"id": "v", "view": "v", "every": "5m", "log_schema": "public", "totals": null`,
	} {
		upgrade := func(version int64, json string) (map[string]tftypes.Value, error) {
			resp, err := s.UpgradeResourceState(t.Context(), &tfprotov6.UpgradeResourceStateRequest{TypeName: typeName, Version: version, RawState: &tfprotov6.RawState{JSON: []byte(json)}})
			if err == nil {
				err = failed(resp.Diagnostics)
			}
			if err != nil {
				return nil, err
			}
			typ, _ := attributesOf(t, s, typeName)
			value, err := resp.UpgradedState.Unmarshal(typ)
			if err != nil {
				t.Fatal(err)
			}
			read := map[string]tftypes.Value{}
			err = value.As(&read)
			return read, err
		}
		for _, json := range []string{"{" + attributes + "}", "{" + attributes + `, "of_a_later_release": {"a": [1]}}`} {
			read, err := upgrade(0, json)
			if err != nil {
				t.Errorf("%s: %v", typeName, err)
			}
			for name, value := range read {
				given := strings.Contains(json, fmt.Sprintf("%q:", name)) && !strings.Contains(json, fmt.Sprintf("%q: null", name))
				if value.IsNull() == given {
					t.Errorf("%s.%s is %s", typeName, name, value)
				}
			}
		}
		if _, err := upgrade(0, "{"+strings.Replace(attributes, `"id": "`, `"id": ["`, 1)+"}"); err == nil {
			t.Errorf("%s: malformed JSON is accepted", typeName)
		}
		if _, err := upgrade(0, `{"id": [1]}`); err == nil || !strings.Contains(err.Error(), "id") {
			t.Errorf("%s with a list as its id: %v", typeName, err)
		}
		if _, err := upgrade(99, "{"+attributes+"}"); err == nil || !strings.Contains(err.Error(), "version 99") {
			t.Errorf("%s of schema version 99: %v", typeName, err)
		}
	}
}
