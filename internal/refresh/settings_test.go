package refresh_test

import (
	"strings"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// Settings that somebody wrote into the table by hand, where no plan has checked
// them: a clock of his own does not become the as-of, nor do his functions run with
// the rights of the exporter.
func TestSettingsWithFunctionsInFrontOfPostgreSQLs(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs+`CREATE SCHEMA evil;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'the clock of %', current_user; END $$;
CREATE FUNCTION evil.hashtext(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'the lock of %', current_user; END $$`)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("job_progress", refresh.Blocking))
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently, refresh.Swap} {
		req := manual("job_progress", method)
		req.Settings = map[string]string{"Search_Path": "evil, public, pg_catalog"}
		before := time.Now()
		mustRefresh(t, pool, req)
		if v := fresh(t, pool, "job_progress"); v.DataAsOf == nil || v.DataAsOf.Before(before.Add(-time.Minute)) || v.DataAsOf.After(time.Now()) {
			t.Errorf("%s: %+v", method, v)
		}
	}
}

func TestReservedSettings(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	for name, value := range map[string]string{
		"role": "pg_monitor", "SESSION_AUTHORIZATION": "pg_monitor", "client_encoding": "LATIN1", "idle_in_transaction_session_timeout": "0", "matview.own": "",
	} {
		req := manual("job_progress", refresh.Auto)
		req.Settings = map[string]string{name: value}
		if _, err := refresh.New(pool, "public", "test").Refresh(t.Context(), req); err == nil {
			t.Errorf("refreshed with %s = %s", name, value)
		}
		if v := fresh(t, pool, "job_progress"); v.LastError == nil || !strings.Contains(*v.LastError, "is not for a schedule to set") {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
