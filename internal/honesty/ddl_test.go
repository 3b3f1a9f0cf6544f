package honesty

import (
	"context"
	"fmt"
	"time"

	"github.com/matview/terraform-provider-matview/migrations"
)

func isLeaf(v *view) bool { return v.leaf }

// ddlKinds change views, tables and settings without our programs.
var ddlKinds = []kind{
	{name: "view dropped and created", weight: 10, run: recreated, on: isLeaf},
	{name: "view renamed and back", weight: 8, run: renamed, on: isLeaf},
	{name: "view in another schema and back", weight: 6, run: moved, on: func(v *view) bool { return v.leaf && v.name != quoted }},
	{name: "view altered", weight: 12, run: altered},
	{name: "base truncated and filled", weight: 10, run: truncated},
	{name: "partition exchanged", weight: 8, run: exchanged},
	{name: "base rewritten", weight: 6, run: rewritten},
	{name: "default isolation changed", weight: 4, run: defaultIsolation},
	{name: "log dropped and created", weight: 2, run: logRecreated},
	{name: "external tracking turned on or off", weight: 3, run: tracking},
}

func recreated(ctx context.Context, h *harness, e *event) error {
	return h.asOwner(ctx, func(s *session) error {
		// A crash may have left it in the other schema.
		drop := "DROP MATERIALIZED VIEW IF EXISTS " + e.view.name
		if e.view.name != quoted {
			drop += ", elsewhere." + e.view.name
		}
		create := e.view.createSQL(oneOf(e, "DATA", "NO DATA"))
		if e.chance(50) {
			return s.all("BEGIN", drop, create, "COMMIT")
		}
		if err := s.exec(drop); err != nil {
			return err
		}
		pause(ctx, e.upTo(50*time.Millisecond))
		return s.exec(create)
	})
}

// asOwner runs do in a session of the owner, for objects that the owner has to keep.
func (h *harness) asOwner(ctx context.Context, do func(*session) error) error {
	conn, err := connect(ctx, h.ownerSocketURL(), "external")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	return do(&session{ctx: ctx, conn: conn})
}

// thereAndBack runs a statement and the one that undoes it, in one transaction or two.
func (h *harness) thereAndBack(ctx context.Context, e *event, there, back string) error {
	return h.asOwner(ctx, func(s *session) error {
		if e.chance(50) {
			return s.all("BEGIN", there, back, "COMMIT")
		}
		if err := s.exec(there); err != nil {
			return err
		}
		pause(ctx, e.upTo(100*time.Millisecond))
		// Even if ctx has ended: the view must come back.
		s.ctx = context.WithoutCancel(ctx)
		return s.exec(back)
	})
}

func renamed(ctx context.Context, h *harness, e *event) error {
	schema := ""
	if e.view.name == quoted {
		schema = `"Other Schema".`
	}
	bare, away := e.view.name[len(schema):], fmt.Sprintf("away_%d", e.number)
	return h.thereAndBack(ctx, e,
		"ALTER MATERIALIZED VIEW "+e.view.name+" RENAME TO "+away,
		"ALTER MATERIALIZED VIEW "+schema+away+" RENAME TO "+bare)
}

func moved(ctx context.Context, h *harness, e *event) error {
	return h.thereAndBack(ctx, e,
		"ALTER MATERIALIZED VIEW "+e.view.name+" SET SCHEMA elsewhere",
		"ALTER MATERIALIZED VIEW elsewhere."+e.view.name+" SET SCHEMA public")
}

// altered changes the view's catalog row, its file, or neither, but never its data.
func altered(ctx context.Context, h *harness, e *event) error {
	return h.asOwner(ctx, func(s *session) error {
		return s.exec(oneOf(e,
			"GRANT SELECT ON "+e.view.name+" TO PUBLIC", "REVOKE SELECT ON "+e.view.name+" FROM PUBLIC",
			"ALTER MATERIALIZED VIEW "+e.view.name+" SET (fillfactor = 80)", "ALTER MATERIALIZED VIEW "+e.view.name+" RESET (fillfactor)",
			"COMMENT ON MATERIALIZED VIEW "+e.view.name+" IS 'a comment'",
			"VACUUM FULL "+e.view.name, "VACUUM "+e.view.name, "ANALYZE "+e.view.name, "REINDEX TABLE "+e.view.name,
			"CREATE INDEX ON "+e.view.name+" (n)"))
	})
}

// truncated replaces the ticks in one transaction, so that every snapshot sees the last
// bump.
func truncated(ctx context.Context, h *harness, e *event) error {
	return h.asOwner(ctx, func(s *session) error {
		if err := s.all("BEGIN", "TRUNCATE ticks"); err != nil {
			return err
		}
		if err := s.wait(e.upTo(100 * time.Millisecond)); err != nil {
			return err
		}
		return s.all("INSERT INTO ticks SELECT n FROM heartbeat", e.finish())
	})
}

// exchanged replaces a partition by another table, with the last bump if it belongs
// there.
func exchanged(ctx context.Context, h *harness, e *event) error {
	return h.asOwner(ctx, func(s *session) error {
		other, remainder := fmt.Sprintf("other_%d", e.number), fmt.Sprint(e.IntN(3))
		name := "ticks_" + remainder
		if err := s.all("BEGIN", "LOCK TABLE heartbeat IN EXCLUSIVE MODE", "CREATE TABLE "+other+" (n bigint NOT NULL)",
			"INSERT INTO "+other+" SELECT n FROM heartbeat WHERE satisfies_hash_partition('ticks'::regclass, 3, "+remainder+", n)",
			"ALTER TABLE ticks DETACH PARTITION "+name); err != nil {
			return err
		}
		if err := s.wait(e.upTo(100 * time.Millisecond)); err != nil {
			return err
		}
		return s.all("DROP TABLE "+name, "ALTER TABLE "+other+" RENAME TO "+name,
			"ALTER TABLE ticks ATTACH PARTITION "+name+" FOR VALUES WITH (MODULUS 3, REMAINDER "+remainder+")", e.finish())
	})
}

func rewritten(ctx context.Context, h *harness, e *event) error {
	return h.asOwner(ctx, func(s *session) error {
		return s.exec(oneOf(e, "VACUUM FULL heartbeat", "VACUUM heartbeat, ticks", "VACUUM FULL ticks_0", "CLUSTER heartbeat USING heartbeat_pkey"))
	})
}

// defaultIsolation affects later sessions, including ours.
func defaultIsolation(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		on := oneOf(e, "DATABASE "+database, "ROLE "+owner)
		return s.exec("ALTER " + on + oneOf(e,
			" SET default_transaction_isolation = 'repeatable read'", " SET default_transaction_isolation = 'serializable'",
			" SET default_transaction_deferrable = on", " RESET ALL"))
	})
}

// logRecreated drops the log and creates it without our columns and triggers.
func logRecreated(ctx context.Context, h *harness, _ *event) error {
	return h.asOwner(ctx, func(s *session) error {
		return s.exec(`BEGIN; DROP TABLE materialized_view_refresh_log;
CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT); COMMIT`)
	})
}

// tracking turns the recording of external refreshes on or off.
func tracking(ctx context.Context, h *harness, e *event) error {
	conn, err := connect(ctx, h.superURL(), "external")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	return migrations.Track(ctx, conn, "public", e.chance(75))
}
