package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// realTimePool is the pool of a login as `run` opens it, of one connection.
func realTimePool(t testing.TB, db *postgrestest.Database) *pgxpool.Pool {
	t.Helper()
	role, password := db.Role(t, "")
	pool, err := api.OpenRealTime(t.Context(), config.RealTime{URL: db.URLFor(role, password), MaxConcurrent: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// A function of one view puts its own statement under every name that it finds
// prepared in the session: the next view's answer is not from there.
func TestRealTimeCannotBeForged(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE FUNCTION forge() RETURNS int LANGUAGE plpgsql AS $$ DECLARE s record; BEGIN
    FOR s IN SELECT name, parameter_types FROM pg_catalog.pg_prepared_statements LOOP
        EXECUTE format('DEALLOCATE %I', s.name);
        IF cardinality(s.parameter_types) = 1 THEN
            EXECUTE format('PREPARE %I (text) AS SELECT CASE WHEN $1 IS NOT NULL THEN ''{"forged":true}'' END', s.name);
        END IF;
    END LOOP; RETURN 1; END $$;
CREATE MATERIALIZED VIEW forger AS SELECT 1 AS id, forge() AS n WITH NO DATA; CREATE UNIQUE INDEX ON forger (id);
CREATE MATERIALIZED VIEW victim AS SELECT 1 AS id, 'true' AS text WITH NO DATA; CREATE UNIQUE INDEX ON victim (id)`)
	o := options(t, db.Pool(t), `{public: true, routes: [{path: "/forger/{id}", view: forger}, {path: "/victim/{id}", view: victim}]}`)
	o.RealTimePool = realTimePool(t, db)
	h := serve(t, o)
	for range 3 {
		if got := body(t, h, "/victim/1?real_time=true", http.StatusOK); got != `{"id":1,"text":"true","data_source":"real_time"}` {
			t.Error(got)
		}
		body(t, h, "/forger/1?real_time=true", http.StatusOK)
	}
}

// The transaction of a live query ends by itself if the exporter is frozen in
// it, and no statement gets more time than the request has left.
func TestRealTimeSettings(t *testing.T) {
	db := jobs(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW settings AS SELECT 1 AS id, s.name, s.setting::int AS ms FROM pg_catalog.pg_settings AS s
    WHERE s.name IN ('statement_timeout', 'idle_in_transaction_session_timeout') WITH NO DATA;
CREATE UNIQUE INDEX ON settings (id, name)`)
	o := options(t, db.Pool(t), `{public: true, real_time: {url: "postgres://unused@localhost/x", statement_timeout: 40s}, routes: [{path: "/s/{id}/{name}", view: settings}]}`)
	o.RealTimePool = realTimePool(t, db)
	h := serve(t, o)
	setting := func(ctx context.Context, name string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/s/1/"+name+"?real_time=true", http.NoBody))
		var row struct{ MS int }
		if err := json.Unmarshal(w.Body.Bytes(), &row); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return row.MS
	}
	const most = 40_000
	for _, name := range []string{"statement_timeout", "idle_in_transaction_session_timeout"} {
		if ms := setting(t.Context(), name); ms <= 0 || ms > most {
			t.Errorf("%s = %d ms", name, ms)
		}
		short, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		if ms := setting(short, name); ms <= 0 || ms > 24_000 {
			t.Errorf("%s = %s ms with 25 s left", name, strconv.Itoa(ms))
		}
		cancel()
	}
}

// What is known to be too old is read live at once, also while the view is
// locked for the refresh that will mend it.
func TestMaxAgeWhileLocked(t *testing.T) {
	db := jobs(t)
	refreshView(t, db.Pool(t), "job_progress", "blocking")
	db.Exec(t, setAge, "100 seconds")
	pool, _ := counted(t, db)
	o := options(t, pool, jobsRoute)
	o.Timeout = 30 * time.Second
	o.RealTimePool = liveLogin(t, db, readTables)
	h := serve(t, o)
	body(t, h, "/jobs/job-1?real_time=true", http.StatusOK)
	release := lock(t, db, "job_progress")
	if got := body(t, h, "/jobs/job-1?max_age=50", http.StatusOK); !strings.Contains(got, `"data_source":"real_time"`) {
		t.Error(got)
	}
	release()
	if got := body(t, h, "/jobs/job-1?max_age=1h", http.StatusOK); !strings.Contains(got, `"data_source":"cached"`) {
		t.Error(got)
	}
}
