package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// aptInstall installs Debian's postgresql package without the cluster that it
// would create and start.
func aptInstall(ctx context.Context) (string, error) {
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return "", errors.New("not a Debian-like system: there is no apt-get")
	}
	if os.Geteuid() != 0 {
		return "", errors.New("apt-get install needs root")
	}
	// go test runs packages side by side, and apt-get update fails rather
	// than waits for another one.
	unlock, err := lockFolder("/etc/apt")
	if err != nil {
		return "", err
	}
	defer unlock()
	if b, _ := thisMachine().installed(ctx); b.dir != "" {
		return "", nil // by the process we waited for
	}
	allowClusters, err := forbidDebianClusters("/etc/postgresql-common/createcluster.d")
	if err != nil {
		return "", err
	}
	defer allowClusters()

	announce("installing PostgreSQL with apt-get")
	// Old package lists may still be good enough, so only install's error counts.
	updateErr := aptGet(ctx, apt, "update")
	if err := aptGet(ctx, apt, "install", "-y", "--no-install-recommends", "postgresql"); err != nil {
		return "", errors.Join(updateErr, err)
	}
	return "", nil
}

func aptGet(ctx context.Context, apt string, args ...string) error {
	cmd := exec.CommandContext(ctx, apt, append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, tail(string(out), 10))
	}
	return nil
}

// forbidDebianClusters keeps the package's installation from creating and
// starting a cluster until the returned function is called. The folder is one
// that Debian's createcluster.conf includes: unlike a change of that file, a
// file in it can never be in the way of dpkg.
func forbidDebianClusters(folder string) (allow func(), err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("forbid a Debian cluster: %w", err)
	}
	file := filepath.Join(folder, "postgrestest.conf")
	if err := os.WriteFile(file, []byte("create_main_cluster = false\n"), 0o644); err != nil {
		return nil, fmt.Errorf("forbid a Debian cluster: %w", err)
	}
	return func() {
		_ = os.Remove(file)
		// Folders go too if they are empty, that is if they came with us.
		_ = os.Remove(folder)
		_ = os.Remove(filepath.Dir(folder))
	}, nil
}

// embeddedInstall has embedded-postgres download binaries from Maven Central
// into a cache folder.
func embeddedInstall(ctx context.Context) (string, error) {
	cache, err := embeddedCache()
	if err != nil {
		return "", err
	}
	unlock, err := lockFolder(cache)
	if err != nil {
		return "", err
	}
	defer unlock()

	version := embeddedpostgres.V18
	dir := filepath.Join(cache, string(version))
	bin := filepath.Join(dir, "bin")
	if isExecutable(filepath.Join(bin, "postgres")) {
		return bin, nil
	}
	scratch, err := os.MkdirTemp("", "postgrestest-download-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(scratch) }()

	announce("downloading PostgreSQL " + string(version) + " into " + cache)
	// Start is its only way to download. A server that it started would have
	// no watchdog, and as root it cannot start one, so let it fail after the
	// download: this looks like an initialized data folder, but is none.
	data := filepath.Join(scratch, "data")
	major, _, _ := strings.Cut(string(version), ".")
	if err := errors.Join(os.Mkdir(data, 0o700),
		os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(major), 0o600)); err != nil {
		return "", err
	}
	err = embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).Port(uint32(freePort())).Logger(io.Discard).CachePath(cache).
		BinariesPath(dir).RuntimePath(filepath.Join(scratch, "run")).DataPath(data)).Start()
	if isExecutable(filepath.Join(bin, "postgres")) {
		return bin, nil
	}
	return "", fmt.Errorf("embedded-postgres: %w", err)
}

// embeddedCache creates a folder for downloaded binaries. Root's home is no
// place for it: the server runs as another user, who cannot look inside.
func embeddedCache() (string, error) {
	cache := "/var/cache"
	if os.Geteuid() != 0 {
		var err error
		if cache, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("embedded-postgres: %w", err)
		}
	}
	cache = filepath.Join(cache, "postgrestest")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("embedded-postgres: %w", err)
	}
	return cache, nil
}

// announce explains a wait of minutes.
func announce(what string) {
	fmt.Fprintln(os.Stderr, "postgrestest: no PostgreSQL server found, "+what)
}
