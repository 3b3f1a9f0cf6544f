package provider

import (
	"cmp"
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// workspace is a folder for terraform, which finds the provider built there.
type workspace struct {
	dir string
	env []string
}

func newWorkspace(t testing.TB, url, config string) workspace {
	t.Helper()
	dir := t.TempDir()
	build := osexec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "terraform-provider-matview"), "../..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cli := filepath.Join(dir, "terraformrc")
	files := map[string]string{
		cli:                           fmt.Sprintf("provider_installation {\n  dev_overrides {\n    \"matview/matview\" = %q\n  }\n}\n", dir),
		filepath.Join(dir, "main.tf"): config,
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	c := pg.ConnConfig
	return workspace{dir: dir, env: append(os.Environ(), "TF_CLI_CONFIG_FILE="+cli, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "PGHOST="+c.Host, fmt.Sprintf("PGPORT=%d", c.Port),
		"PGDATABASE="+c.Database, "PGUSER="+c.User, "PGPASSWORD="+c.Password, "PGSSLMODE=disable")}
}

// beside is another workspace, with a state of its own, and the same provider.
func (w workspace) beside(t testing.TB, config string) workspace {
	t.Helper()
	w.dir = t.TempDir()
	w.write(t, config)
	return w
}

func (w workspace) write(t testing.TB, config string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "main.tf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w workspace) try(ctx context.Context, args ...string) (out string, err error) {
	cmd := osexec.CommandContext(ctx, cmp.Or(os.Getenv("TF_ACC_TERRAFORM_PATH"), "terraform"), append(args, "-no-color")...)
	cmd.Dir, cmd.Env = w.dir, w.env
	all, err := cmd.CombinedOutput()
	return string(all), err
}

func (w workspace) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := w.try(t.Context(), args...)
	if err != nil {
		t.Fatalf("terraform %v: %v\n%s", args, err, out)
	}
	return out
}

func (w workspace) plan(t testing.TB) time.Duration {
	t.Helper()
	start := time.Now()
	out := w.run(t, "plan")
	took := time.Since(start)
	if !strings.Contains(out, "No changes.") {
		t.Fatalf("there are changes:\n%s", out)
	}
	return took
}
