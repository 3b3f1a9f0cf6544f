package postgres_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestSeveralHosts(t *testing.T) {
	config, _ := server(t)
	where := fmt.Sprintf("127.0.0.1:1,%s:%d", config.Host, config.Port)
	login := url.UserPassword(config.Username, config.Password)
	for name, c := range map[string]struct{ hosts, attributes, want string }{
		"the first is down": {hosts: where},
		"read-write":        {hosts: where, attributes: "read-write"},
		"primary":           {hosts: where, attributes: "primary"},
		"none is a standby": {hosts: where, attributes: "standby", want: fmt.Sprintf("127.0.0.1:1: connect: connection refused; is the server running there?; and at %s:%d: server is not in hot standby mode; target_session_attrs requires another",
			config.Host, config.Port)},
		"a standby if there is one": {hosts: where, attributes: "prefer-standby"},
		"the first has no name":     {hosts: "host.invalid," + where, attributes: "standby", want: "host.invalid: the host name does not resolve; and at 127.0.0.1:1: connect"},
		"neither is running":        {hosts: "127.0.0.1:1,127.0.0.1:2", want: "at 127.0.0.1:1 or 127.0.0.1:2, database"},
	} {
		t.Run(name, func(t *testing.T) {
			u := fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", login, c.hosts, config.Database)
			if c.attributes != "" {
				u += "&target_session_attrs=" + c.attributes
			}
			if c.want != "" {
				if got := connect(t, postgres.Config{URL: u}); !strings.Contains(got, c.want) {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				return
			}
			mustConnect(t, postgres.Config{URL: u})
		})
	}
}

// target_session_attrs selects the right one of an unresponsive server, a standby and
// its primary.
func TestTargetSession(t *testing.T) {
	noEnvironment(t)
	primary, err := postgrestest.Start(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = primary.Stop() })
	standby, err := primary.StartStandby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Stop() })
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	address := func(s *postgrestest.Server) string {
		c, err := pgx.ParseConfig(s.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		return net.JoinHostPort(c.Host, fmt.Sprint(c.Port))
	}
	login, err := url.Parse(primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	for attributes, want := range map[string]bool{"any": true, "read-write": false, "primary": false, "read-only": true, "standby": true, "prefer-standby": true} {
		t.Run(attributes, func(t *testing.T) {
			t.Parallel()
			hosts := silent.Addr().String() + "," + address(standby) + "," + address(primary)
			pool, err := postgres.Open(t.Context(), postgres.Config{
				URL: "postgres://" + login.User.String() + "@" + hosts + "/postgres?target_session_attrs=" + attributes, SSLMode: "disable", ConnectTimeout: time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			var got bool
			if err := pool.QueryRow(t.Context(), "SELECT pg_is_in_recovery()").Scan(&got); err != nil {
				t.Fatal(postgres.Message(err))
			}
			if got != want {
				t.Errorf("a standby: %t", got)
			}
		})
	}
}

// The service file and the password file apply, as in psql.
func TestServiceAndPasswordFile(t *testing.T) {
	config, _ := server(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Setenv("PGSERVICEFILE", write("services", fmt.Sprintf("[here]\nhost=%s\nport=%d\ndbname=%s\nuser=%s\nsslmode=disable\n",
		config.Host, config.Port, config.Database, config.Username)))
	t.Setenv("PGPASSFILE", write("passwords", fmt.Sprintf("*:*:%s:%s:%s\n", config.Database, config.Username, config.Password)))
	mustConnect(t, postgres.Config{URL: "service=here"})
	t.Setenv("PGSERVICE", "here")
	mustConnect(t, postgres.Config{})
}

// The environment variables apply if nothing else is configured.
func TestEnvironment(t *testing.T) {
	config, _ := server(t)
	for name, value := range map[string]string{
		"PGHOST": "127.0.0.1," + config.Host, "PGPORT": fmt.Sprintf("1,%d", config.Port), "PGDATABASE": config.Database, "PGUSER": config.Username, "PGPASSWORD": config.Password,
		"PGSSLMODE": "disable", "PGAPPNAME": "mine", "PGTZ": "Asia/Kathmandu", "PGOPTIONS": "-c work_mem=5MB", "PGTARGETSESSIONATTRS": "read-write", "PGREQUIREAUTH": "!none",
	} {
		t.Setenv(name, value)
	}
	pool, err := postgres.Open(t.Context(), postgres.Config{ApplicationName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var got string
	if err := pool.QueryRow(t.Context(), "SELECT concat_ws(' ', session_user, current_database(), current_setting('application_name'), current_setting('TimeZone'), current_setting('work_mem'))").Scan(&got); err != nil {
		t.Fatal(postgres.Message(err))
	}
	if want := config.Username + " " + config.Database + " mine Asia/Kathmandu 5MB"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	t.Setenv("PGREQUIREAUTH", "none")
	if got := connect(t, postgres.Config{}); !strings.Contains(got, "require_auth check failed") {
		t.Error(got)
	}
}

func TestUnixSocket(t *testing.T) {
	noEnvironment(t)
	db := postgrestest.New(t)
	conn, err := pgx.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	var dir string
	if err := db.Connect(t).QueryRow(t.Context(), "SELECT split_part(current_setting('unix_socket_directories'), ',', 1)").Scan(&dir); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(dir, "/") {
		t.Skipf("the server has no socket in a folder, but %q", dir)
	}
	// The socket asks for no password.
	mustConnect(t, postgres.Config{Host: dir, Port: int(conn.Port), Database: conn.Database, Username: conn.User})
}

func mustConnect(t *testing.T, c postgres.Config) {
	t.Helper()
	pool, err := postgres.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.Ping(t.Context()); err != nil {
		t.Error(postgres.Message(err))
	}
}
