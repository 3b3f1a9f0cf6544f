package refresh_test

import (
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// A function that names no schemas works in a REFRESH up to PostgreSQL 16, and so it
// does in a swap. From 17 on it works in neither, and the error says why.
func TestSwapRunsTheQueryAsRefreshDoes(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE SCHEMA docs_schema; CREATE TABLE docs_schema.docs (x int); INSERT INTO docs_schema.docs VALUES (1), (2);
CREATE FUNCTION docs_schema.cnt(n int) RETURNS numeric LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT count(*)::numeric * n FROM docs); END $$;
CREATE MATERIALIZED VIEW v AS SELECT x, docs_schema.cnt(x) AS n FROM docs_schema.docs WITH NO DATA; ALTER DATABASE `+postgres.QuoteIdent(db.Name)+` SET search_path = docs_schema, public`)
	pool := db.Pool(t)
	works := postgrestest.Version(t) < 170000
	for _, method := range []refresh.Method{refresh.Blocking, refresh.Swap} {
		if !works && method == refresh.Swap {
			continue // it was never populated
		}
		result, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("v", method))
		if works && (err != nil || result.Method != method) {
			t.Errorf("%s: %+v, %v", method, result, err)
		}
		if !works && (err == nil || !strings.Contains(postgres.Message(err), `relation "docs" does not exist`) || !strings.Contains(postgres.Message(err), "docs_schema.cnt(integer) names it without its schema")) {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// What an event trigger refuses of a swap is no reason to refuse the refresh. It is
// remembered for a while.
func TestSwapIsReplacedByAnotherMethod(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE TABLE big AS SELECT i AS id, repeat('x', 20) AS x FROM generate_series(1, 100) AS i;
CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN IF $1 = 1 THEN PERFORM pg_sleep(0.15); END IF; RETURN $1; END $$;
CREATE MATERIALIZED VIEW v AS SELECT slow(id) AS id, x FROM big; CREATE MATERIALIZED VIEW unique_v AS SELECT id, x FROM big; CREATE UNIQUE INDEX ON unique_v (id);
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'nothing is dropped here'; END $$;
CREATE EVENT TRIGGER refuse ON sql_drop WHEN TAG IN ('DROP MATERIALIZED VIEW') EXECUTE FUNCTION refuse()`)
	pool := db.Pool(t)
	mustRefresh(t, pool, manual("v", refresh.Blocking))
	first := mustRefresh(t, pool, manual("v", refresh.Auto))
	if first.Method != refresh.Blocking || !strings.Contains(first.Reason, "instead of swap") || !strings.Contains(first.Reason, "nothing is dropped here") {
		t.Errorf("%+v", first)
	}
	second := mustRefresh(t, pool, manual("v", refresh.Auto))
	if second.Method != refresh.Blocking || !strings.Contains(second.Reason, "one of the last 5 refreshes could not be a swap") {
		t.Errorf("%+v", second)
	}
	if _, err := refresh.New(pool, "public", "test").Refresh(t.Context(), manual("v", refresh.Swap)); err == nil || !strings.Contains(err.Error(), "nothing is dropped here") {
		t.Errorf("a swap that was asked for: %v", err)
	}
}
