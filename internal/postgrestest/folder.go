package postgrestest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// maxSocketPath is the shortest limit among the systems, macOS's; Linux allows
// 107 bytes.
const maxSocketPath = 103

// makeFolder creates the folder of a server, owned by its account, in a place
// that the account can reach and where the path of a socket is short enough.
func makeFolder(a *account) (string, error) {
	candidates := []string{os.TempDir(), "/tmp", "/var/tmp"}
	for _, base := range candidates {
		longest := filepath.Join(base, "postgrestest-4294967295", ".s.PGSQL.65535")
		if len(longest) > maxSocketPath || !a.reaches(base) {
			continue
		}
		dir, err := os.MkdirTemp(base, "postgrestest-")
		if err != nil {
			continue
		}
		if err := a.own(dir); err != nil {
			_ = os.Remove(dir)
			return "", fmt.Errorf("create a folder for the server: %w", err)
		}
		return dir, nil
	}
	return "", fmt.Errorf("create a folder for the server: none of %s is writable, open to the server's user, and short",
		strings.Join(candidates, ", "))
}

// initdb creates the data folder. Passwords are checked on TCP connections
// and not on the socket, which only the owner of its folder and root reach.
func (s *Server) initdb(ctx context.Context) error {
	secret := filepath.Join(s.dir, "password")
	if err := os.WriteFile(secret, []byte(s.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	defer func() { _ = os.Remove(secret) }()
	if err := s.account.own(secret); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin.dir, "initdb"),
		"--pgdata="+s.dataDir(), "--username="+superuser, "--pwfile="+secret,
		"--auth-local=trust", "--auth-host=scram-sha-256",
		"--encoding=UTF8", "--no-locale", "--no-sync")
	cmd.Dir = s.dir
	cmd.Env = serverEnv()
	s.watchdog.adopt(cmd)
	// To the log rather than a pipe: Wait would wait for the pipe's other
	// holders as well.
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // rather than "signal: killed"
		}
		return fmt.Errorf("initdb from %s: %w\n%s", s.bin.dir, err, s.LogTail())
	}
	return nil
}

// configure appends the settings to postgresql.conf, where the last one wins.
func (s *Server) configure(changes map[string]string) error {
	settings := map[string]string{
		// Nothing here has to survive a crash of the machine. It does have
		// to survive Crash, for which synchronous_commit must stay on; without
		// fsync it costs next to nothing.
		"fsync":            "off",
		"full_page_writes": "off",

		"max_connections":     "200",
		"password_encryption": "scram-sha-256", // 13's default is md5
		"timezone":            "UTC",           // not the machine's, which initdb took
		"log_timezone":        "UTC",
		"log_line_prefix":     "%m [%p] %q%u@%d %a ",
	}
	maps.Copy(settings, changes)

	f, err := os.OpenFile(filepath.Join(s.dataDir(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if _, err := fmt.Fprintf(f, "%s = %s\n", name, quoteSetting(settings[name])); err != nil {
			_ = f.Close()
			return fmt.Errorf("configure the server: %w", err)
		}
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	return nil
}

// quoteSetting quotes a value for postgresql.conf, which knows backslash
// escapes, too (GUC_scanstr in guc-file.l).
func quoteSetting(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", "''", "\n", `\n`).Replace(value) + "'"
}

// serverEnv is our environment without what would change a server: PGDATA,
// PGPORT, a language for its messages, which we read, and the like.
func serverEnv() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	})
	return append(env, "LC_ALL=C")
}

// LogTail returns the end of the server's log, up to 40 lines.
func (s *Server) LogTail() string {
	log, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return tail(string(log), 40)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
