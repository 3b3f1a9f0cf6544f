package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// initdb creates the data directory. The server asks for the password on TCP
// connections but not on its socket, which only root and the server's user reach.
func (s *Server) initdb(ctx context.Context) error {
	secret := filepath.Join(s.dir, "password")
	if err := s.account.writeFile(secret, s.password+"\n"); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	defer func() { _ = os.Remove(secret) }()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin.dir, "initdb"),
		"--pgdata="+s.dataDir(), "--username="+superuser, "--pwfile="+secret,
		"--auth-local=trust", "--auth-host=scram-sha-256",
		"--encoding=UTF8", "--no-locale", "--no-sync")
	s.prepare(cmd)
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // rather than "signal: killed"
		}
		return fmt.Errorf("initdb from %s: %w\n%s", s.bin.dir, err, s.LogTail())
	}
	return nil
}

// prepare makes cmd one of the server's processes. It writes to the log, not to a
// pipe: Wait would wait for every process that holds the pipe.
func (s *Server) prepare(cmd *exec.Cmd) {
	// Without PGDATA, PGPORT, a language for the messages that we read, and the like.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	}), "LC_ALL=C")
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = s.log, s.log
	s.watchdog.adopt(cmd)
}

// configure appends settings to postgresql.conf, where the last one of a name
// counts.
func (s *Server) configure(changes map[string]string) error {
	settings := map[string]string{
		// Nothing has to survive a crash of the machine. Commits do have to survive
		// Crash, so synchronous_commit stays on; without fsync it costs next to nothing.
		"fsync":            "off",
		"full_page_writes": "off",

		"max_connections":     "200",
		"password_encryption": "scram-sha-256", // md5 is the default of PostgreSQL 13
		"timezone":            "UTC",           // initdb takes the machine's
		"log_timezone":        "UTC",
		"log_line_prefix":     "%m [%p] %q%u@%d %a ",
	}
	maps.Copy(settings, changes)
	// postgresql.conf has backslash escapes, too (GUC_scanstr in guc-file.l).
	quote := strings.NewReplacer(`\`, `\\`, "'", "''", "\n", `\n`)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, quote.Replace(settings[name]))
	}
	f, err := os.OpenFile(filepath.Join(s.dataDir(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text.String())
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	return nil
}

// LogTail returns the last lines of the server's log, up to 40.
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
