package matview

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// A security label cannot be set again if its provider is not loaded: an obstacle that
// is found before anything is built.
func TestSwapWithoutLabelProvider(t *testing.T) {
	db := jobs(t)
	pool := db.Pool(t)
	for _, part := range []string{"0", "1"} {
		v := create(t, pool, Spec{Name: Name{PublicSchema, "v" + part}, Definition: "SELECT id FROM jobs", WithData: true})
		db.Exec(t, `SET allow_system_table_mods = on; INSERT INTO pg_seclabel VALUES ('v`+part+`'::regclass, 'pg_class'::regclass, `+part+`, 'Some one', 'it''s secret')`)
		err := swap(t, pool, Swap{View: v})
		want := v.Name.String() + ` cannot be replaced: it has a security label of provider "Some one", which the server has not loaded`
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if again := read(t, pool, v.Name); again.OID != v.OID {
			t.Error("it was replaced without its label")
		}
	}
}

func TestSwapCarriesSecurityLabels(t *testing.T) {
	db := jobs(t)
	db.Exec(t, fmt.Sprintf("ALTER DATABASE %q SET session_preload_libraries = '%s'", db.Name, labelProvider(t)))
	pool := db.Pool(t)
	v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", WithData: true})
	if _, err := pool.Exec(t.Context(), `SECURITY LABEL FOR "Some one" ON MATERIALIZED VIEW v IS 'it''s secret';
SECURITY LABEL FOR "Some one" ON COLUMN v.name IS E'two\nlines'`); err != nil {
		t.Fatal(err)
	}
	if err := swap(t, pool, Swap{View: v, Definition: "SELECT id, name FROM jobs WHERE id > 0"}); err != nil {
		t.Fatal(err)
	}
	if again := read(t, pool, v.Name); again.OID == v.OID {
		t.Fatal("it was not replaced")
	}
	var got string
	if err := pool.QueryRow(t.Context(), `SELECT string_agg(concat_ws(' ', objtype, objname, provider, label), '; ' ORDER BY objname) FROM pg_seclabels WHERE objoid = 'v'::regclass`).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if want := "materialized view v Some one it's secret; column v.name Some one two\nlines"; got != want {
		t.Errorf("the labels are %q, want %q", got, want)
	}
}

// labelProvider compiles the provider "Some one" for the tests' server.
func labelProvider(t *testing.T) (file string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "label") //nolint:usetesting // the server's user cannot reach t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file = filepath.Join(dir, "label_provider.so")
	version := fmt.Sprintf("-DVERSION=%d", postgrestest.Version(t)/100)
	if out, err := exec.CommandContext(t.Context(), "cc", "-shared", "-fPIC", "-o", file, version, "testdata/label_provider.c").CombinedOutput(); err != nil {
		t.Fatalf("compile a provider of security labels: %v\n%s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the server runs as another user
		t.Fatal(err)
	}
	return file
}
