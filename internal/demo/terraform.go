package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/matview/terraform-provider-matview/internal/terraformcli"
)

// providerVersion is the version of the provider that the demo has built.
const providerVersion = "0.0.1"

func (d *demo) mirror() string       { return filepath.Join(d.dir, "plugins") }
func (d *demo) terraformDir() string { return filepath.Join(d.dir, "terraform") }

func (d *demo) providerBinary() string {
	return filepath.Join(d.mirror(), "registry.terraform.io", "matview", "matview", providerVersion,
		runtime.GOOS+"_"+runtime.GOARCH, "terraform-provider-matview_v"+providerVersion)
}

// env is Terraform's environment: the provider just built, the database in PG*
// variables, and none of this machine's Terraform settings.
func (d *demo) env() []string {
	return []string{
		"TF_CLI_CONFIG_FILE=" + filepath.Join(d.dir, "terraformrc"), "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "TF_CLI_ARGS=",
		"TF_VAR_refresh_every=4s", "TF_VAR_deletion_protection=false",
		"PGHOST=" + d.server.Host(), fmt.Sprintf("PGPORT=%d", d.server.Port()), "PGDATABASE=" + database,
		"PGUSER=" + admin, "PGPASSWORD=" + d.adminPassword, "PGSSLMODE=disable",
	}
}

func (d *demo) writeConfig() error {
	config := fmt.Sprintf(`provider_installation {
  filesystem_mirror {
    path    = %q
    include = ["matview/matview"]
  }
}
`, d.mirror())
	if err := os.WriteFile(filepath.Join(d.dir, "terraformrc"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.CopyFS(d.terraformDir(), os.DirFS(filepath.Join(d.source, example))); err != nil {
		return err
	}
	var env strings.Builder
	for _, variable := range d.env() {
		name, value, _ := strings.Cut(variable, "=")
		fmt.Fprintf(&env, "export %s='%s'\n", name, value)
	}
	return os.WriteFile(filepath.Join(d.terraformDir(), "env"), []byte(env.String()), 0o600)
}

func (d *demo) run(ctx context.Context, args ...string) (string, error) {
	return output(ctx, d.terraformDir(), d.env(), d.terraform, args...)
}

func (d *demo) apply(ctx context.Context) error {
	var err error
	if d.terraform, err = terraformcli.Find(ctx, d.dir); err != nil {
		return err
	}
	if err := d.writeConfig(); err != nil {
		return err
	}
	if _, err := d.run(ctx, "init", "-no-color"); err != nil {
		return err
	}
	out, err := d.run(ctx, "apply", "-no-color", "-auto-approve")
	if err != nil {
		return err
	}
	summary := "Apply complete! Resources: 3 added, 0 changed, 0 destroyed."
	if !strings.Contains(out, summary) {
		return fmt.Errorf("apply did not end with %q:\n%s", summary, out)
	}
	say("%s", summary)
	return checksPass(out)
}

func checksPass(out string) error {
	if strings.Contains(out, "Check block assertion failed") {
		return fmt.Errorf("the check block does not find the view fresh:\n%s", out)
	}
	return nil
}

// showEmptyPlan plans until the exporter refreshes during a plan.
func (d *demo) showEmptyPlan(ctx context.Context) error {
	for plans := 1; plans <= 30; plans++ {
		before, err := d.status(ctx)
		if err != nil {
			return err
		}
		// It exits with 2 if there is something to do.
		out, err := d.run(ctx, "plan", "-no-color", "-detailed-exitcode")
		if err != nil {
			return fmt.Errorf("the second plan failed or is not empty: %w", err)
		}
		if err := checksPass(out); err != nil {
			return err
		}
		after, err := d.status(ctx)
		if err != nil {
			return err
		}
		if after.LastRefreshedAt.After(before.LastRefreshedAt) {
			say("terraform plan -detailed-exitcode: exit 0, no changes, and the check block passes; %d plans, a refresh finished during the last one.", plans)
			return nil
		}
	}
	return errors.New("no refresh happened during 30 plans")
}

const readBack = `terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

data "matview_freshness" "job_progress" {
  view = "job_progress"
}

output "last_refreshed_at" {
  value = data.matview_freshness.job_progress.last_refreshed_at
}
`

func (d *demo) showDataSource(ctx context.Context) error {
	dir := filepath.Join(d.dir, "read-back")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(readBack), 0o600); err != nil {
		return err
	}
	before, err := d.status(ctx)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"init", "-no-color"}, {"plan", "-no-color", "-out=plan"}} {
		if _, err := output(ctx, dir, d.env(), d.terraform, args...); err != nil {
			return err
		}
	}
	shown, err := output(ctx, dir, d.env(), d.terraform, "show", "-json", "plan")
	if err != nil {
		return err
	}
	var plan struct {
		PlannedValues struct {
			Outputs map[string]struct{ Value string }
		} `json:"planned_values"`
	}
	if err := json.Unmarshal([]byte(shown), &plan); err != nil {
		return err
	}
	value := plan.PlannedValues.Outputs["last_refreshed_at"].Value
	read, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return err
	}
	after, err := d.status(ctx)
	if err != nil {
		return err
	}
	if read.Before(before.LastRefreshedAt) || read.After(after.LastRefreshedAt) {
		return fmt.Errorf("the data source read %s, but the API reported %s before and %s after", read, before.LastRefreshedAt, after.LastRefreshedAt)
	}
	say("data.matview_freshness.job_progress.last_refreshed_at = %q", value)
	return nil
}
