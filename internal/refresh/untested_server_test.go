package refresh_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// A server of a major that was never tested may have other parse trees, and hide a
// refresh by somebody else.
func TestUntestedServerSkipsNothing(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	mustNotSkip(t, pool, "job_progress", "")
	mustSkip(t, pool, "job_progress")
	db.Exec(t, "CREATE OR REPLACE FUNCTION materialized_view_server_is_tested() RETURNS BOOLEAN LANGUAGE sql STABLE AS 'SELECT false'")
	mustNotSkip(t, pool, "job_progress", "is not among the majors that this program is tested with")
}

// versionDB answers with a server_version_num.
type versionDB struct {
	*pgx.Conn
	version int
}

func (db versionDB) Scan(dest ...any) error {
	*dest[0].(*int) = db.version
	return nil
}

func (db versionDB) QueryRow(_ context.Context, _ string, _ ...any) pgx.Row { return db }

func TestCheckSkipping(t *testing.T) {
	for version, want := range map[int]string{
		130023: "the server is PostgreSQL 13, and skip_unchanged requires 15 or later",
		140023: "the server is PostgreSQL 14, and skip_unchanged requires 15 or later",
		150020: "",
		180004: "",
		190000: "the server is PostgreSQL 19, and this program is tested with 13 to 18: skip_unchanged relies on",
	} {
		err := refresh.CheckSkipping(t.Context(), versionDB{version: version})
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%d: err = %v, want %s", version, err, want)
		}
	}
}

// The tested majors stand in Go and in SQL.
func TestTestedMajorsAgree(t *testing.T) {
	pool := installed(t).Pool(t)
	definition := scan[string](t, pool, "SELECT prosrc FROM pg_proc WHERE oid = 'materialized_view_server_is_tested()'::regprocedure")
	definition = strings.Replace(definition, "pg_catalog.current_setting('server_version_num')::integer / 10000", "major", 1)
	majors := scan[[]int](t, pool, "SELECT ARRAY(SELECT major FROM generate_series(0, 99) AS major WHERE ("+strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(definition), "SELECT"))+"))")
	if !slices.Equal(majors, postgres.TestedMajors) {
		t.Errorf("materialized_view_server_is_tested says %v, TestedMajors %v", majors, postgres.TestedMajors)
	}
}
