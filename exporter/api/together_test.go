package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// However many wait for a view that is locked, each is answered in time.
func TestManyWaitForALock(t *testing.T) {
	const clients, timeout = 1000, 2 * time.Second
	db := jobs(t)
	o := options(t, pinned(t, db), jobsRoute)
	o.Timeout = timeout
	h := serve(t, o)
	body(t, h, "/jobs/job-1", http.StatusOK)
	// How long the machine takes for as many requests that need not wait.
	var asking sync.WaitGroup
	began := time.Now()
	for i := range clients {
		asking.Go(func() { get(t, h, fmt.Sprintf("/jobs/job-%d", i)) })
	}
	asking.Wait()
	slack := 5*time.Since(began) + 2*time.Second
	lock(t, db, "job_progress")
	var waiting sync.WaitGroup
	for i := range clients {
		waiting.Go(func() {
			began := time.Now()
			w := get(t, h, fmt.Sprintf("/jobs/job-%d", i))
			// The promise is one second more than the timeout; the rest is for a busy
			// machine. One after the other, all would take fourteen.
			if took := time.Since(began); took > timeout+time.Second+slack {
				t.Errorf("answered after %s", took)
			}
			if busy, late := w.Code == http.StatusServiceUnavailable && strings.Contains(w.Body.String(), "view-busy"), w.Code == http.StatusGatewayTimeout; !busy && !late {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	waiting.Wait()
}

// lock keeps everybody from reading a view until release is called.
func lock(t testing.TB, db *postgrestest.Database, view string) (release func()) {
	t.Helper()
	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW "+view); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := blocker.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	}
}

// counting counts the statements of a pool.
type counting struct{ statements atomic.Int64 }

func (c *counting) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.statements.Add(1)
	return ctx
}

func (c *counting) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func counted(t testing.TB, db *postgrestest.Database) (*pgxpool.Pool, *counting) {
	t.Helper()
	c, err := pgxpool.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	count := &counting{}
	c.ConnConfig.Tracer = count
	c.MaxConns = 10
	api.Pin(c, 30*time.Second)
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, count
}

// A wrong key costs those nothing who are read together.
func TestWrongKeyAmongOthers(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW numbered AS SELECT i AS id, 'row ' || i AS text FROM generate_series(1, 100) AS i; CREATE UNIQUE INDEX ON numbered (id)`)
	refreshView(t, db.Pool(t), "numbered", "blocking")
	pool, count := counted(t, db)
	o := options(t, pool, `{public: true, routes: [{path: "/n/{id}", view: numbered}]}`)
	o.Timeout = 30 * time.Second
	h := serve(t, o)
	body(t, h, "/n/1", http.StatusOK)
	release := lock(t, db, "numbered")
	const clients, readers = 50, 2
	var asking sync.WaitGroup
	ask := func(from, to int) {
		for i := from; i <= to; i++ {
			asking.Go(func() {
				if i == clients/2 {
					body(t, h, "/n/x", http.StatusBadRequest)
					return
				}
				if got := body(t, h, fmt.Sprintf("/n/%d", i), http.StatusOK); !strings.Contains(got, fmt.Sprintf(`"text":"row %d"`, i)) {
					t.Error(got)
				}
			})
		}
	}
	for i := 1; i <= readers; i++ { // each by a reader of its own, which then waits
		ask(i, i)
		waitForLocks(t, db, i)
	}
	ask(readers+1, clients)
	for deadline := time.Now().Add(20 * time.Second); api.Waiting(h, 0) < clients-readers; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait", api.Waiting(h, 0))
		}
	}
	before := count.statements.Load()
	release()
	asking.Wait()
	// A few each for those before and after the wrong one, and that one itself.
	if n := count.statements.Load() - before; n > clients/2 {
		t.Errorf("%d statements for %d requests", n, clients)
	}
}

// What is taken for certain PostgreSQL takes; the rest it is asked about.
func TestCertainKeys(t *testing.T) {
	conn := postgrestest.New(t).Connect(t)
	taken := map[string]int{}
	for _, typ := range api.CertainTypes() {
		for _, value := range []string{
			"", " ", "0", "-0", "+7", "1_000", "0x1f", "32767", "32768", "-32769", "2147483648", "9223372036854775807", "9223372036854775808", "١",
			"1.5", "-1.", ".5", "1e9", "NaN", "Infinity", "1,5", "true", "false", "t", "yes", "TRUE", "x", "ж", "a'b", "\\",
			"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g",
			"2025-11-09", "0000-01-01", "0001-01-01", "9999-12-31", "2025-02-29", "2024-02-29", "20251109", "11/09/2025", "now", "infinity",
			"2025-11-09 10:14:30", "2025-11-09T10:14:30", "2025-11-09 10:14:30.123456789", "2025-11-09 10:14:30,5", "2025-11-09 24:00:00", "2025-11-09 9:14:30",
			"2025-11-09T10:14:30Z", "2025-11-09T10:14:30.5Z", "2025-11-09T10:14:30+23:59", "2025-11-09T10:14:30z", "2025-11-09T10:14:60Z", strings.Repeat("9", 100),
		} {
			if !api.Takes(typ, value) {
				continue
			}
			taken[typ]++
			if _, err := conn.Exec(t.Context(), "SELECT $1::text::"+typ, value); err != nil {
				t.Errorf("%s %q: %s", typ, value, postgres.Message(err))
			}
		}
		if taken[typ] == 0 {
			t.Errorf("%s: nothing is certain", typ)
		}
	}
	if api.Takes("regclass", "pg_class") {
		t.Error("a type of which nothing is known is certain")
	}
}

// Names in the answer that change without a refresh change its ETag.
func TestETagFollowsRenames(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN moods AS mood[];
CREATE TYPE pair AS (a int, b mood);
CREATE MATERIALIZED VIEW typed AS SELECT 1 AS id, ROW(1, 'happy')::pair AS pair, ARRAY[NULL::mood]::moods AS moods;
CREATE UNIQUE INDEX ON typed (id)`)
	refreshView(t, db.Pool(t), "typed", "blocking")
	const config = `{public: true, routes: [{path: "/t/{id}", view: typed}]}`
	h := serve(t, options(t, pinned(t, db), config))
	for _, c := range []struct{ sql, want string }{
		{`SELECT 1`, `{"id":1,"pair":{"a":1,"b":"happy"},"moods":[null],`},
		{`ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'`, `{"id":1,"pair":{"a":1,"b":"glad"},"moods":[null],`},
		{`ALTER TYPE pair RENAME ATTRIBUTE a TO first`, `{"id":1,"pair":{"first":1,"b":"glad"},"moods":[null],`},
		{`ALTER MATERIALIZED VIEW typed RENAME COLUMN moods TO more`, `{"id":1,"pair":{"first":1,"b":"glad"},"more":[null],`},
	} {
		tag := get(t, h, "/t/1").Header().Get("ETag")
		if w := ask(t, h, http.MethodGet, "/t/1", "If-None-Match: "+tag); w.Code != http.StatusNotModified {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		db.Exec(t, c.sql)
		if c.sql == `SELECT 1` {
			tag = ""
		}
		w := ask(t, h, http.MethodGet, "/t/1", "If-None-Match: "+tag)
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s", c.sql, w.Code, w.Body)
		}
		// A replica says the same, by the slower statement too.
		replica := get(t, serve(t, options(t, db.Pool(t), config)), "/t/1")
		if replica.Header().Get("ETag") != w.Header().Get("ETag") {
			t.Errorf("%s: a replica's ETag differs", c.sql)
		}
	}
}

// A read model that cannot be read fails all who wait for it at once, in time.
func TestFailureIsShared(t *testing.T) {
	db := jobs(t)
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	pool, count := counted(t, db)
	o := options(t, pool, jobsRoute)
	o.Timeout = time.Second
	h := serve(t, o)
	etag := get(t, h, "/jobs/job-1").Header().Get("ETag")
	// The record changes, and then the read model cannot be read.
	db.Exec(t, `UPDATE materialized_view_refresh_log SET total_jobs = 1`)
	blocker := db.Connect(t)
	if _, err := blocker.Exec(t.Context(), "BEGIN; LOCK TABLE materialized_view_refresh_schedule IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	before := count.statements.Load()
	const clients = 100
	var asking sync.WaitGroup
	for i := range clients {
		asking.Go(func() {
			began := time.Now()
			w := ask(t, h, http.MethodGet, fmt.Sprintf("/jobs/job-%d", i+1), "If-None-Match: "+etag)
			if w.Code != http.StatusServiceUnavailable && w.Code != http.StatusGatewayTimeout {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if took := time.Since(began); took > o.Timeout+10*time.Second {
				t.Errorf("answered after %s", took)
			}
		})
	}
	asking.Wait()
	if n := count.statements.Load() - before; n > clients/2 {
		t.Errorf("%d statements for %d requests", n, clients)
	}
}
