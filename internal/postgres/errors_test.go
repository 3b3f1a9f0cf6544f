package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// connect returns the message of a connection that fails.
func connect(t *testing.T, c postgres.Config) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	pool, err := postgres.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	err = pool.Ping(ctx)
	if err == nil {
		t.Fatal("connected")
	}
	if !postgres.Unreachable(err) {
		t.Errorf("Unreachable is false for %v", err)
	}
	// Wrapped, as callers do.
	message := postgres.Message(fmt.Errorf("read freshness: %w", err))
	if strings.ContainsRune(message, '\n') {
		t.Errorf("more than one line: %s", message)
	}
	if c.Password != "" && strings.Contains(message, c.Password) {
		t.Errorf("it contains the password: %s", message)
	}
	return message
}

func wantMessage(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// server returns the address of the test server with the login of a role.
func server(t *testing.T) (postgres.Config, string) {
	t.Helper()
	noEnvironment(t)
	db := postgrestest.New(t)
	user, password := db.Role(t, "")
	u, err := pgx.ParseConfig(db.URLFor(user, password))
	if err != nil {
		t.Fatal(err)
	}
	return postgres.Config{Host: u.Host, Port: int(u.Port), Database: u.Database, Username: user, Password: password, SSLMode: "disable"},
		fmt.Sprintf("cannot connect to PostgreSQL at %s, database %q, as user %q: ", net.JoinHostPort(u.Host, fmt.Sprint(u.Port)), u.Database, user)
}

func TestMessageWrongPassword(t *testing.T) {
	config, where := server(t)
	config.Password += "not this"
	wantMessage(t, connect(t, config), where+fmt.Sprintf("password authentication failed for user %q; check username and password", config.Username))
}

func TestMessageNoPassword(t *testing.T) {
	config, where := server(t)
	config.Password = ""
	wantMessage(t, connect(t, config), where+fmt.Sprintf("password authentication failed for user %q; no password is set, here or in PGPASSWORD or a password file", config.Username))
}

func TestMessageMissingDatabase(t *testing.T) {
	config, where := server(t)
	where = strings.Replace(where, config.Database, "not_there", 1)
	config.Database = "not_there"
	wantMessage(t, connect(t, config), where+`database "not_there" does not exist (SQLSTATE 3D000)`)
}

func TestMessageNoTLS(t *testing.T) {
	config, where := server(t)
	config.SSLMode = "require"
	wantMessage(t, connect(t, config), where+"the server does not support TLS; set sslmode to disable if that is intended")
}

func TestMessageUnreachable(t *testing.T) {
	noEnvironment(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // never accepts, so never answers
	silent := listener.Addr().(*net.TCPAddr).Port
	base := postgres.Config{Database: "db", Username: "me", Password: "secret", SSLMode: "disable"}
	cases := map[string]struct {
		host, mode string
		port       int
		database   string
		timeout    time.Duration
		want       string
	}{
		"no such host":                   {host: "host.invalid", port: 5432, want: "at host.invalid:5432, database \"db\", as user \"me\": the host name does not resolve"},
		"nobody listens":                 {host: "127.0.0.1", port: 1, want: `at 127.0.0.1:1, database "db", as user "me": connect: connection refused; is the server running there?`},
		"nobody listens, preferring TLS": {host: "127.0.0.1", mode: "prefer", port: 1, want: `at 127.0.0.1:1, database "db", as user "me": connect: connection refused; is the server running there?`},
		"no database named":              {host: "127.0.0.1", port: 1, database: "-", want: `at 127.0.0.1:1, database "me", as user "me": connect: connection refused; is the server running there?`},
		"no socket":                      {host: "/nowhere", port: 5432, want: `at /nowhere/.s.PGSQL.5432, database "db", as user "me": connect: no such file or directory; is the server running there?`},
		"no answer":                      {host: "127.0.0.1", port: silent, timeout: time.Second, want: fmt.Sprintf(`at 127.0.0.1:%d, database "db", as user "me": no answer in time; check the host, the port and the network`, silent)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			config := base
			config.Host, config.Port, config.ConnectTimeout = c.host, c.port, c.timeout
			if c.mode != "" {
				config.SSLMode = c.mode
			}
			if c.database != "" {
				config.Database = ""
			}
			wantMessage(t, connect(t, config), "cannot connect to PostgreSQL "+c.want)
		})
	}
}

func TestMessageOfServer(t *testing.T) {
	db := postgrestest.New(t)
	conn := db.Connect(t)
	_, err := conn.Exec(t.Context(), "SELECT no_such('x')")
	wantMessage(t, postgres.Message(fmt.Errorf("try it: %w", err)),
		`try it: function no_such(unknown) does not exist; hint: No function matches the given name and argument types. You might need to add explicit type casts (SQLSTATE 42883)`)
	db.Exec(t, "CREATE VIEW a AS SELECT 1 AS x; CREATE VIEW b AS SELECT x FROM a")
	_, err = conn.Exec(t.Context(), "DROP VIEW a")
	wantMessage(t, postgres.Message(err),
		`cannot drop view a because other objects depend on it (view b depends on view a); hint: Use DROP ... CASCADE to drop the dependent objects too (SQLSTATE 2BP01)`)
	if got := postgres.SQLState(fmt.Errorf("wrapped: %w", err)); got != pgerrcode.DependentObjectsStillExist {
		t.Errorf("SQLSTATE %s", got)
	}
}

func TestMessageOfOthers(t *testing.T) {
	wantMessage(t, postgres.Message(errors.New("one\n  two")), "one; two")
	if got := postgres.SQLState(errors.New("x")); got != "" {
		t.Errorf("SQLSTATE %s", got)
	}
}

// The server refuses the login with an error.
func TestMessageRefusal(t *testing.T) {
	noEnvironment(t)
	for code, want := range map[string]string{
		pgerrcode.CannotConnectNow:   "the database system is starting up; try again when it is up",
		pgerrcode.TooManyConnections: "the database system is starting up (SQLSTATE 53300); use fewer (max_connections in Terraform, --max-concurrent of the exporter), or raise the limit",
	} {
		port := refusing(t, code, "the database system is starting up")
		got := connect(t, postgres.Config{Host: "127.0.0.1", Port: port, Database: "db", Username: "me", Password: "secret", SSLMode: "disable"})
		wantMessage(t, got, fmt.Sprintf(`cannot connect to PostgreSQL at 127.0.0.1:%d, database "db", as user "me": %s`, port, want))
	}
}

// refusing returns the port of a server that answers each login with an error.
func refusing(t *testing.T, code, message string) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			backend := pgproto3.NewBackend(conn, conn)
			if _, err := backend.ReceiveStartupMessage(); err == nil {
				backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: message})
				_ = backend.Flush()
			}
			_ = conn.Close()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}
