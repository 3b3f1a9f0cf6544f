package honesty

import (
	"context"
	"fmt"
	"time"

	"github.com/matview/terraform-provider-matview/migrations"
)

func isLeaf(v *view) bool { return v.leaf }

// shapeKinds change views, tables and settings behind our back.
var shapeKinds = []kind{
	{name: "view dropped and created", weight: 10, run: recreated, on: isLeaf},
	{name: "view renamed and back", weight: 8, run: renamed, on: isLeaf},
	{name: "view in another schema and back", weight: 6, run: moved, on: func(v *view) bool { return v.leaf && v.name != quoted }},
	{name: "view altered", weight: 12, run: altered},
	{name: "base truncated and filled", weight: 10, run: truncated},
	{name: "partition exchanged", weight: 8, run: exchanged},
	{name: "base rewritten", weight: 6, run: rewritten},
	{name: "default isolation changed", weight: 4, run: defaultIsolation},
	{name: "log dropped and created", weight: 2, run: logRecreated},
	{name: "tracking turned on or off", weight: 3, run: tracking},
}

func recreated(ctx context.Context, w *world, e *event) error {
	return w.asOwner(ctx, func(s *session) error {
		// A crash may have left it under its other name.
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

// asOwner is for what has to stay the owner's.
func (w *world) asOwner(ctx context.Context, do func(*session) error) error {
	conn, err := connect(ctx, w.ownerSocketURL(), "by hand")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	return do(&session{ctx: ctx, conn: conn})
}

// thereAndBack does and undoes, in one transaction or in two.
func (w *world) thereAndBack(ctx context.Context, e *event, there, back string) error {
	return w.asOwner(ctx, func(s *session) error {
		if e.chance(50) {
			return s.all("BEGIN", there, back, "COMMIT")
		}
		if err := s.exec(there); err != nil {
			return err
		}
		pause(ctx, e.upTo(100*time.Millisecond))
		// To its end, or the view stays away.
		s.ctx = context.WithoutCancel(ctx)
		return s.exec(back)
	})
}

func renamed(ctx context.Context, w *world, e *event) error {
	schema := ""
	if e.view.name == quoted {
		schema = `"Other Schema".`
	}
	bare, away := e.view.name[len(schema):], fmt.Sprintf("away_%d", e.number)
	return w.thereAndBack(ctx, e,
		"ALTER MATERIALIZED VIEW "+e.view.name+" RENAME TO "+away,
		"ALTER MATERIALIZED VIEW "+schema+away+" RENAME TO "+bare)
}

func moved(ctx context.Context, w *world, e *event) error {
	return w.thereAndBack(ctx, e,
		"ALTER MATERIALIZED VIEW "+e.view.name+" SET SCHEMA elsewhere",
		"ALTER MATERIALIZED VIEW elsewhere."+e.view.name+" SET SCHEMA public")
}

// altered does what changes the view's catalog row, its file, or neither, and
// never its data.
func altered(ctx context.Context, w *world, e *event) error {
	return w.asOwner(ctx, func(s *session) error {
		return s.exec(oneOf(e,
			"GRANT SELECT ON "+e.view.name+" TO PUBLIC", "REVOKE SELECT ON "+e.view.name+" FROM PUBLIC",
			"ALTER MATERIALIZED VIEW "+e.view.name+" SET (fillfactor = 80)", "ALTER MATERIALIZED VIEW "+e.view.name+" RESET (fillfactor)",
			"COMMENT ON MATERIALIZED VIEW "+e.view.name+" IS 'a comment'",
			"VACUUM FULL "+e.view.name, "VACUUM "+e.view.name, "ANALYZE "+e.view.name, "REINDEX TABLE "+e.view.name,
			"CREATE INDEX ON "+e.view.name+" (n)"))
	})
}

// truncated leaves no moment, to a snapshot of its own time, at which the last
// bump is not there.
func truncated(ctx context.Context, w *world, e *event) error {
	return w.asOwner(ctx, func(s *session) error {
		if err := s.all("BEGIN", "TRUNCATE ticks"); err != nil {
			return err
		}
		if err := s.hold(e.upTo(100 * time.Millisecond)); err != nil {
			return err
		}
		return s.all("INSERT INTO ticks SELECT n FROM heartbeat", e.finish())
	})
}

// exchanged puts another table with the last bump in the place of a partition.
func exchanged(ctx context.Context, w *world, e *event) error {
	return w.asOwner(ctx, func(s *session) error {
		other, remainder := fmt.Sprintf("other_%d", e.number), fmt.Sprint(e.IntN(3))
		name := "ticks_" + remainder
		if err := s.all("BEGIN", "LOCK TABLE heartbeat IN EXCLUSIVE MODE", "CREATE TABLE "+other+" (n bigint NOT NULL)",
			"INSERT INTO "+other+" SELECT n FROM heartbeat WHERE satisfies_hash_partition('ticks'::regclass, 3, "+remainder+", n)",
			"ALTER TABLE ticks DETACH PARTITION "+name); err != nil {
			return err
		}
		if err := s.hold(e.upTo(100 * time.Millisecond)); err != nil {
			return err
		}
		return s.all("DROP TABLE "+name, "ALTER TABLE "+other+" RENAME TO "+name,
			"ALTER TABLE ticks ATTACH PARTITION "+name+" FOR VALUES WITH (MODULUS 3, REMAINDER "+remainder+")", e.finish())
	})
}

func rewritten(ctx context.Context, w *world, e *event) error {
	return w.asOwner(ctx, func(s *session) error {
		return s.exec(oneOf(e, "VACUUM FULL heartbeat", "VACUUM heartbeat, ticks", "VACUUM FULL ticks_0", "CLUSTER heartbeat USING heartbeat_pkey"))
	})
}

// defaultIsolation holds for sessions that begin later, ours among them.
func defaultIsolation(ctx context.Context, w *world, e *event) error {
	return w.session(ctx, e, func(s *session) error {
		on := oneOf(e, "DATABASE "+database, "ROLE "+owner)
		return s.exec("ALTER " + on + oneOf(e,
			" SET default_transaction_isolation = 'repeatable read'", " SET default_transaction_isolation = 'serializable'",
			" SET default_transaction_deferrable = on", " RESET ALL"))
	})
}

// logRecreated is what the users of the log did before it was ours.
func logRecreated(ctx context.Context, w *world, _ *event) error {
	return w.asOwner(ctx, func(s *session) error {
		return s.exec(`BEGIN; DROP TABLE materialized_view_refresh_log;
CREATE TABLE materialized_view_refresh_log (view_name TEXT PRIMARY KEY, last_refreshed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    refresh_duration_ms INTEGER, total_jobs INTEGER, total_objects BIGINT); COMMIT`)
	})
}

// tracking has the refreshes of others recorded, or not.
func tracking(ctx context.Context, w *world, e *event) error {
	conn, err := connect(ctx, w.superURL(), "by hand")
	if err != nil {
		return err
	}
	defer closeNow(conn)
	return migrations.Track(ctx, conn, "public", e.chance(75))
}
