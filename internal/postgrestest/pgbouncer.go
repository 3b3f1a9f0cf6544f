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

// PgBouncer starts PgBouncer in transaction mode in front of the database, until
// the end of the test, and returns the superuser's URL through it. Each transaction
// gets the session that has been unused for longest, of three: whatever depends on
// a session breaks soon. It needs Linux.
func (d *Database) PgBouncer(t testing.TB) string {
	t.Helper()
	address, err := d.startPgBouncer(t)
	if err != nil {
		t.Fatalf("postgrestest: start PgBouncer: %v", err)
	}
	u := url.URL{Scheme: "postgres", User: url.User("anyone"), Host: address, Path: "/" + d.Name, RawQuery: "sslmode=disable"}
	return u.String()
}

func (d *Database) startPgBouncer(t testing.TB) (address string, err error) {
	t.Helper()
	server, err := pgx.ParseConfig(d.URL())
	if err != nil {
		return "", err
	}
	account, err := serverAccount()
	if err != nil {
		return "", err
	}
	dir, err := makeDir(account)
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	port := freePort()
	config := filepath.Join(dir, "pgbouncer.ini")
	err = account.writeFile(config, fmt.Sprintf(`[databases]
%s = host=%s port=%d dbname=%s user=%s password=%s
[pgbouncer]
listen_addr = %s
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
`, d.Name, server.Host, server.Port, quote(d.Name), quote(server.User), quote(server.Password), host, port))
	if err != nil {
		return "", err
	}
	var log bytes.Buffer
	cmd := exec.Command("pgbouncer", config)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account.credential(), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("PgBouncer: %s", log.String())
		}
	})
	address = net.JoinHostPort(host, strconv.Itoa(port))
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return address, conn.Close()
		}
		if time.Now().After(deadline) {
			return "", err
		}
	}
}
