package matview

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestParseName(t *testing.T) {
	long := strings.Repeat("n", 63)
	for _, c := range []struct {
		in   string
		want Name
	}{
		{"job_progress", Name{"public", "job_progress"}},
		{"analytics.daily", Name{"analytics", "daily"}},
		{`"Odd name"`, Name{"public", "Odd name"}},
		{`"my.schema"."my.view"`, Name{"my.schema", "my.view"}},
		{`s."say ""hi"""`, Name{"s", `say "hi"`}},
		{"JobProgress", Name{"public", "JobProgress"}}, // as other programs write it
		{"täglich.überblick", Name{"täglich", "überblick"}},
		{long, Name{"public", long}},
	} {
		got, err := ParseName(c.in)
		if err != nil || got != c.want {
			t.Errorf("ParseName(%q) = %+v, %v, want %+v", c.in, got, err, c.want)
		}
	}
}

func TestParseNameRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "has an empty part",
		".x":                     "has an empty part",
		"x.":                     "has an empty part",
		"a.b.c":                  "has 3 parts",
		`"open`:                  "has no closing quote",
		`"a"b`:                   `has "b" after a closing quote`,
		`a"b`:                    "has a quote within a part",
		`""`:                     "has an empty part",
		"a\x00b":                 "holds a NUL character",
		strings.Repeat("n", 64):  "longer than the 63 bytes",
		strings.Repeat("ü", 32):  "longer than the 63 bytes",
		`"a".` + "\"b\"" + ".c.": "has",
	} {
		if _, err := ParseName(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseName(%q): error %v, want one with %q", in, err, want)
		}
	}
}

// oddNames are what a view, a schema, a column or an index may be called.
var oddNames = []string{
	"plain", "Capital", "with space", "with.dot", `with"quote`, `"`, "select", "user", "naïve", "日本語", "1digit", "$dollar",
	"semi;colon", "--comment", "new\nline", "tab\t", "'", `\`, strings.Repeat("n", 63), strings.Repeat("é", 31),
}

func TestNameRoundTrip(t *testing.T) {
	ctx := t.Context()
	conn := postgrestest.New(t).Connect(t)
	for _, schema := range append(oddNames, PublicSchema) {
		for _, relation := range oddNames {
			name := Name{schema, relation}
			if got, err := ParseName(name.String()); err != nil || got != name {
				t.Errorf("ParseName(%q) = %+v, %v, want %+v", name.String(), got, err, name)
			}
			canonical, err := CanonicalName(ctx, conn, name)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ParseName(canonical); err != nil || got != name {
				t.Errorf("ParseName(%q) = %+v, %v, want %+v", canonical, got, err, name)
			}
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, name := range oddNames {
		f.Add(name)
		f.Add(Name{name, name}.String())
	}
	f.Add(`"a"."b".c`)
	f.Fuzz(func(t *testing.T, in string) {
		name, err := ParseName(in)
		if err != nil {
			return
		}
		for _, part := range []string{name.Schema, name.Relation} {
			if part == "" || len(part) > maxIdentifier || strings.ContainsRune(part, 0) {
				t.Errorf("ParseName(%q) has the part %q", in, part)
			}
		}
		if !utf8.ValidString(in) {
			return // Sanitize is for text
		}
		again, err := ParseName(name.String())
		if err != nil || again != name {
			t.Errorf("ParseName(%q) = %+v; its String %q parses to %+v, %v", in, name, name.String(), again, err)
		}
	})
}
