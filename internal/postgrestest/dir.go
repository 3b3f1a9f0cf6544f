package postgrestest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	// maxSocketPath is macOS's limit, the lowest; Linux allows 107 bytes.
	maxSocketPath = 103
	// sharedMemoryNeeded is the free space that makes /dev/shm a place for
	// servers: the tests of several packages run side by side, and each server may
	// keep 1 GB of WAL. There, a database is created three times as fast as on a
	// disk.
	sharedMemoryNeeded = 4 << 30
	sharedMemory       = "/dev/shm"
)

// makeDir creates the directory of a server where its account can enter and the
// path of the socket is short enough.
func makeDir(a *account) (string, error) {
	parents := []string{os.Getenv("TMPDIR"), sharedMemory, "/tmp", "/var/tmp"}
	for _, parent := range parents {
		socket := filepath.Join(parent, "postgrestest-4294967295", ".s.PGSQL.65535")
		if parent == "" || len(socket) > maxSocketPath || parent == sharedMemory && !enoughSharedMemory() || !a.canEnter(parent) {
			continue
		}
		dir, err := os.MkdirTemp(parent, "postgrestest-")
		if err != nil {
			continue
		}
		if err := a.chown(dir); err != nil {
			_ = os.Remove(dir)
			return "", fmt.Errorf("create the server's directory: %w", err)
		}
		return dir, nil
	}
	return "", fmt.Errorf("create the server's directory: none of %s is writable, open to the server's user, and short enough for a socket",
		strings.Join(parents, " "))
}

func enoughSharedMemory() bool {
	var fs syscall.Statfs_t
	err := syscall.Statfs(sharedMemory, &fs)
	return err == nil && fs.Bavail*uint64(fs.Bsize) >= sharedMemoryNeeded //nolint:gosec // a size is positive
}
