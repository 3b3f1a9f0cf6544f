package postgres_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// noEnvironment hides this machine's settings for PostgreSQL.
func noEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE", "PGAPPNAME", "PGCONNECT_TIMEOUT",
		"PGSERVICE", "PGSERVICEFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY",
		"PGHOSTADDR", "PGTARGETSESSIONATTRS", "PGOPTIONS", "PGTZ", "PGCHANNELBINDING", "PGREQUIREAUTH",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("PGPASSFILE", t.TempDir()+"/none")
}

func TestPoolConfig(t *testing.T) {
	const odd = `it's a "p@ss:w/ord" \ %41`
	cases := map[string]struct {
		config postgres.Config
		env    map[string]string
		want   string // user:password@host:port/database
	}{
		"fields":                        {config: postgres.Config{Host: "h", Port: 5433, Database: "my db", Username: "me", Password: odd}, want: "me:" + odd + "@h:5433/my db"},
		"environment":                   {env: map[string]string{"PGHOST": "h", "PGPORT": "5433", "PGDATABASE": "db", "PGUSER": "me", "PGPASSWORD": odd}, want: "me:" + odd + "@h:5433/db"},
		"fields over environment":       {config: postgres.Config{Host: "h", Username: "me", Password: "x"}, env: map[string]string{"PGHOST": "other", "PGDATABASE": "db", "PGUSER": "you", "PGPASSWORD": "y"}, want: "me:x@h:5432/db"},
		"URL":                           {config: postgres.Config{URL: "postgres://me:p%40ss@h:5433/db"}, want: "me:p@ss@h:5433/db"},
		"URL over environment":          {config: postgres.Config{URL: "postgresql://me:x@h/db"}, env: map[string]string{"PGHOST": "other", "PGPORT": "5433", "PGUSER": "you", "PGDATABASE": "d"}, want: "me:x@h:5433/db"},
		"fields over URL":               {config: postgres.Config{URL: "postgres://you:y@other:1/d?sslmode=disable", Host: "h", Port: 5433, Database: "db", Username: "me", Password: odd}, want: "me:" + odd + "@h:5433/db"},
		"several hosts":                 {config: postgres.Config{URL: "postgres://me:x@h:5433,h2:5434/db?target_session_attrs=any", Password: odd}, want: "me:" + odd + "@h:5433/db"},
		"question mark in the password": {config: postgres.Config{URL: "postgres://me:p?w+@h", Database: "db", Port: 5433}, want: "me:p?w+@h:5433/db"},
		"query without a value to end":  {config: postgres.Config{URL: "postgres://me:x@h?", Database: "db", Port: 5433}, want: "me:x@h:5433/db"},
		"address of IPv6":               {config: postgres.Config{URL: "postgres://me:x@[::1]:5433/db"}, want: "me:x@::1:5433/db"},
		"socket":                        {config: postgres.Config{URL: "postgres://me:x@%2Frun%2Fpg:5433/db"}, want: "me:x@/run/pg:5433/db"},
		"socket, percent-encoded":       {config: postgres.Config{URL: "postgres://me:x@/d%2Fb%40?host=/run/pg&port=5433"}, want: "me:x@/run/pg:5433/d/b@"},
		"from a file":                   {config: postgres.Config{URL: " postgres://me:x@h:5433/db\n"}, want: "me:x@h:5433/db"},
		"keywords from a file":          {config: postgres.Config{URL: "host=h port=5433 user=me password='x://y/z@' dbname=db\n"}, want: "me:x://y/z@@h:5433/db"},
		"keywords":                      {config: postgres.Config{URL: "host=h dbname=db user=me password='p ss'", Port: 5433}, want: "me:p ss@h:5433/db"},
		"fields over keywords":          {config: postgres.Config{URL: "host=other user=you dbname=db password=y port=5433", Host: "h", Username: "me", Password: odd}, want: "me:" + odd + "@h:5433/db"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			noEnvironment(t)
			for key, value := range c.env {
				t.Setenv(key, value)
			}
			config, err := c.config.PoolConfig()
			if err != nil {
				t.Fatal(err)
			}
			p := config.ConnConfig
			got := p.User + ":" + p.Password + "@" + p.Host + ":" + strconv.Itoa(int(p.Port)) + "/" + p.Database
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestPoolSettings(t *testing.T) {
	noEnvironment(t)
	config, err := postgres.Config{Host: "h", MaxConnections: 7, ConnectTimeout: 1500 * time.Millisecond, ApplicationName: "test"}.PoolConfig()
	if err != nil {
		t.Fatal(err)
	}
	if config.MaxConns != 7 || config.ConnConfig.ConnectTimeout != 2*time.Second || config.ConnConfig.RuntimeParams["application_name"] != "test" {
		t.Errorf("%d connections, timeout %s, %v", config.MaxConns, config.ConnConfig.ConnectTimeout, config.ConnConfig.RuntimeParams)
	}
	t.Setenv("PGAPPNAME", "mine")
	config, err = postgres.Config{Host: "h", ApplicationName: "test"}.PoolConfig()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.ConnConfig.RuntimeParams["application_name"]; got != "mine" {
		t.Errorf("application name %q", got)
	}
}

func TestConnectTimeout(t *testing.T) {
	noEnvironment(t)
	services := t.TempDir() + "/services"
	if err := os.WriteFile(services, []byte("[slow]\nhost=h\nconnect_timeout=7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGSERVICEFILE", services)
	for name, c := range map[string]struct {
		config postgres.Config
		env    string
		want   time.Duration
	}{
		"nobody says":               {want: postgres.DefaultConnectTimeout},
		"field":                     {config: postgres.Config{URL: "postgres://h/?connect_timeout=7", ConnectTimeout: 5 * time.Second}, env: "3", want: 5 * time.Second},
		"URL":                       {config: postgres.Config{URL: "postgres://h/?connect_timeout=7"}, env: "3", want: 7 * time.Second},
		"URL, without end":          {config: postgres.Config{URL: "postgres://h/?connect_timeout=0"}},
		"environment":               {env: "3", want: 3 * time.Second},
		"environment, without end":  {env: "0"},
		"service":                   {config: postgres.Config{URL: "service=slow"}, want: 7 * time.Second},
		"service, over environment": {config: postgres.Config{URL: "service=slow"}, env: "3", want: 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PGCONNECT_TIMEOUT", c.env)
			config, err := c.config.PoolConfig()
			if err != nil {
				t.Fatal(err)
			}
			if got := config.ConnConfig.ConnectTimeout; got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Keywords of libpq that pgx does not know are not sent to the server as settings.
func TestLibpqKeywords(t *testing.T) {
	noEnvironment(t)
	const harmless = "keepalives=1 keepalives_idle=30 tcp_user_timeout=0 gssencmode=prefer sslcompression=0 fallback_application_name=x client_encoding=auto"
	config, err := postgres.Config{URL: harmless + " host=h search_path=x"}.PoolConfig()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.ConnConfig.RuntimeParams; len(got) != 2 || got["search_path"] != "x" || got["client_encoding"] != "UTF8" {
		t.Errorf("the server would get %v", got)
	}
	for _, keyword := range []string{"hostaddr=127.0.0.1", "sslcrl=x", "ssl_min_protocol_version=TLSv1.3", "requirepeer=x", "load_balance_hosts=random", "gssencmode=require"} {
		_, err := postgres.Config{URL: "host=h " + keyword}.PoolConfig()
		if want := "connection settings of PostgreSQL: " + keyword + " is not supported"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	t.Setenv("PGHOSTADDR", "127.0.0.1")
	if _, err := (postgres.Config{}).PoolConfig(); err == nil || !strings.Contains(err.Error(), "PGHOSTADDR is not supported") {
		t.Errorf("got %v", err)
	}
}

// Any part of a malformed URL may be the password.
func TestConfigErrorsHideSecrets(t *testing.T) {
	noEnvironment(t)
	for name, url := range map[string]string{
		"percent in password":   "postgres://me:hunter2%zz@h/db",
		"space in password":     "postgres://me:hunter2 hunter2@h/db",
		"port":                  "postgres://me:hunter2@h:notaport/db",
		"slash in password":     "postgres://me:hunter2/hunter2@h:5432/db",
		"unknown sslmode":       "postgres://me:hunter2@h/db?sslmode=hunter2x",
		"password alone":        "hunter2",
		"another scheme":        "mysql://me:hunter2@h/db",
		"keyword without value": "host=h password=hunter2 dbname",
		"open quote":            "host=h password='hunter2",
		"at sign in password":   "postgres://me:secret@hunter2@h/db",
		"at sign and no path":   "postgres://me:secret@hunter2@h",
		"slash after a number":  "postgres://me:1/hunter2@h:1/db",
		"slash, with query":     "postgres://me:1/hunter2@h:1/db?sslmode=disable",
		"space in a value":      "host=h password=secret hunter2 dbname=db",
		"question mark, slash":  "postgres://me:1?hunter2/@h/db",
		"connect_timeout":       "postgres://me:hunter2@h/db?connect_timeout=soon",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := postgres.Config{URL: url}.PoolConfig()
			if err == nil {
				t.Fatal("no error")
			}
			message := postgres.Message(err)
			if strings.Contains(message, "hunter2") || strings.ContainsRune(message, '\n') {
				t.Errorf("%s", message)
			}
			if !strings.HasPrefix(message, "connection settings of PostgreSQL: ") {
				t.Errorf("%s", message)
			}
		})
	}
}

// What is wrong in a URL is said in words that help.
func TestConfigErrorsSayWhatToWrite(t *testing.T) {
	noEnvironment(t)
	const at = "connection settings of PostgreSQL: unexpected @; in the user name and password of a url, write %40 for @ and %2F for /"
	const sslmode = "connection settings of PostgreSQL: sslmode must be disable, allow, prefer, require, verify-ca or verify-full"
	for url, want := range map[string]string{
		"postgres://user@corp@[::1]/db":          at,
		"postgres://user@corp:hunter2@h:5432/db": at,
		"postgres://user@corp@h/db":              at,
		"postgres://u@h/db?sslmode=required":     sslmode,
		"host=h sslmode=required":                sslmode,
	} {
		if _, err := (postgres.Config{URL: url}).PoolConfig(); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", url, err, want)
		}
	}
}
