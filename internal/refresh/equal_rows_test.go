package refresh_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

const tags = `CREATE TABLE tags (item text, note text); INSERT INTO tags VALUES ('a', NULL), ('b', 'x');
CREATE MATERIALIZED VIEW tagged AS SELECT item, note FROM tags; CREATE UNIQUE INDEX ON tagged (item);`

// CONCURRENTLY keeps one of two equal rows with a null, where a blocking refresh finds
// that the unique index does not allow them.
func TestEqualRowsAreNotLost(t *testing.T) {
	db := installed(t)
	db.Exec(t, tags)
	pool := db.Pool(t)
	first := mustRefresh(t, pool, manual("tagged", refresh.Auto))
	if first.Method == refresh.Concurrently {
		t.Errorf("%+v: nothing proves that no row is lost", first)
	}
	if !strings.Contains(first.Reason, "of equal rows that contain a null PostgreSQL keeps one only") {
		t.Errorf("reason %q", first.Reason)
	}
	if second := mustRefresh(t, pool, manual("tagged", refresh.Auto)); second.Method == refresh.Concurrently || !strings.HasPrefix(second.Reason, "one of the last 20 refreshes could not be made concurrently") {
		t.Errorf("%+v: it is not remembered", second)
	}
	db.Exec(t, "INSERT INTO tags VALUES ('a', NULL)")
	for _, method := range []refresh.Method{refresh.Auto, refresh.Swap, refresh.Blocking} {
		_, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("tagged", method))
		if postgres.SQLState(err) != pgerrcode.UniqueViolation || !strings.Contains(err.Error(), "could not create unique index") {
			t.Errorf("%s: %v", method, err)
		}
	}
	result := mustRefresh(t, pool, manual("tagged", refresh.Concurrently))
	if result.AsOf != nil || !strings.Contains(result.Warning, "the refresh may have lost rows") {
		t.Errorf("%+v, want an unknown as-of and a warning", result)
	}
	if n := scan[int](t, pool, "SELECT count(*) FROM tagged"); n != 2 {
		t.Errorf("%d rows: CONCURRENTLY has lost none", n)
	}
	if v := fresh(t, pool, "tagged"); v.DataAsOf != nil || v.IsStale != nil && !*v.IsStale {
		t.Errorf("freshness %+v", v)
	}
}

// What is provable, or has no null, is refreshed concurrently as before.
func TestConcurrentlyWithNulls(t *testing.T) {
	db := installed(t)
	owner, _ := db.Role(t, "")
	db.Exec(t, `CREATE SCHEMA s; GRANT USAGE, CREATE ON SCHEMA s TO `+owner+`; CREATE TABLE s.tags (item text PRIMARY KEY, note text); INSERT INTO s.tags VALUES ('a', NULL), ('b', 'x');
GRANT SELECT ON s.tags TO `+owner+`; CREATE MATERIALIZED VIEW s.tagged AS SELECT item, note FROM s.tags; CREATE UNIQUE INDEX ON s.tagged (item); ALTER MATERIALIZED VIEW s.tagged OWNER TO `+owner)
	pool := db.Pool(t)
	for _, method := range []refresh.Method{refresh.Auto, refresh.Concurrently} {
		result := mustRefresh(t, pool, manual("s.tagged", method))
		if result.Method != refresh.Concurrently || result.AsOf == nil || result.Warning != "" {
			t.Errorf("%s: %+v", method, result)
		}
	}
	// The owner may not create what the proof needs: that is said.
	db.Exec(t, "REVOKE CREATE ON SCHEMA s FROM "+owner)
	if result := mustRefresh(t, pool, manual("s.tagged", refresh.Concurrently)); result.AsOf != nil || !strings.Contains(result.Warning, "permission denied for schema s") {
		t.Errorf("%+v, want an unknown as-of", result)
	}
	if result := mustRefresh(t, pool, manual("s.tagged", refresh.Auto)); result.Method == refresh.Concurrently || result.AsOf == nil {
		t.Errorf("%+v, want another method", result)
	}
	db.Exec(t, "UPDATE s.tags SET note = 'y'")
	if result := mustRefresh(t, pool, manual("s.tagged", refresh.Concurrently)); result.AsOf == nil || result.Warning != "" {
		t.Errorf("%+v: without a null, nothing is to be proved", result)
	}
}
