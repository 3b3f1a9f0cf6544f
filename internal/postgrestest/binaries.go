package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

const binEnv = "MATVIEW_TEST_POSTGRES_BIN"

// minMajor is the oldest version that this package can use: DROP DATABASE ... WITH
// (FORCE) came with PostgreSQL 13.
const minMajor = 13

// usualDirs are where packages and source builds put the server's programs,
// which are rarely on PATH.
var usualDirs = []string{
	"/usr/lib/postgresql/*/bin", // Debian
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/pgsql-*/bin",          // yum.postgresql.org
	"/usr/local/pgsql*/bin",     // built from source
	"/opt/homebrew/opt/postgresql*/bin",
}

// binaries is a directory with postgres and initdb, and their
// server_version_num.
type binaries struct {
	dir     string
	version int
}

// finder says where to look for binaries.
type finder struct {
	explicit string   // the directory that the user insists on
	path     string   // as in $PATH
	dirs     []string // globs
	install  func(context.Context) error
}

func newFinder() finder {
	return finder{explicit: os.Getenv(binEnv), path: os.Getenv("PATH"), dirs: usualDirs, install: aptInstall}
}

// find returns the binaries to use, and installs some if there are none. Its error
// says what to install, and what is wrong with what was found.
func (f finder) find(ctx context.Context) (binaries, error) {
	if f.explicit != "" {
		b, err := inspect(ctx, f.explicit)
		if err != nil {
			return binaries{}, fmt.Errorf("%s: %w", binEnv, err)
		}
		return b, nil
	}
	b, err := f.installed(ctx)
	if err == nil {
		return b, nil
	}
	// A canceled search does not show that PostgreSQL is missing.
	if err := ctx.Err(); err != nil {
		return binaries{}, fmt.Errorf("look for a PostgreSQL server: %w", err)
	}
	installErr := f.install(ctx)
	if b, err = f.installed(ctx); err == nil {
		return b, nil
	}
	return binaries{}, fmt.Errorf("no PostgreSQL server found: install PostgreSQL %d or later "+
		"(such as apt-get install postgresql, dnf install postgresql-server, brew install postgresql), "+
		"or set %s to the directory of its postgres and initdb, or set %s to the URL of a superuser of a running server\n%w",
		minMajor, binEnv, urlEnv, errors.Join(err, installErr))
}

// installed returns the first usable binaries on PATH, or else the newest in the
// usual directories.
func (f finder) installed(ctx context.Context) (binaries, error) {
	problems := []error{errors.New("no usable binaries on PATH or in the usual directories")}
	for _, dir := range filepath.SplitList(f.path) {
		// A link on PATH stands alone; initdb and the libraries are beside the file
		// that it points to.
		file, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
		if err != nil {
			continue
		}
		b, err := inspect(ctx, filepath.Dir(file))
		if err == nil {
			return b, nil
		}
		problems = append(problems, err)
	}
	var newest binaries
	for _, pattern := range f.dirs {
		files, _ := filepath.Glob(filepath.Join(pattern, "postgres")) // fails on a bad pattern only
		for _, file := range files {
			b, err := inspect(ctx, filepath.Dir(file))
			if err != nil {
				problems = append(problems, err)
			} else if b.version > newest.version {
				newest = b
			}
		}
	}
	if newest.dir != "" {
		return newest, nil
	}
	return binaries{}, errors.Join(problems...)
}

var versionPattern = regexp.MustCompile(`^postgres \(PostgreSQL\) (\d+)(?:\.(\d+))?`)

// inspect checks that dir holds a usable server. It runs postgres as the server's
// user, who may not be able to reach it.
func inspect(ctx context.Context, dir string) (binaries, error) {
	dir, err := filepath.Abs(dir) // the server runs in another directory
	if err != nil {
		return binaries{}, err
	}
	account, err := serverAccount()
	if err != nil {
		return binaries{}, err
	}
	for _, name := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return binaries{}, fmt.Errorf("%s has no program %s", dir, name)
		}
	}
	program := filepath.Join(dir, "postgres")
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account.credential()}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return binaries{}, fmt.Errorf("run %s --version as the user of the server: %w: %s", program, err, text)
	}
	match := versionPattern.FindStringSubmatch(text)
	if match == nil {
		return binaries{}, fmt.Errorf("%s --version prints %q", program, text)
	}
	major, _ := strconv.Atoi(match[1])
	minor, _ := strconv.Atoi(match[2]) // none before the first release
	if major < minMajor {
		return binaries{}, fmt.Errorf("%s is PostgreSQL %s, older than %d", dir, match[1], minMajor)
	}
	return binaries{dir, major*10000 + minor}, nil
}
