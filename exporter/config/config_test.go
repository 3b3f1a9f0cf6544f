package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func noEnvironment(string) string { return "" }

func TestLoadInvalid(t *testing.T) {
	tests := map[string][]string{
		"unknown-key":     {`:4: routes[0].veiw: there is no such key`},
		"unknown-section": {`:2: rooutes: there is no such key`},
		"type":            {`:4: routes[0].public: must be true or false`},
		"list":            {`:3: routes.path: mapping was used where sequence is expected`},
		"yaml":            {`:2: sequence end token ']' not found`},
		"duplicate-key":   {`:2: mapping key "public" already defined at [1:1]`},
		"two-documents":   {`:3: a second document: there can be only one`},
		"paths": {
			`:2: routes[0].path: is required`,
			`:3: routes[1].path: "jobs" does not start with /`,
			`:4: routes[2].path: has the part "": between slashes stands either {column} or letters, digits and -._~`,
			`:5: routes[3].path: "/metrics" is taken: the exporter itself answers at /, /metrics, /cache and /-/`,
			`:6: routes[4].path: "/cache/status/{a}" is taken: the exporter itself answers at /, /metrics, /cache and /-/`,
			`:7: routes[5].path: "/-/{a}" is taken: the exporter itself answers at /, /metrics, /cache and /-/`,
			`:8: routes[6].path: "/{a}" starts with a parameter, which would also stand for /, /metrics, /cache and /-/`,
			`:9: routes[7].path: "/jobs" has no parameter: a route answers with one row, found by its key, as in /jobs/{job_id}`,
			`:10: routes[8].path: has the part "": between slashes stands either {column} or letters, digits and -._~`,
			`:11: routes[9].path: "{a}{b}" is no parameter: write {column}, for example /jobs/{job_id}`,
			`:12: routes[10].path: "{}" is no parameter: write {column}, for example /jobs/{job_id}`,
			`:13: routes[11].path: has {a} twice`,
			`:14: routes[12].path: has the part "..": between slashes stands either {column} or letters, digits and -._~`,
			`:15: routes[13].path: has the part "a b": between slashes stands either {column} or letters, digits and -._~`,
		},
		"collisions": {
			`:4: routes[1].path: "/jobs/{id}" and "/jobs/{job_id}" of line 2 could be the same URL`,
			`:8: routes[3].path: "/jobs/latest/{day}" and "/jobs/{id}/latest" of line 6 could be the same URL`,
		},
		"view": {
			`:2: routes[0].view: is required`,
			`:4: routes[1].view: view name "a.b.c": has 3 parts, want name or schema.name (quote a part that holds a dot)`,
		},
		"real-time": {
			`:3: real_time.statement_timeout: "5" is not a duration of at least 1ms, as in 5s`,
			`:4: real_time.max_concurrent: must be from 1 to 1000`,
			`:2: real_time.url: connection settings of PostgreSQL: …`,
		},
		"real-time-long": {`:3: real_time.statement_timeout: must be at most 50s: no request is answered after a minute`},
		"real-time-url":  {`:2: real_time.url: is required here, or MATVIEW_REAL_TIME_URL in the environment`},
		"tokens-missing": {`:2: auth.bearer_tokens_file: read the bearer tokens: open testdata/no-such-file: no such file or directory`},
		"tokens":         {`:2: auth.bearer_tokens_file: testdata/tokens-invalid:3: not a bearer token: letters, digits and -._~+/ only`},
		"dimensions":     {`:2: cloudwatch.dimensions[0]: sequence was used where mapping is expected`},
		"tokens-none":    {`:2: auth.bearer_tokens_file: testdata/tokens-none holds no token`},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", "invalid-"+name+".yml")
			_, err := Load(file, noEnvironment)
			if err == nil {
				t.Fatal("no error")
			}
			for i := range want {
				want[i] = file + want[i]
			}
			got := strings.Split(err.Error(), "\n")
			for i, line := range got {
				if before, _, found := strings.Cut(line, "settings of PostgreSQL: "); found {
					got[i] = before + "settings of PostgreSQL: …" // package postgres tests its own words
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			if strings.Contains(err.Error(), "s3cr") {
				t.Error("the error shows a secret")
			}
		})
	}
	files, err := filepath.Glob("testdata/invalid-*.yml")
	if err != nil || len(files) != len(tests) {
		t.Errorf("%d files for %d tests (%v)", len(files), len(tests), err)
	}
}

