package honesty

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// view is a materialized view that carries the heartbeat in its column n.
type view struct {
	name    string // as SQL
	key     string // as the log and the schedule know it
	query   string
	unique  string // the column of its unique index, "" for none
	every   string // its schedule, "" for none
	leaf    bool   // nothing reads it: it can be dropped, and moved away
	foreign bool   // other programs write its log row
	rare    bool   // it carries the rare heartbeat, and its schedule skips
}

func (v *view) createSQL(with string) string {
	sql := "CREATE MATERIALIZED VIEW " + v.name + " AS " + v.query + " WITH " + with + ";"
	if v.unique != "" {
		sql += "CREATE UNIQUE INDEX ON " + v.name + " (" + v.unique + ");"
	}
	return sql
}

const quoted = `"Other Schema"."View ""1"" of it"`

// views are in the order of their dependencies. Of those that skip there are some
// where the server can tell what has changed.
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
		{name: "by_hand", query: "SELECT id, n FROM heartbeat", leaf: true},
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

// owner owns the database and the views, and is who the exporters are.
const owner = "matview_exporter"

// world is a server of its own with the heartbeat, its views and our tables.
type world struct {
	server  *postgrestest.Server
	views   []*view
	truth   *truth
	rarely  *truth // of the rare heartbeat
	writer  *writer
	checker *checker
	journal *journal
	ours    []*refresh.Refresher // in this process, over differently set sessions
	pools   []*pgxpool.Pool

	exporters *exporters

	restarting sync.RWMutex
}

const database = "honesty"

// superURL is the superuser's, by the socket: no password, so that it is quick.
func (w *world) superURL() string { return w.socketURL("postgres", database) }

func (w *world) ownerSocketURL() string { return w.socketURL(owner, database) }

func (w *world) socketURL(user, db string) string {
	query := url.Values{"host": {w.server.SocketDir()}, "port": {fmt.Sprint(w.server.Port())}, "sslmode": {"disable"}}
	return (&url.URL{Scheme: "postgres", User: url.User(user), Path: "/" + db, RawQuery: query.Encode()}).String()
}

// ownerURL is what the exporters get, over TCP.
func (w *world) ownerURL(options ...string) string {
	query := url.Values{"sslmode": {"disable"}}
	for i := 0; i+1 < len(options); i += 2 {
		query.Set(options[i], options[i+1])
	}
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(owner, "honest"), Host: fmt.Sprintf("%s:%d", w.server.Host(), w.server.Port()),
		Path: "/" + database, RawQuery: strings.ReplaceAll(query.Encode(), "+", "%20"),
	}).String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server, err := postgrestest.Start(t.Context(), postgrestest.Options{Settings: map[string]string{
		// Storms deadlock now and then, which is none of our business here.
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
	w := &world{server: server, truth: &truth{}, rarely: &truth{}, journal: &journal{}}
	for _, v := range views(postgrestest.Version(t)) {
		if v.key == "" {
			v.key = v.name
		}
		w.views = append(w.views, v)
	}
	w.setUp(t)
	w.writer = &writer{url: w.ownerSocketURL(), truth: w.truth}
	w.checker = newChecker(w.superURL(), w.truth, w.rarely, w.views)
	return w
}

func (w *world) setUp(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	w.exec(t, w.socketURL("postgres", "postgres"), "CREATE ROLE "+owner+" LOGIN PASSWORD 'honest'")
	// To tell that nothing has changed, it must see what the others do.
	w.exec(t, w.socketURL("postgres", "postgres"), "GRANT pg_read_all_stats TO "+owner)
	w.exec(t, w.socketURL("postgres", "postgres"), "CREATE DATABASE "+database+" OWNER "+owner)
	conn, err := connect(ctx, w.ownerSocketURL(), "setup")
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(conn)
	if err := migrations.Apply(ctx, conn, "public"); err != nil {
		t.Fatal(err)
	}
	sql := basesSQL
	for _, v := range w.views {
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
		pool, err := postgres.Open(ctx, postgres.Config{URL: w.ownerURL(options...), MaxConnections: 12, ApplicationName: "refresher"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		w.pools = append(w.pools, pool)
		w.ours = append(w.ours, refresh.New(pool, "public", "the honesty test"))
	}
}

func (w *world) exec(t *testing.T, url, sql string) {
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

func (w *world) view(name string) *view {
	for _, v := range w.views {
		if v.name == name {
			return v
		}
	}
	panic("no view " + name)
}

// awaitServer returns when the server runs, so that a storm's events are not
// spent on one that is down.
func (w *world) awaitServer() {
	w.restarting.RLock()
	w.restarting.RUnlock() //nolint:gocritic,staticcheck // to have waited is all
}

// restart stops the server, at once or in good order, and starts it again.
func (w *world) restart(ctx context.Context, atOnce bool) error {
	w.restarting.Lock()
	defer w.restarting.Unlock()
	if atOnce {
		if err := w.server.Crash(); err != nil {
			return err
		}
	}
	return w.server.Restart(context.WithoutCancel(ctx))
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
