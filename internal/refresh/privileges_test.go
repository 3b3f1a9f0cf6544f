package refresh_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// What a superuser refreshes runs with the rights of the view's owner, and
// cannot take the superuser's back, also when we fill a replacement.
func TestSuperuserHasTheOwnersRightsOnly(t *testing.T) {
	db := installed(t)
	owner, _ := db.Role(t, "")
	db.Exec(t, `CREATE TABLE secret AS SELECT 1 AS x; CREATE TABLE what (it text); INSERT INTO what VALUES ('SELECT 1'); CREATE TABLE mine ();
GRANT SELECT ON what TO `+owner+`; GRANT CREATE ON SCHEMA public TO `+owner+`; ALTER TABLE mine OWNER TO `+owner+`;
CREATE FUNCTION run() RETURNS text LANGUAGE plpgsql AS $$ DECLARE r text; BEGIN EXECUTE (SELECT it FROM public.what) INTO r; RETURN r; END $$; ALTER FUNCTION run() OWNER TO `+owner+`;
CREATE MATERIALIZED VIEW v AS SELECT 1 AS id, public.run() AS r, current_user::text AS who; CREATE UNIQUE INDEX ON v (id); ALTER MATERIALIZED VIEW v OWNER TO `+owner)
	pool := db.Pool(t)
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently, refresh.Swap} {
		for sql, want := range map[string]string{
			"SELECT x FROM public.secret":                             "with the rights of its owner " + owner + ": ",
			"SET ROLE postgres":                                       `cannot set parameter "role" within security-restricted operation`,
			"SET SESSION AUTHORIZATION postgres":                      `cannot set parameter "session_authorization" within security-restricted operation`,
			"RESET ROLE":                                              `cannot set parameter "role" within security-restricted operation`,
			"CREATE TEMP TABLE t ()":                                  "cannot create temporary table within security-restricted operation",
			"DROP TABLE public.secret":                                "must be owner of table secret",
			"SELECT set_config('role', 'postgres', true)":             `cannot set parameter "role" within security-restricted operation`,
			"ALTER ROLE " + owner + " SUPERUSER":                      "",
			"INSERT INTO public.materialized_view_refresh_log SELECT": "permission denied for table materialized_view_refresh_log",
		} {
			db.Exec(t, "UPDATE what SET it = "+quote(sql))
			_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("v", method))
			if err == nil || !strings.Contains(postgres.Message(err), want) {
				t.Errorf("%s, %s: err = %v, want %s", method, sql, err, want)
			}
		}
		db.Exec(t, "UPDATE what SET it = 'SELECT 1'")
		mustRefresh(t, pool, manual("v", method))
		if who := scan[string](t, pool, "SELECT who FROM v"); who != owner {
			t.Errorf("%s: refreshed as %s", method, who)
		}
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// MAINTAIN is enough for a REFRESH, but says nothing of reading the view.
func TestMaintain(t *testing.T) {
	if postgrestest.Version(t) < 170000 {
		t.Skip("MAINTAIN came with PostgreSQL 17")
	}
	db := installed(t)
	owner, _ := db.Role(t, "")
	maintainer, password := db.Role(t, "")
	db.Exec(t, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+maintainer+";"+jobs+"ALTER MATERIALIZED VIEW job_progress OWNER TO "+owner+"; GRANT SELECT ON jobs TO "+owner)
	pool, err := pgxpool.New(t.Context(), db.URLFor(maintainer, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	req := manual("job_progress", refresh.Auto)
	req.TotalJobs = "count(*)"
	_, err = refresh.New(pool, "public", "test").Refresh(t.Context(), req)
	want := maintainer + " may not refresh it, since it belongs to " + owner + `: GRANT MAINTAIN ON "public"."job_progress" TO "` + maintainer + `", or GRANT ` + owner + ` TO ` + maintainer
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("err = %v\nwant %s", err, want)
	}
	failedWith(t, db.Pool(t), pgerrcode.InsufficientPrivilege)
	db.Exec(t, "GRANT MAINTAIN ON job_progress TO "+maintainer)
	for range 2 {
		if result := mustRefresh(t, pool, req); result.TotalJobs != nil || !strings.Contains(result.Warning, "total_jobs is null: act as the view's owner "+owner) {
			t.Errorf("%+v", result)
		}
	}
}

// A role without rights on matview's tables gets an error that says who grants them.
func TestWithoutRightToRecord(t *testing.T) {
	db := installed(t)
	owner, password := db.Role(t, "")
	db.Exec(t, jobs+"ALTER MATERIALIZED VIEW job_progress OWNER TO "+owner+"; GRANT SELECT ON jobs TO "+owner)
	pool, err := pgxpool.New(t.Context(), db.URLFor(owner, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	_, err = refresh.New(pool, "public", "test").Refresh(t.Context(), manual("job_progress", refresh.Auto))
	if err == nil || !strings.Contains(err.Error(), "apply matview_refresh_log with this role among writer_roles") {
		t.Errorf("err = %v", err)
	}
	db.Exec(t, "GRANT ALL ON materialized_view_refresh_history, materialized_view_refresh_state TO "+owner)
	_, err = refresh.New(pool, "public", "test").Refresh(t.Context(), manual("job_progress", refresh.Auto))
	if err == nil || !strings.Contains(err.Error(), "permission denied for table materialized_view_refresh_log") || !strings.Contains(err.Error(), "writer_roles") {
		t.Errorf("err = %v", err)
	}
	if scan[bool](t, db.Pool(t), "SELECT relispopulated FROM pg_class WHERE oid = 'job_progress'::regclass") {
		t.Error("it was refreshed without a record")
	}
}

// A server that hides its roles leaves the totals unknown, and the refresh as it is.
func TestTotalsWhereRolesAreHidden(t *testing.T) {
	db := installed(t)
	owner, password := db.Role(t, "")
	db.Exec(t, jobs+"ALTER MATERIALIZED VIEW job_progress OWNER TO "+owner+"; GRANT SELECT ON jobs TO "+owner+"; GRANT CREATE ON SCHEMA public TO "+owner+
		"; GRANT ALL ON ALL TABLES IN SCHEMA public TO "+owner+"; REVOKE SELECT ON pg_roles FROM PUBLIC")
	pool, err := pgxpool.New(t.Context(), db.URLFor(owner, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Concurrently, refresh.Swap} {
		req := manual("job_progress", method)
		req.TotalJobs = "count(*)"
		if result := mustRefresh(t, pool, req); result.TotalJobs != nil || !strings.Contains(result.Warning, "totals not evaluated: permission denied for view pg_roles") {
			t.Errorf("%s: %+v", method, result)
		}
	}
}
