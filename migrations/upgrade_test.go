package migrations_test

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/migrations"
)

// release is the files of this release, changed: further numbered files, and columns
// in the middle of the read model.
func release(t *testing.T, tables map[string]string, columns ...string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	err := fs.WalkDir(migrations.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(migrations.Files, name)
		files[name] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, sql := range tables {
		files["tables/"+name] = &fstest.MapFile{Data: []byte(sql)}
	}
	const view = "repeatable/2_freshness.sql"
	text := string(files[view].Data)
	for at, value := range map[string]string{"    last_refreshed_at     TIMESTAMP WITH TIME ZONE,\n": " INTEGER", "           logged_at,\n": "1"} {
		if strings.Count(text, at) != 1 {
			t.Fatalf("%s has %q %d times", view, at, strings.Count(text, at))
		}
		added := ""
		for _, column := range columns {
			if value != "1" {
				added += "    " + column + value + ",\n"
			} else {
				added += "           1,\n"
			}
		}
		text = strings.Replace(text, at, added+at, 1)
	}
	files[view] = &fstest.MapFile{Data: []byte(text)}
	return files
}

func applyFiles(t *testing.T, conn *pgx.Conn, files fs.FS) {
	t.Helper()
	if err := migrations.ApplyFiles(t.Context(), conn, "public", files); err != nil {
		t.Fatal(err)
	}
}

// An exporter of this release goes on reading and refreshing while the tables are
// brought to a release that has dropped a column which this one does not use, and has
// added one.
func TestUpgradeUnderRunningExporter(t *testing.T) {
	next := migrations.Version() + 1
	added := fmt.Sprintf("%03d_materialized_view_refresh_history.old.sql", next)
	dropped := fmt.Sprintf("%03d_materialized_view_refresh_history.new.sql", next+1)
	tables := map[string]string{added: "ALTER TABLE materialized_view_refresh_history ADD COLUMN old INTEGER DEFAULT 1;"}
	before := release(t, tables, "old", "older")
	tables = maps.Clone(tables)
	tables[dropped] = "ALTER TABLE materialized_view_refresh_history DROP COLUMN old, ADD COLUMN new INTEGER DEFAULT 2;"
	after := release(t, tables, "new")

	db := postgrestest.New(t)
	conn := db.Connect(t)
	db.Exec(t, "CREATE MATERIALIZED VIEW v AS SELECT 1 AS x")
	applyFiles(t, conn, before)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	pool := db.Pool(t)
	refresher := refresh.New(pool, "public", "test")
	var group errgroup.Group
	var reads, refreshes int
	group.Go(func() error {
		for ; ctx.Err() == nil; reads++ {
			if _, err := freshness.All(t.Context(), pool, "public"); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		for ; ctx.Err() == nil; refreshes++ {
			if _, err := refresher.Refresh(t.Context(), refresh.Request{View: "v", Trigger: refresh.TriggerManual}); err != nil {
				return err
			}
		}
		return nil
	})
	for range 5 {
		applyFiles(t, conn, before)
	}
	for range 5 {
		applyFiles(t, conn, after)
	}
	stop()
	if err := group.Wait(); err != nil {
		t.Errorf("during the upgrade: %v", err)
	}
	t.Logf("%d reads and %d refreshes", reads, refreshes)
	if got := value[string](t, db, `SELECT string_agg(attname, ',' ORDER BY attname) FROM pg_attribute
WHERE attrelid IN ('materialized_view_freshness'::regclass, 'materialized_view_refresh_history'::regclass) AND attname IN ('old', 'older', 'new')`); got != "new,new" {
		t.Errorf("columns %s", got)
	}
	if n := value[int](t, db, "SELECT count(*) FROM materialized_view_refresh_history WHERE new = 2"); n < 1 {
		t.Error("the history is empty")
	}
	if got := value[int32](t, db, "SELECT version FROM matview_schema_version"); got != next+1 {
		t.Errorf("version %d", got)
	}
}

// A table that somebody has dropped is made again as later files left it, and only
// that one.
func TestRepairRunsTheFilesOfTheMissingTable(t *testing.T) {
	next := migrations.Version() + 1
	files := release(t, map[string]string{
		fmt.Sprintf("%03d_materialized_view_refresh_history.groups.sql", next): "ALTER TABLE materialized_view_refresh_history ADD COLUMN groups BIGINT;",
		fmt.Sprintf("%03d_materialized_view_refresh_state.groups.sql", next+1): "ALTER TABLE materialized_view_refresh_state ADD COLUMN groups BIGINT;",
	})
	db := postgrestest.New(t)
	conn := db.Connect(t)
	applyFiles(t, conn, files)
	db.Exec(t, "INSERT INTO materialized_view_refresh_state (view_name, groups) VALUES ('v', 7); DROP TABLE materialized_view_refresh_history CASCADE")
	applyFiles(t, conn, files)
	if got := value[int](t, db, "SELECT s.groups FROM materialized_view_refresh_state AS s LEFT JOIN materialized_view_refresh_history AS h ON h.groups = 1"); got != 7 {
		t.Errorf("groups is %d", got)
	}
}

// Views and functions that are made again keep their owner and exactly their grants.
func TestViewsKeepOwnersAndGrants(t *testing.T) {
	db := installed(t)
	owner, _ := db.Role(t, "")
	reader, _ := db.Role(t, "")
	db.Exec(t, `GRANT CREATE ON SCHEMA public TO `+owner+`;
ALTER VIEW materialized_view_freshness OWNER TO `+owner+`;
GRANT SELECT ON materialized_view_freshness TO PUBLIC;
GRANT SELECT ON materialized_view_names TO `+reader+` WITH GRANT OPTION;
GRANT SELECT (view_name), REFERENCES (known_as) ON materialized_view_names TO `+owner+`;
REVOKE EXECUTE ON FUNCTION materialized_view_upstreams(oid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION materialized_view_upstreams(oid) TO `+reader+`;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO pg_monitor`)
	const grants = `SELECT string_agg(line, E'\n' ORDER BY line) FROM (
    SELECT concat_ws(' ', c.relname, c.relowner::regrole, (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM unnest(c.relacl) AS x),
                     (SELECT string_agg(concat(a.attname, a.attacl), ' ' ORDER BY a.attnum) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL))
    FROM pg_class AS c WHERE relname IN ('materialized_view_freshness', 'materialized_view_names')
    UNION ALL
    SELECT concat_ws(' ', p.proname, p.proowner::regrole, (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) AS x))
    FROM pg_proc AS p WHERE p.proname LIKE 'materialized_view_%') AS lines (line)`
	before := value[string](t, db, grants)
	oid := value[uint32](t, db, "SELECT 'materialized_view_freshness'::regclass::oid")
	apply(t, db, "public")
	if after := value[string](t, db, grants); after != before {
		t.Errorf("owners and grants are\n%s\nand were\n%s", after, before)
	}
	if now := value[uint32](t, db, "SELECT 'materialized_view_freshness'::regclass::oid"); now == oid {
		t.Error("the view was not made again")
	}
}

func TestViewsThatOthersDependOn(t *testing.T) {
	db := installed(t)
	db.Exec(t, "CREATE VIEW stale AS SELECT view_name FROM materialized_view_freshness WHERE is_stale")
	err := migrations.Apply(t.Context(), db.Connect(t), "public")
	for _, want := range []string{"view stale depends on view materialized_view_freshness", "Drop what depends on them first, and create it again afterwards"} {
		if err == nil || !strings.Contains(postgres.Message(err), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	db.Exec(t, "SELECT FROM stale")
}
