// Package terraformcli finds Terraform for the demo and for tests that run it.
package terraformcli

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/hashicorp/hc-install/product"
	"github.com/hashicorp/hc-install/releases"
)

const downloadTimeout = 5 * time.Minute

// Find returns the path of the terraform on PATH, or else downloads the latest release
// into dir.
func Find(ctx context.Context, dir string) (string, error) {
	found, err := exec.LookPath("terraform")
	if err == nil {
		return found, nil
	}
	latest := &releases.LatestVersion{Product: product.Terraform, InstallDir: dir, Timeout: downloadTimeout}
	if found, err = latest.Install(ctx); err != nil {
		return "", fmt.Errorf("there is no terraform on PATH, and the download failed; install Terraform 1.8 or later: %w", err)
	}
	return found, nil
}
