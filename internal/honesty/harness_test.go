package honesty

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// view is a materialized view that carries the heartbeat in its column n.
type view struct {
	name    string // quoted for SQL
	key     string // the canonical name, as in the log and the schedule
	query   string
	unique  string // the column of its unique index, "" for none
	every   string // its schedule, "" for none
	leaf    bool   // no view reads it, so it can be dropped or moved
	foreign bool   // other programs write its log row
	rare    bool   // it carries the rare heartbeat, and its schedule has skip_unchanged
}

func (v *view) createSQL(with string) string {
	sql := "CREATE MATERIALIZED VIEW " + v.name + " AS " + v.query + " WITH " + with + ";"
	if v.unique != "" {
		sql += "CREATE UNIQUE INDEX ON " + v.name + " (" + v.unique + ");"
	}
	return sql
}

const quoted = `"Other Schema"."View ""1"" of it"`

// views returns the views in the order of their dependencies. Those with
// skip_unchanged require PostgreSQL 15.
func views(version int) []*view {
	if version >= 150000 {
		return append(alwaysChanging(), rarelyChanging()...)
	}
	return alwaysChanging()
}

func alwaysChanging() []*view {
	return []*view{
		{name: "chain1", query: "SELECT id, n FROM heartbeat", unique: "id", every: "1 second"},
		{name: "chain2", query: "SELECT id, n FROM chain1", unique: "id", every: "1 second"},
		{name: "chain3", query: "SELECT id, n FROM chain2", every: "2 seconds", leaf: true},
		{name: "over_plain", query: "SELECT id, n FROM heartbeat_plain", unique: "id", every: "1 second", leaf: true},
		{name: "over_both", query: "SELECT id, n FROM chain2_plain", unique: "id", every: "2 seconds", leaf: true},
		{name: "under_plain", query: "SELECT id, n FROM heartbeat", unique: "id", every: "1 second"},
		{name: "partitions", query: "SELECT n % 4 AS part, max(n) AS n FROM ticks GROUP BY 1", unique: "part", every: "1 second", leaf: true},
		{name: "two_bases", query: "SELECT id, least(n, (SELECT coalesce(max(t.n), 0) FROM ticks AS t)) AS n FROM heartbeat", every: "1 second", leaf: true},
		{name: quoted, key: quoted, query: "SELECT id, n FROM public.heartbeat", unique: "id", every: "1 second", leaf: true},
		{name: "unscheduled", query: "SELECT id, n FROM heartbeat", leaf: true},
		{name: "shared", query: "SELECT id, n FROM heartbeat", unique: "id", every: "3 seconds", leaf: true, foreign: true},
	}
}

func rarelyChanging() []*view {
	return []*view{
		{name: "rarely", query: "SELECT id, n FROM rare_plain", unique: "id", every: "1 second", rare: true},
		{name: "rarely_alone", query: "SELECT id, n FROM rare", every: "1 second", leaf: true, rare: true},
		{name: "over_rarely", query: "SELECT r.id, least(r.n, u.n) AS n FROM rarely AS r JOIN rare AS u USING (id)", unique: "id", every: "1 second", leaf: true, rare: true},
	}
}

const basesSQL = `
CREATE TABLE heartbeat (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO heartbeat VALUES (1, 0);
CREATE TABLE ticks (n bigint NOT NULL) PARTITION BY HASH (n);
CREATE TABLE ticks_0 PARTITION OF ticks FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE ticks_1 PARTITION OF ticks FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE ticks_2 PARTITION OF ticks FOR VALUES WITH (MODULUS 3, REMAINDER 2);
INSERT INTO ticks VALUES (0);
CREATE PROCEDURE burst(times int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. times LOOP
        UPDATE heartbeat SET n = n + 1;
        INSERT INTO ticks SELECT n FROM heartbeat;
        COMMIT;
    END LOOP;
END $$;
CREATE PROCEDURE refresh_and_commit(view_name text, times int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. times LOOP
        EXECUTE 'REFRESH MATERIALIZED VIEW ' || view_name;
        PERFORM pg_sleep(0.02);
        COMMIT;
    END LOOP;
END $$;
CREATE VIEW heartbeat_plain AS SELECT id, n FROM heartbeat;
CREATE TABLE rare (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO rare VALUES (1, 0);
CREATE VIEW rare_plain AS SELECT id, n FROM rare;
CREATE SCHEMA "Other Schema";
CREATE SCHEMA elsewhere;`

// owner owns the database and the views; the exporters log in as this role.
const owner = "matview_exporter"

