package provider

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// What the first version remembered of a view is still known: else its indexes
// would show as changed to the server's words, and after a major upgrade its
// definition as well.
func TestMemoryOfFirstVersion(t *testing.T) {
	const stored = `{"definition_hash":"-4 a","sources_hash":"77","major":15,"indexes":{"u":{"hash":"5","index":
{"Keys":["id DESC"],"Unique":true,"Method":"btree","Include":[],"Where":"","NullsNotDistinct":false,"Parameters":{},"Tablespace":""}}}}`
	v := &matview.View{DefinitionHash: "-4 a", SourcesHash: "77", Major: 15, Indexes: []matview.IndexState{{Name: "u", Hash: "5", Valid: true}}}
	want := memoryOf(v)
	want.rememberIndexes(v, map[string]matview.Index{"u": {Keys: []string{"id DESC"}, Unique: true, Method: "btree"}})
	for range 2 { // as it was written, and as it is now
		data := []byte(stored)
		if want.Found {
			var err error
			if data, err = json.Marshal(want); err != nil {
				t.Fatal(err)
			}
		}
		var got viewMemory
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(viewMemory{})); diff != "" {
			t.Error(diff)
		}
		if !got.describes(v, true) {
			t.Error("it is not known as the view that it was")
		}
		want.Found = true
	}
}

func TestIndexText(t *testing.T) {
	indexes := []matview.Index{
		{},
		{Keys: []string{"a", "b"}},
		{Keys: []string{"a b"}},
		{Keys: []string{"a"}, Include: []string{"b"}},
		{Keys: []string{"a"}, Where: "b"},
		{Unique: true},
		{Method: "gin"},
		{NullsNotDistinct: true},
		{Parameters: map[string]string{"a": "1", "b": "2"}},
		{Parameters: map[string]string{"a": "2", "b": "1"}},
		{Tablespace: "s"},
		{Keys: []string{}, Include: []string{}, Parameters: map[string]string{}, Concurrent: true},
	}
	for _, x := range indexes {
		for _, y := range indexes {
			if x.Equal(y) != (indexText(x) == indexText(y)) {
				t.Errorf("%+v and %+v: equal %t, but the texts are %q and %q", x, y, x.Equal(y), indexText(x), indexText(y))
			}
		}
	}
}