// The example is the manual, so it must be right and complete.
func TestExample(t *testing.T) {
	example, err := os.ReadFile("../../matview-exporter.example.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "matview-exporter.yml")
	for name, data := range map[string]string{file: string(example), filepath.Join(dir, "tokens"): "first-token\n# old\nsecond-token\n"} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(file, noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	if c.Public || !c.Routes[0].Public || c.Routes[1].Public {
		t.Errorf("public: %v, of the routes %v and %v", c.Public, c.Routes[0].Public, c.Routes[1].Public)
	}
	if got := c.Routes[1].Pattern(); got != "/tenants/{k0}/days/{k1}" {
		t.Errorf("pattern %q", got)
	}
	if diff := cmp.Diff([]string{"tenant_id", "day"}, c.Routes[1].Columns()); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if c.RealTime.StatementTimeout != 5*time.Second || c.RealTime.MaxConcurrent != 4 || c.RealTime.URL == "" {
		t.Errorf("real time: %+v", c.RealTime)
	}
	if c.CloudWatch.Dimensions["Database"] != "app" {
		t.Errorf("dimensions: %v", c.CloudWatch.Dimensions)
	}
	for token, want := range map[string]bool{"first-token": true, "second-token": true, "# old": false, "": false, "first-toke": false} {
		if c.Tokens.Accept(token) != want {
			t.Errorf("token %q accepted: %v", token, !want)
		}
	}
	for _, key := range []string{
		"public", "routes[0].path", "routes[0].view", "routes[0].public",
		"real_time.url", "real_time.statement_timeout", "real_time.max_concurrent", "auth.bearer_tokens_file",
		"cloudwatch.dimensions.Database",
	} {
		if _, line, found := c.position(key); !found {
			t.Errorf("the example has no %s (line %d)", key, line)
		}
	}
}

func (c *Config) position(key string) (string, int, bool) {
	d := c.RealTime.at.document
	line, found := d.lines[key]
	return d.file, line, found
}

func TestLoadWithoutFile(t *testing.T) {
	c, err := Load("", func(name string) string {
		if name == RealTimeURLVariable {
			return "postgres://live@localhost/app"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Public || len(c.Routes) != 0 || !c.Tokens.Empty() {
		t.Errorf("not closed by default: %+v", c)
	}
	if c.RealTime.URL != "postgres://live@localhost/app" || c.RealTime.MaxConcurrent != DefaultMaxConcurrent {
		t.Errorf("real time: %+v", c.RealTime)
	}
	_, err = Load("", func(string) string { return "not a url" })
	const want = "real_time.url: connection settings of PostgreSQL: the url must start with postgres:// or be a list of keyword=value"
	if err == nil || err.Error() != want {
		t.Errorf("a wrong environment variable: %v", err)
	}
}

func TestEmptyFile(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n"} {
		file := filepath.Join(t.TempDir(), "empty.yml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file, noEnvironment); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestColumnsOfAnyName(t *testing.T) {
	r, err := NewRoute("/odd/{Job Id}/{a/b}/x/{ключ}", `"Odd view"`)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"Job Id", "a/b", "ключ"}, r.Columns()); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if got := r.Pattern(); got != "/odd/{k0}/{k1}/x/{k2}" {
		t.Errorf("pattern %q", got)
	}
}

func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{"/jobs/{job_id}", "/", "//", "/{", "/}{/", "/a/{b/c}/d", "/jobs/{a}}"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, path string) {
		if segments, err := parsePath(path); err == nil && len(segments) < 2 {
			panic("a route of one segment")
		}
	})
}
