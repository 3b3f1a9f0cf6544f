package postgrestest

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PgBouncer starts one in transaction mode before the database, until the end
// of the test, and returns the URL through it, of the superuser. It hands each
// transaction the session that was longest unused, of three: whatever depends
// on a session breaks soon.
func (d *Database) PgBouncer(t testing.TB) string {
	t.Helper()
	server, err := pgx.ParseConfig(d.URL())
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	account, err := serverAccount()
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	dir, err := makeFolder(account)
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	port := freePort()
	config := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
%s = host=%s port=%d dbname=%s user=%s password=%s
[pgbouncer]
listen_addr = %s
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
`, d.Name, server.Host, server.Port, quote(d.Name), quote(server.User), quote(server.Password), host, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	if err := account.own(config); err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	var log bytes.Buffer
	cmd := exec.Command("pgbouncer", config)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account.credential(), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("postgrestest: start PgBouncer: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("PgBouncer: %s", log.String())
		}
	})
	address := net.JoinHostPort(host, strconv.Itoa(port))
	for deadline := time.Now().Add(startTimeout); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("postgrestest: PgBouncer does not answer: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	u := url.URL{Scheme: "postgres", User: url.User("anyone"), Host: address, Path: "/" + d.Name, RawQuery: "sslmode=disable"}
	return u.String()
}
