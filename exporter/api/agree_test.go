package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

const readingClients = 50

// The row and what is said of its freshness are of one refresh, whichever way
// and however often the view is refreshed under many clients, half of whom send
// the ETag they have; and none of them meets an error.
func TestRowAgreesWithItsRefresh(t *testing.T) {
	for name, c := range map[string]struct {
		method refresh.Method
		pool   func(testing.TB, *postgrestest.Database) *pgxpool.Pool
	}{
		"swap":                          {"swap", configured},
		"swap, in transactions":         {"swap", func(t testing.TB, db *postgrestest.Database) *pgxpool.Pool { t.Helper(); return db.Pool(t) }},
		"blocking":                      {"blocking", configured},
		"concurrently":                  {"concurrently", configured},
		"blocking, in transactions":     {"blocking", func(t testing.TB, db *postgrestest.Database) *pgxpool.Pool { t.Helper(); return db.Pool(t) }},
		"concurrently, in transactions": {"concurrently", func(t testing.TB, db *postgrestest.Database) *pgxpool.Pool { t.Helper(); return db.Pool(t) }},
	} {
		t.Run(name, func(t *testing.T) {
			db := jobs(t)
			db.Exec(t, `CREATE TABLE ticks (n int);
INSERT INTO ticks VALUES (0);
CREATE MATERIALIZED VIEW ticking AS SELECT 1 AS id, n FROM ticks;
CREATE UNIQUE INDEX ON ticking (id);
ALTER DATABASE "`+db.Name+`" SET default_transaction_isolation = 'repeatable read'`)
			refreshed := db.Pool(t)
			refreshView(t, refreshed, "ticking", "blocking")
			o := options(t, c.pool(t, db), `{public: true, routes: [{path: "/ticking/{id}", view: ticking}], real_time: {url: 'postgres://unused@localhost/x', max_concurrent: 60, statement_timeout: 30s}}`)
			o.Timeout = 30 * time.Second
			o.RealTimePool = liveLogin(t, db, "GRANT SELECT ON ticks TO ROLE")
			server := httptest.NewServer(serve(t, o))
			defer server.Close()
			w := &witness{t: t, url: server.URL + "/ticking/1", seen: map[int]string{}}
			var stop atomic.Bool
			var readers sync.WaitGroup
			for i := range readingClients {
				readers.Go(func() {
					for etag := ""; !stop.Load() && !t.Failed(); {
						switch {
						case i%10 == 1:
							w.readLive("?real_time=true")
						case i%10 == 3:
							w.readLive("?max_age=0")
						case i%10 == 5:
							w.read("?max_age=1h", "")
						case i%2 == 0:
							etag = w.read("", etag)
						default:
							w.read("", "")
						}
					}
				})
			}
			began := time.Now()
			for n := range 40 {
				// Some will do where the machine is busy with other things.
				if n >= 15 && time.Since(began) > 15*time.Second {
					break
				}
				db.Exec(t, `UPDATE ticks SET n = n + 1`)
				if c.method == "swap" {
					swapView(t, refreshed, "ticking")
					continue
				}
				refreshView(t, refreshed, "ticking", c.method)
			}
			stop.Store(true)
			readers.Wait()
			if len(w.seen) < 5 {
				t.Errorf("the readers saw only %d refreshes", len(w.seen))
			}
			if w.notModified.Load() == 0 || w.live.Load() == 0 {
				t.Errorf("%d answers were 304, %d live", w.notModified.Load(), w.live.Load())
			}
		})
	}
}

// swapView exchanges the view for a twin with new data, as a change of its
// definition does.
func swapView(t *testing.T, pool *pgxpool.Pool, view string) {
	t.Helper()
	name := matview.Name{Schema: matview.PublicSchema, Relation: view}
	ctx := t.Context()
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if err := matview.Lock(ctx, tx, view); err != nil {
			return err
		}
		v, err := matview.Read(ctx, tx, name)
		if err != nil {
			return err
		}
		var population refresh.Population
		swap := matview.Swap{View: v, Timeout: 20 * time.Second, Started: func(ctx context.Context) error {
			population, err = refresh.BeginPopulation(ctx, tx, "public")
			return err
		}}
		if err := swap.Run(ctx, tx); err != nil {
			return err
		}
		_, err = refresh.RecordPopulation(ctx, tx, "public", population, name, "swap")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// witness compares all answers about one row.
type witness struct {
	t           *testing.T
	url         string
	mu          sync.Mutex
	seen        map[int]string // what came with each n
	notModified atomic.Int64
	live        atomic.Int64
}

// readLive wants an answer without any word of a refresh.
func (w *witness) readLive(query string) {
	resp, err := http.Get(w.url + query) //nolint:noctx // it ends with its test
	if err != nil {
		w.t.Error(err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasSuffix(string(text), `,"data_source":"real_time"}`+"\n") || resp.Header.Get("ETag") != "" {
		w.t.Errorf("%s: %d, %v: %s", query, resp.StatusCode, err, text)
	}
	w.live.Add(1)
}

// read gives the ETag of the answer.
func (w *witness) read(query, etag string) string {
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url+query, http.NoBody)
	if err != nil {
		w.t.Error(err)
		return ""
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Error(err)
	}
	if resp.StatusCode == http.StatusNotModified && len(text) == 0 && resp.Header.Get("ETag") == etag {
		w.notModified.Add(1)
		return etag
	}
	var row struct {
		N           int
		RefreshedAt string `json:"cache_refreshed_at"`
		AsOf        string `json:"cache_data_as_of"`
	}
	if err := json.Unmarshal(text, &row); err != nil || resp.StatusCode != http.StatusOK || row.RefreshedAt == "" || row.AsOf == "" {
		w.t.Errorf("%d: %s", resp.StatusCode, text)
		return ""
	}
	said := row.RefreshedAt + row.AsOf + resp.Header.Get("ETag")
	w.mu.Lock()
	defer w.mu.Unlock()
	if before, found := w.seen[row.N]; found && before != said {
		w.t.Errorf("row %d came with %s and with %s", row.N, before, said)
	}
	w.seen[row.N] = said
	return resp.Header.Get("ETag")
}

// Requests that are read together do not spoil each other.
func TestOthersKeys(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW numbered AS SELECT i AS a, i + 1 AS b, 'row ' || i AS text FROM generate_series(1, 100) AS i;
CREATE UNIQUE INDEX ON numbered (b, a)`)
	refreshView(t, db.Pool(t), "numbered", "blocking")
	h := serve(t, options(t, configured(t, db), `{public: true, routes: [{path: "/n/{a}/{b}", view: numbered}]}`))
	var clients sync.WaitGroup
	for i := range 40 {
		clients.Go(func() {
			for n := range 50 {
				a := 1 + (i+n)%100
				path, status, want := fmt.Sprintf("/n/%d/%d", a, a+1), http.StatusOK, fmt.Sprintf(`"text":"row %d"`, a)
				switch i % 8 {
				case 0:
					path, status, want = fmt.Sprintf("/n/%d/x", a), http.StatusBadRequest, "b must be of type integer"
				case 1:
					path, status, want = fmt.Sprintf("/n/%d/%d", a, a), http.StatusNotFound, "no-such-row"
				}
				if w := get(t, h, path); w.Code != status || !strings.Contains(w.Body.String(), want) {
					t.Errorf("%s: %d %s", path, w.Code, w.Body)
				}
			}
		})
	}
	clients.Wait()
}
