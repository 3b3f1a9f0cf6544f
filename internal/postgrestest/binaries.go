package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const binEnv = "MATVIEW_TEST_POSTGRES_BIN"

// minMajor is the oldest version this package can use: DROP DATABASE ... WITH
// (FORCE) came with 13.
const minMajor = 13

// usualFolders is where distributions, the PostgreSQL project's own packages,
// and source builds put server binaries, which are rarely in PATH.
var usualFolders = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/lib/postgresql*/bin",  // openSUSE, Alpine's older releases
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/pgsql-*/bin",          // yum.postgresql.org
	"/usr/local/pgsql/bin",      // built from source
	"/usr/local/pgsql-*/bin",    //
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin", // Homebrew on Intel
	"/opt/local/lib/postgresql*/bin", // MacPorts
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/Library/PostgreSQL/*/bin", // EDB's installer
}

// binaries is a folder with postgres and initdb, and their major version.
type binaries struct {
	dir   string
	major int
}

// machine is where to look for server binaries; tests narrow it.
type machine struct {
	explicit string   // the folder the user insists on
	path     string   // as in $PATH
	folders  []string // globs
	installs []install
}

func thisMachine() machine {
	return machine{
		explicit: os.Getenv(binEnv),
		path:     os.Getenv("PATH"),
		folders:  usualFolders,
		installs: []install{aptInstall, embeddedInstall},
	}
}

// install puts server binaries on the machine. It returns the folder, or "" if
// they are now in one of the usual ones.
type install func(ctx context.Context) (dir string, err error)

// find returns the binaries to use. Its error says what to install, and what
// was wrong with what was found.
func (m machine) find(ctx context.Context) (binaries, error) {
	if m.explicit != "" {
		b, err := inspect(ctx, m.explicit)
		if err != nil {
			return binaries{}, fmt.Errorf("%s: %w", binEnv, err)
		}
		return b, nil
	}
	b, problems := m.installed(ctx)
	if b.dir != "" {
		return b, nil
	}
	for _, install := range m.installs {
		// Nothing that was ended early shows that PostgreSQL is missing.
		if err := ctx.Err(); err != nil {
			return binaries{}, fmt.Errorf("look for a PostgreSQL server: %w", err)
		}
		dir, err := install(ctx)
		switch {
		case err != nil:
			problems = append(problems, err)
		case dir == "":
			b, more := m.installed(ctx)
			if b.dir != "" {
				return b, nil
			}
			problems = append(problems, more...)
		default:
			b, err := inspect(ctx, dir)
			if err == nil {
				return b, nil
			}
			problems = append(problems, err)
		}
	}
	return binaries{}, fmt.Errorf("no PostgreSQL server found: install PostgreSQL %d or newer "+
		"(such as apt-get install postgresql, dnf install postgresql-server, brew install postgresql), "+
		"or set %s to the folder of its postgres and initdb, or set %s to the URL of a superuser on a running server\n%w",
		minMajor, binEnv, urlEnv, errors.Join(problems...))
}

// installed returns the first usable binaries on the machine: what PATH says
// goes before where we guess.
func (m machine) installed(ctx context.Context) (binaries, []error) {
	var problems []error
	for _, dir := range append(m.inPath(), m.fromPgConfig(ctx)...) {
		b, err := inspect(ctx, dir)
		if err == nil {
			return b, nil
		}
		problems = append(problems, err)
	}
	var found []binaries
	for _, pattern := range m.folders {
		dirs, _ := filepath.Glob(pattern) // errs only on a bad pattern
		for _, dir := range dirs {
			if !isExecutable(filepath.Join(dir, "postgres")) {
				continue // a client's folder, no reason to complain
			}
			b, err := inspect(ctx, dir)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		return binaries{}, problems
	}
	slices.SortStableFunc(found, func(a, b binaries) int { return b.major - a.major })
	return found[0], nil
}

func (m machine) inPath() []string {
	var dirs []string
	for _, dir := range filepath.SplitList(m.path) {
		// A link in PATH stands alone; initdb and the server's libraries are
		// beside the file it points to.
		file, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
		if dir != "" && err == nil && isExecutable(file) {
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	return dirs
}

func (m machine) fromPgConfig(ctx context.Context) []string {
	for _, dir := range filepath.SplitList(m.path) {
		program := filepath.Join(dir, "pg_config")
		if dir == "" || !isExecutable(program) {
			continue
		}
		out, err := exec.CommandContext(ctx, program, "--bindir").Output()
		bin := strings.TrimSpace(string(out))
		// Debian's libpq-dev has a pg_config without a server.
		if err != nil || !isExecutable(filepath.Join(bin, "postgres")) {
			return nil
		}
		return []string{bin}
	}
	return nil
}

var versionPattern = regexp.MustCompile(`^postgres \(PostgreSQL\) (\d+)`)

// inspect checks that dir holds a usable server.
func inspect(ctx context.Context, dir string) (binaries, error) {
	dir, err := filepath.Abs(dir) // the server runs in another folder
	if err != nil {
		return binaries{}, err
	}
	for _, name := range []string{"postgres", "initdb"} {
		if !isExecutable(filepath.Join(dir, name)) {
			return binaries{}, fmt.Errorf("%s has no program %s", dir, name)
		}
	}
	if a, err := serverAccount(); err != nil || !a.reaches(dir) {
		return binaries{}, errors.Join(fmt.Errorf("%s is closed to the user as whom the server would run", dir), err)
	}
	program := filepath.Join(dir, "postgres")
	out, err := exec.CommandContext(ctx, program, "--version").CombinedOutput()
	if err != nil {
		return binaries{}, fmt.Errorf("%s --version: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return binaries{}, fmt.Errorf("%s --version says %q", program, strings.TrimSpace(string(out)))
	}
	major, err := strconv.Atoi(string(match[1]))
	if err != nil {
		return binaries{}, fmt.Errorf("%s --version: %w", program, err)
	}
	if major < minMajor {
		return binaries{}, fmt.Errorf("%s is PostgreSQL %d, older than %d", dir, major, minMajor)
	}
	return binaries{dir: dir, major: major}, nil
}

func isExecutable(file string) bool {
	stat, err := os.Stat(file)
	return err == nil && stat.Mode().IsRegular() && stat.Mode().Perm()&0o111 != 0
}
