// Package terraformcli finds a Terraform for the demo and for tests that run
// one themselves.
package terraformcli

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/hashicorp/hc-install/product"
	"github.com/hashicorp/hc-install/releases"
)

const fetchTimeout = 5 * time.Minute

// Find is the terraform on PATH, else the latest release, fetched into dir.
func Find(ctx context.Context, dir string) (string, error) {
	found, err := exec.LookPath("terraform")
	if err == nil {
		return found, nil
	}
	latest := &releases.LatestVersion{Product: product.Terraform, InstallDir: dir, Timeout: fetchTimeout}
	if found, err = latest.Install(ctx); err != nil {
		return "", fmt.Errorf("there is no terraform on PATH, and it could not be fetched; install Terraform 1.8 or later: %w", err)
	}
	return found, nil
}