// harness is a server with the heartbeats, their views and our tables.
type harness struct {
	server     *postgrestest.Server
	views      []*view
	truth      *truth
	rarely     *truth // of the rare heartbeat
	writer     *writer
	checker    *checker
	journal    *journal
	refreshers []*refresh.Refresher // in this process, with different default isolation levels
	pools      []*pgxpool.Pool

	exporters *exporters

	attemptTimeout time.Duration // how long an attempt without a heartbeat counts as alive

	restarting sync.RWMutex
}

const database = "honesty"

// superURL is the superuser's URL, by the socket: without a password it is fast.
func (h *harness) superURL() string { return h.socketURL("postgres", database) }

func (h *harness) ownerSocketURL() string { return h.socketURL(owner, database) }

func (h *harness) socketURL(user, db string) string {
	query := url.Values{"host": {h.server.SocketDir()}, "port": {fmt.Sprint(h.server.Port())}, "sslmode": {"disable"}}
	return (&url.URL{Scheme: "postgres", User: url.User(user), Path: "/" + db, RawQuery: query.Encode()}).String()
}

// ownerURL is the exporters' URL, over TCP.
func (h *harness) ownerURL(options ...string) string {
	query := url.Values{"sslmode": {"disable"}}
	for i := 0; i+1 < len(options); i += 2 {
		query.Set(options[i], options[i+1])
	}
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(owner, "honest"), Host: fmt.Sprintf("%s:%d", h.server.Host(), h.server.Port()),
		Path: "/" + database, RawQuery: strings.ReplaceAll(query.Encode(), "+", "%20"),
	}).String()
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	server, err := postgrestest.Start(t.Context(), postgrestest.Options{Settings: map[string]string{
		// The workload deadlocks now and then, which is not what this test is about.
		"deadlock_timeout": "300ms", "autovacuum_naptime": "1s",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	h := &harness{server: server, truth: &truth{}, rarely: &truth{}, journal: &journal{}}
	for _, v := range views(postgrestest.Version(t)) {
		if v.key == "" {
			v.key = v.name
		}
		h.views = append(h.views, v)
	}
	h.setUp(t)
	h.writer = &writer{url: h.ownerSocketURL(), truth: h.truth}
	h.checker = newChecker(h.superURL(), h.truth, h.rarely, h.views)
	return h
}

func (h *harness) setUp(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	h.exec(t, h.socketURL("postgres", "postgres"), "CREATE ROLE "+owner+" LOGIN PASSWORD 'honest'")
	// skip_unchanged requires the right to see other sessions.
	h.exec(t, h.socketURL("postgres", "postgres"), "GRANT pg_read_all_stats TO "+owner)
	h.exec(t, h.socketURL("postgres", "postgres"), "CREATE DATABASE "+database+" OWNER "+owner)
	conn, err := connect(ctx, h.ownerSocketURL(), "setup")
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(conn)
	if err := migrations.Apply(ctx, conn, "public"); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(ctx, "SELECT materialized_view_attempt_timeout()").Scan(&h.attemptTimeout); err != nil {
		t.Fatal(err)
	}
	sql := basesSQL
	for _, v := range h.views {
		sql += v.createSQL("NO DATA")
		switch v.name {
		case "chain2", "under_plain":
			sql += "CREATE VIEW " + v.name + "_plain AS SELECT id, n FROM " + v.name + ";"
		}
		if v.every != "" {
			sql += fmt.Sprintf("INSERT INTO materialized_view_refresh_schedule (view_name, every, skip_unchanged) VALUES (%s, '%s', %t);", literal(v.key), v.every, v.rare)
		}
	}
	if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	for _, setting := range []string{"", "repeatable read", "serializable"} {
		options := []string{}
		if setting != "" {
			options = []string{"default_transaction_isolation", setting}
		}
		pool, err := postgres.Open(ctx, postgres.Config{URL: h.ownerURL(options...), MaxConnections: 12, ApplicationName: "refresher"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		h.pools = append(h.pools, pool)
		h.refreshers = append(h.refreshers, refresh.New(pool, "public", "the honesty test"))
	}
}

func (h *harness) exec(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := connect(t.Context(), url, "setup")
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(conn)
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (h *harness) view(name string) *view {
	for _, v := range h.views {
		if v.name == name {
			return v
		}
	}
	panic("no view " + name)
}

// awaitServer waits until the server runs, so that no event is wasted on one that is
// down.
func (h *harness) awaitServer() {
	h.restarting.RLock()
	h.restarting.RUnlock() //nolint:gocritic,staticcheck // waiting is the purpose
}

// restart shuts the server down, or crashes it, and starts it again.
func (h *harness) restart(ctx context.Context, crash bool) error {
	h.restarting.Lock()
	defer h.restarting.Unlock()
	if crash {
		if err := h.server.Crash(); err != nil {
			return err
		}
	}
	return h.server.Restart(context.WithoutCancel(ctx))
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
