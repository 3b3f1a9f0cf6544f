package freshness_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// materialized_view_freshness_of answers by index look-ups what the view answers for
// all: the row API must not say of a view what nobody else says.
func TestOneViewIsAsInTheView(t *testing.T) {
	db := tracked(t)
	conn := db.Connect(t)
	execOn(t, conn, `CREATE SCHEMA a; CREATE SCHEMA "a.b"; CREATE SCHEMA "S"; CREATE SCHEMA "say ""hi"""`)
	views := []string{
		"plain", `"Capital"`, `"a.b"`, `"a.b.c"`, `"select"`, `"größe"`, `"q""uote"`, "same",
		"a.b", `"a.b".c`, `a."b.c"`, "a.same", "a.lone", `"S"."V"`, `"S.V"`, `"say ""hi"""."x y"`,
	}
	for _, name := range views {
		execOn(t, conn, "CREATE MATERIALIZED VIEW "+name+" AS SELECT x FROM source")
	}
	execOn(t, conn, "CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS x WITH NO DATA", "CREATE MATERIALIZED VIEW unknown AS SELECT 1 AS x")
	recordedRefresh(t, db.Pool(t), "v")
	recordedRefresh(t, db.Pool(t), "plain")
	recordedRefresh(t, db.Pool(t), "down")
	// Names as other programs write them, several for one view among them, of different
	// times, so that it shows which row counts.
	names := []string{
		"public.plain", "Capital", `"Capital"`, `public."Capital"`, "a.b", `"a.b"`, "public.a.b", "a.b.c", `"a.b".c`, `a."b.c"`, "b.c", "c",
		"select", "public.select", "größe", `q"uote`, "same", "a.same", "public.same", "lone", "a.lone", "S.V", `"S"."V"`, `"S.V"`, "V", `"V"`,
		`say "hi".x y`, "x y", `"x y"`, "unfilled", "gone", "public.gone",
	}
	for i, name := range names {
		if _, err := conn.Exec(t.Context(), `INSERT INTO materialized_view_refresh_log VALUES ($1, clock_timestamp() - $2 * interval '1 minute', $2)
ON CONFLICT (view_name) DO UPDATE SET last_refreshed_at = EXCLUDED.last_refreshed_at`, name, i); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if _, err := conn.Exec(t.Context(), `INSERT INTO materialized_view_refresh_schedule (view_name, every, enabled) VALUES ($1, $2 * interval '1 minute', $3)`,
				name, i+1, i%4 == 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	execOn(t, conn, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, heartbeat_at) VALUES ('plain', 'manual', 'running', clock_timestamp() + interval '1 hour')`)

	compare := func(t *testing.T) {
		t.Helper()
		// But for what grows with the time.
		const columns = `'{staleness_seconds,seconds_since_refresh,data_age}'::text[]`
		rows, err := conn.Query(t.Context(), `
SELECT c.oid::regclass::text, coalesce((to_jsonb(v) - `+columns+`)::text, ''), coalesce((to_jsonb(f) - `+columns+`)::text, '')
FROM pg_class AS c
LEFT JOIN materialized_view_freshness AS v ON v.view_oid = c.oid
LEFT JOIN LATERAL materialized_view_freshness_of(c.oid) AS f ON true
WHERE c.relkind = 'm'`)
		if err != nil {
			t.Fatal(err)
		}
		compared := 0
		var name, all, one string
		_, err = pgx.ForEachRow(rows, []any{&name, &all, &one}, func() error {
			compared++
			if all != one || all == "" {
				t.Errorf("%s: the view has\n%s\nand the function\n%s", name, all, one)
			}
			return nil
		})
		if err != nil || compared < len(views)+4 {
			t.Errorf("compared %d views, %v", compared, err)
		}
	}
	compare(t)
	execOn(t, conn, "REFRESH MATERIALIZED VIEW CONCURRENTLY v", "DELETE FROM materialized_view_refresh_log WHERE length(view_name) > 6")
	compare(t)
	execOn(t, conn, "DROP EVENT TRIGGER materialized_view_refresh_tracked", "REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW plain", "DROP MATERIALIZED VIEW same")
	views = views[1:]
	compare(t)
	execOn(t, conn, "DROP TABLE materialized_view_refresh_log")
	compare(t)
}
