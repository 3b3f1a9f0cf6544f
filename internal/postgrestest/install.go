package postgrestest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// aptInstall installs Debian's package postgresql in the way that the scripts install
// the other programs that tests need.
func aptInstall(ctx context.Context) error {
	_, file, _, _ := runtime.Caller(0)
	scripts := filepath.Join(filepath.Dir(file), "..", "..", "scripts")
	// go test runs packages side by side; the first one installs.
	lock, err := os.Open(scripts)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", scripts, err)
	}
	if _, err := newFinder().installed(ctx); err == nil {
		return nil // by the process that held the lock
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", "source need.sh && install_packages postgresql")
	cmd.Dir = scripts
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // it takes minutes
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("install the package postgresql: %w", err)
	}
	return nil
}
