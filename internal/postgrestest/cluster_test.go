package postgrestest

import (
	"net/url"
	"strings"
	"testing"
)

func names(t *testing.T, s *Server) string {
	t.Helper()
	return query[string](t, s.URL("postgres"), `
		SELECT coalesce(string_agg(name, ' ' ORDER BY name), '')
		FROM (SELECT datname::text FROM pg_database UNION ALL SELECT rolname FROM pg_roles) AS n (name)
		WHERE name LIKE 'matview%'`)
}

func TestGivenServer(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	c, err := useServer(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.admin.Close()
	if c.version != s.Version() {
		t.Errorf("version %d, want %d", c.version, s.Version())
	}
	t.Run("test", func(t *testing.T) {
		d := c.database(t, "template0")
		if d.Server() != nil {
			t.Error("a given server is not ours")
		}
		d.Exec(t, "CREATE TABLE t (id int)")
		d.Role(t, "")
		if got := len(strings.Fields(names(t, s))); got != 2 {
			t.Errorf("%d databases and roles, want 2: %s", got, names(t, s))
		}
	})
	if left := names(t, s); left != "" {
		t.Errorf("left on the server: %s", left)
	}
}

func TestLeftovers(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	other, err := useServer(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.admin.Close()

	gone := "matview_test_aaaaaaaaaa_1"
	elsewhere := "matview_test_bbbbbbbbbb" // of another machine, see below
	alive := other.name()                  // of this very process
	foreign := "matview_test_data"
	for _, name := range []string{gone, elsewhere + "_1", alive, foreign} {
		if err := other.do(t.Context(), "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
	}
	role := "matview_test_aaaaaaaaaa_2"
	for _, sql := range []string{
		"CREATE ROLE " + role, "GRANT CREATE ON DATABASE " + foreign + " TO " + role,
		"ALTER DATABASE " + gone + " OWNER TO " + role,
	} {
		if err := other.do(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	present, err := openAdmin(t.Context(), s.URL("postgres"), elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer present.Close()
	if err := present.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}

	c, err := useServer(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.admin.Close()
	left := names(t, s)
	for name, want := range map[string]bool{
		gone: false, role: false, elsewhere + "_1": true, alive: true, foreign: true,
	} {
		if got := strings.Contains(left, name); got != want {
			t.Errorf("%s is there: %v, want %v", name, got, want)
		}
	}
}

func TestGivenServerErrors(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	execSQL(t, s.URL("postgres"), "CREATE ROLE weak LOGIN PASSWORD 'secret'")
	for _, test := range []struct{ url, want string }{
		{"host=localhost password=secret", "not a URL"},
		{"postgres://postgres:secret@127.0.0.1:none/", "invalid port"},
		{strings.Replace(s.URL("postgres"), s.password, "secret", 1), "28P01"},
		{strings.Replace(s.URL("postgres"), "postgres:"+s.password, "weak:secret", 1), "not a superuser"},
	} {
		_, err := useServer(t.Context(), test.url)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), urlEnv) {
			t.Errorf("%s: error %v, want %q", test.url, err, test.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q shows the password", err)
		}
	}
}

func TestURLFor(t *testing.T) {
	t.Parallel()
	tests := []struct{ given, superuser, other string }{
		{
			"postgres://root:pw@db:5433/main?sslmode=require",
			"postgres://root:pw@db:5433/x?sslmode=require",
			"postgres://u:p%2Fw@db:5433/x?sslmode=require",
		},
		{
			"postgres:///?host=%2Frun%2Fpg&user=root&password=pw&dbname=main",
			"postgres:///x?host=%2Frun%2Fpg&password=pw&user=root",
			"postgres://u:p%2Fw@/x?host=%2Frun%2Fpg",
		},
	}
	for _, test := range tests {
		u, err := url.Parse(test.given)
		if err != nil {
			t.Fatal(err)
		}
		c := &cluster{url: u}
		if got := c.urlFor("x", "", ""); got != test.superuser {
			t.Errorf("got  %s\nwant %s", got, test.superuser)
		}
		if got := c.urlFor("x", "u", "p/w"); got != test.other {
			t.Errorf("got  %s\nwant %s", got, test.other)
		}
	}
}
