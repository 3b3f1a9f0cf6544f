package refresh_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// A login for which all identifiers are quoted knows a view by the name that it has for
// the others, and CONCURRENTLY, which fails for it in psql, works.
func TestQuoteAllIdentifiers(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE SCHEMA app; `+jobs+`CREATE MATERIALIZED VIEW app."Odd.view" AS SELECT 1 AS x; CREATE UNIQUE INDEX ON app."Odd.view" (x); REFRESH MATERIALIZED VIEW job_progress;
CREATE MATERIALIZED VIEW "user" AS SELECT 1 AS x; CREATE UNIQUE INDEX ON "user" (x)`)
	plain := db.Pool(t)
	quoting := quotingPool(t, db)
	if err := migrations.Track(t.Context(), db.Connect(t), "public", true); err != nil {
		t.Fatal(err)
	}
	want := map[string]matview.Name{
		"job_progress": {Schema: "public", Relation: "job_progress"}, `"user"`: {Schema: "public", Relation: "user"}, `app."Odd.view"`: {Schema: "app", Relation: "Odd.view"},
	}
	for view, name := range want {
		mustRefresh(t, quoting, manual(name.SQL(), refresh.Blocking))
		if result := mustRefresh(t, quoting, manual(name.SQL(), refresh.Concurrently)); result.View != view {
			t.Errorf("it is called %s, want %s", result.View, view)
		}
		if _, err := quoting.Exec(t.Context(), "REFRESH MATERIALIZED VIEW "+name.SQL()); err != nil { // recorded by the event trigger
			t.Error(err)
		}
		for _, pool := range []*pgxpool.Pool{plain, quoting} {
			if v := fresh(t, pool, view); v.StaleReason != nil {
				t.Errorf("%s: %s", view, *v.StaleReason)
			}
			if canonical, err := matview.CanonicalName(t.Context(), pool, name); err != nil || canonical != view {
				t.Errorf("%v is called %s, %v", name, canonical, err)
			}
		}
	}
	if n := scan[int](t, plain, "SELECT count(DISTINCT view_name) FROM materialized_view_refresh_history"); n != len(want) {
		t.Errorf("the history has %d names", n)
	}
	if postgrestest.Version(t) >= 150000 {
		mustRefresh(t, plain, skipping("job_progress"))
		if result := mustRefresh(t, quoting, skipping("job_progress")); !result.Skipped {
			t.Errorf("refreshed, %s", result.Reason)
		}
	}
}

func quotingPool(t *testing.T, db *postgrestest.Database) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["quote_all_identifiers"] = "on"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// What decides about a skip is not compiled, although its estimated cost grows with the
// number of partitions; the user's query may be.
func TestSkippingIsNotCompiled(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	if !scan[bool](t, db.Pool(t), "SELECT pg_jit_available()") {
		t.Skip("this server cannot compile")
	}
	config, err := pgxpool.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0", "auto_explain.log_level": "notice", "jit": "on", "jit_above_cost": "0",
	} {
		config.ConnConfig.RuntimeParams[name] = value
	}
	var mu sync.Mutex // the heartbeat has a connection of its own
	var compiled, others []string
	config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(notice.Message, "JIT:") {
			compiled = append(compiled, notice.Message)
		} else {
			others = append(others, notice.Message)
		}
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db.Exec(t, jobs+"CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM jobs WITH NO DATA")
	mustRefresh(t, pool, skipping("counted"))
	if result := mustRefresh(t, pool, skipping("counted")); !result.Skipped {
		t.Errorf("refreshed, %s", result.Reason)
	}
	mu.Lock()
	defer mu.Unlock()
	const fingerprint, inputs, query = "watched AS MATERIALIZED", "rules AS MATERIALIZED", "REFRESH MATERIALIZED VIEW"
	if text := strings.Join(compiled, "\n"); strings.Contains(text, fingerprint) || strings.Contains(text, inputs) || !strings.Contains(text, query) {
		t.Errorf("compiled:\n%s", text)
	}
	if text := strings.Join(others, "\n"); !strings.Contains(text, fingerprint) || !strings.Contains(text, inputs) {
		t.Errorf("not compiled:\n%s", text)
	}
}
