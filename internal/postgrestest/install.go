package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// aptInstall installs Debian's package postgresql, without the cluster that it
// would create and start.
func aptInstall(ctx context.Context) error {
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return errors.New("only root can install it, with apt-get")
	}
	// go test runs packages side by side, and apt-get update fails while another
	// one runs. The lock ends with the process.
	lock, err := os.Open("/etc/apt")
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := newFinder().installed(ctx); err == nil {
		return nil // by the process that held the lock
	}
	allowClusters, err := forbidDebianClusters("/etc/postgresql-common/createcluster.d")
	if err != nil {
		return err
	}
	defer allowClusters()
	fmt.Fprintln(os.Stderr, "postgrestest: no PostgreSQL server found; installing it with apt-get")
	updateErr := aptGet(ctx, "update") // the package lists may be recent enough without it
	if err := aptGet(ctx, "install", "-y", "--no-install-recommends", "postgresql"); err != nil {
		return errors.Join(updateErr, err)
	}
	return nil
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, tail(string(out), 10))
	}
	return nil
}

// forbidDebianClusters keeps the package from creating a cluster until allow is
// called. dir is one that Debian's createcluster.conf includes.
func forbidDebianClusters(dir string) (allow func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("forbid a Debian cluster: %w", err)
	}
	file := filepath.Join(dir, "postgrestest.conf")
	if err := os.WriteFile(file, []byte("create_main_cluster = false\n"), 0o644); err != nil {
		return nil, fmt.Errorf("forbid a Debian cluster: %w", err)
	}
	return func() {
		_ = os.Remove(file)
		// Directories go too if they are empty, so those that were there before with
		// files in them stay.
		_ = os.Remove(dir)
		_ = os.Remove(filepath.Dir(dir))
	}, nil
}
