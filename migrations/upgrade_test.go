package migrations_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/migrations"
)

// shapeSQL is all that the files make, a line each, wherever a column was added.
const shapeSQL = `
SELECT array_agg(line ORDER BY line COLLATE "C") FROM (
    SELECT format('column %s.%s %s, not null %s, default %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')
    UNION ALL
    SELECT format('%s %s, options %s', c.relkind, c.relname, c.reloptions) FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT format('view %s %s', c.relname, pg_get_viewdef(c.oid)) FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'v'
    UNION ALL
    SELECT format('constraint %s on %s %s', o.conname, o.conrelid::regclass, pg_get_constraintdef(o.oid)) FROM pg_constraint AS o WHERE o.connamespace = 'public'::regnamespace
    UNION ALL
    SELECT pg_get_indexdef(i.indexrelid) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT pg_get_triggerdef(t.oid) FROM pg_trigger AS t WHERE NOT t.tgisinternal
) AS lines (line)`

// From whichever version it is applied, in the end there is what a new installation
// has, and every row.
func TestApplyUpgrades(t *testing.T) {
	want := value[[]string](t, installed(t), shapeSQL)
	present, err := filepath.Glob("*.sql")
	if err != nil || len(present) != int(migrations.Version()) {
		t.Fatalf("files %v, %v", present, err)
	}
	cases := map[string][]string{}
	for n := range len(present) - 1 {
		cases[present[n]] = present[:n+1]
	}
	for name, files := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := postgrestest.New(t)
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				db.Exec(t, string(text))
			}
			db.Exec(t, "CREATE TABLE matview_schema_version (version int4 NOT NULL)")
			db.Exec(t, "INSERT INTO matview_schema_version VALUES ($1)", len(files))
			tables := []string{"materialized_view_refresh_log"}
			db.Exec(t, "INSERT INTO materialized_view_refresh_log VALUES ('v', '2025-11-09 10:14:30+00', 920, 150, 1250000)")
			if len(files) > 1 {
				db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, cron, time_zone, settings) VALUES ('v', '*/5 * * * *', 'Europe/Berlin', '{"work_mem": "1MB"}');
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, error) VALUES ('v', 'manual', 'failed', 'why');
INSERT INTO materialized_view_refresh_state (view_name, data_as_of) VALUES ('v', '2025-11-09 10:14:29+00');
UPDATE materialized_view_refresh_settings SET history_retention = '1 day'`)
				tables = append(tables, "materialized_view_refresh_schedule", "materialized_view_refresh_history", "materialized_view_refresh_state", "materialized_view_refresh_settings")
			}
			before := map[string]map[string]any{}
			for _, table := range tables {
				before[table] = value[map[string]any](t, db, "SELECT to_jsonb(t) FROM "+table+" AS t")
			}
			apply(t, db, "public")
			wantVersion(t, db, "public", migrations.Version())
			if diff := cmp.Diff(want, value[[]string](t, db, shapeSQL)); diff != "" {
				t.Errorf("against a new installation:\n%s", diff)
			}
			for _, table := range tables {
				after := value[map[string]any](t, db, "SELECT to_jsonb(t) FROM "+table+" AS t")
				for column, was := range before[table] {
					if !cmp.Equal(was, after[column]) {
						t.Errorf("%s.%s is %v, and was %v", table, column, after[column], was)
					}
				}
			}
		})
	}
}
