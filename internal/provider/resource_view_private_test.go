package provider

import (
	"testing"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

func TestIndexDigest(t *testing.T) {
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
			if x.Equal(y) != (indexDigest(x) == indexDigest(y)) {
				t.Errorf("%+v and %+v: equal %t, but the digests are %q and %q", x, y, x.Equal(y), indexDigest(x), indexDigest(y))
			}
		}
	}
}
