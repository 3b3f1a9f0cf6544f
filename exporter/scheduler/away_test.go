package scheduler_test

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// ownServer has a view that is due every second.
func ownServer(t *testing.T) *postgrestest.Server {
	t.Helper()
	server, err := postgrestest.Start(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	p := open(t, server.URL("postgres"))
	defer p.Close()
	conn, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := migrations.Apply(t.Context(), conn.Conn(), "public"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 s')`); err != nil {
		t.Fatal(err)
	}
	return server
}

func open(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	p, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConnections: 6})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func (a *attempts) succeeds(t *testing.T, view string) {
	t.Helper()
	for a.of(t, view).outcome != "succeeded" { //nolint:revive // until it does
	}
}

func TestDatabaseAway(t *testing.T) {
	server := ownServer(t)
	seen := newAttempts()
	start(t, options(t, open(t, server.URL("postgres")), seen))
	seen.of(t, "v")
	if err := server.Crash(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen.drain()
	seen.succeeds(t, "v")
}

func (a *attempts) drain() {
	for {
		select {
		case <-a.each:
		default:
			return
		}
	}
}

// A primary that comes back as a standby, at the same address.
func TestDemotedAndPromoted(t *testing.T) {
	server := ownServer(t)
	p := open(t, server.URL("postgres"))
	seen, logged := newAttempts(), &lines{}
	o := options(t, p, seen)
	o.Logger = slog.New(slog.NewTextHandler(logged, nil))
	start(t, o)
	seen.of(t, "v")
	signal := filepath.Join(scan[string](t, p, "SHOW data_directory"), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(signal, 0o644); err != nil { //nolint:gosec // the server may be another user
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	logged.await(t, "the database is a standby")
	admin := open(t, server.URL("postgres"))
	before := scan[int](t, admin, "SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'succeeded'")
	if !scan[bool](t, admin, "SELECT pg_promote()") {
		t.Fatal("not promoted")
	}
	logged.await(t, "the database takes writes")
	waitFor(t, admin, fmt.Sprintf("SELECT count(*) > %d FROM materialized_view_refresh_history WHERE outcome = 'succeeded'", before))
	if n := logged.count("the database is a standby"); n != 1 {
		t.Errorf("logged %d times that it is a standby", n)
	}
	if n := logged.count("recovery"); n != 0 {
		t.Errorf("%d errors of a standby were logged", n)
	}
}

// The primary is lost and its standby takes over, at another address.
func TestFailover(t *testing.T) {
	primary := ownServer(t)
	standby, err := primary.StartStandby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Stop() })
	reader := open(t, standby.URL("postgres"))
	hosts, err := url.Parse(primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	// The standby first: it must not be taken while there is a primary.
	hosts.Host = fmt.Sprintf("%s:%d,%s:%d", standby.Host(), standby.Port(), primary.Host(), primary.Port())
	hosts.RawQuery += "&target_session_attrs=read-write"
	seen := newAttempts()
	start(t, options(t, open(t, hosts.String()), seen))
	seen.succeeds(t, "v")
	waitFor(t, reader, `SELECT EXISTS (SELECT FROM materialized_view_refresh_history WHERE outcome = 'succeeded')`) // it has been replicated
	if err := primary.Crash(); err != nil {
		t.Fatal(err)
	}
	if !scan[bool](t, reader, "SELECT pg_promote()") {
		t.Fatal("not promoted")
	}
	seen.drain()
	seen.succeeds(t, "v")
	if !scan[bool](t, reader, `SELECT NOT EXISTS (SELECT FROM materialized_view_freshness WHERE view_name = 'v' AND data_as_of > clock_timestamp())`) {
		t.Error("the record is of the future")
	}
}
