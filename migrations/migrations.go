// Package migrations installs, upgrades and repairs the tables of matview, and the
// views and functions over them.
//
// The files of tables/ are numbered. Each is about one table, is applied once and is
// never replayed, except to create a table again that somebody has dropped. Views,
// functions, triggers, indexes and grants are one script that is always applied whole:
// drop.sql runs before the files of tables/, those of repeatable/ after them. All of it
// is plain SQL that `psql --single-transaction -f` runs too, in that order.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

//go:embed drop.sql tables/*.sql repeatable/*.sql
var embedded embed.FS

// VersionTable is the table, in the schema of the log, that holds the version.
const VersionTable = "matview_schema_version"

// lockKey keeps two migrations of one database apart. The lock is held to the end of
// the transaction, so that a pooler in transaction mode does not lose it.
const lockKey = int64(0x6d617476_6d696772)

// set is the SQL files of one version of matview.
type set struct {
	drop       string
	tables     []tableFile // by number
	repeatable []string    // in order
}

// tableFile is a file NNN_TABLE.sql, which creates a table, or NNN_TABLE.CHANGE.sql,
// which changes it.
type tableFile struct {
	table string
	sql   string
}

// current is the set of this release.
var current = mustLoad(embedded)

func mustLoad(files fs.FS) set {
	s, err := load(files)
	if err != nil {
		panic(err) // they are part of the program
	}
	return s
}

func load(files fs.FS) (set, error) {
	drop, err := fs.ReadFile(files, "drop.sql")
	if err != nil {
		return set{}, err
	}
	s := set{drop: string(drop)}
	names, err := fs.Glob(files, "*/*.sql") // sorted
	if err != nil {
		return set{}, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return set{}, err
		}
		number, rest, _ := strings.Cut(path.Base(name), "_")
		table, _, _ := strings.Cut(rest, ".")
		switch {
		case path.Dir(name) == "repeatable":
			s.repeatable = append(s.repeatable, string(text))
		case number != fmt.Sprintf("%03d", len(s.tables)+1):
			return set{}, fmt.Errorf("%s: the next number is %03d", name, len(s.tables)+1)
		default:
			s.tables = append(s.tables, tableFile{table: table, sql: string(text)})
		}
	}
	return s, nil
}

func (s set) version() int32 { return int32(len(s.tables)) } //nolint:gosec // a handful of files

// Version is the version that this program installs: the number of the last file of a
// table.
func Version() int32 { return current.version() }

// NewerError is returned if a later release has installed the tables.
type NewerError struct {
	Schema           string
	Installed, Known int32
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("the tables in schema %q are at version %d, and this program knows only up to %d: use a newer release of matview", e.Schema, e.Installed, e.Known)
}

// Apply installs, upgrades or repairs the tables in schema, which it creates if it does
// not exist, in one transaction. An existing log table is kept with its rows; one that
// cannot be used gives an [IncompatibleLogError]. Whether refreshes by others are
// recorded does not change; see [Track].
//
// Migrations of one database wait for each other. Apply locks the freshness view in
// ACCESS EXCLUSIVE mode for some milliseconds, and no materialized view.
func Apply(ctx context.Context, conn *pgx.Conn, schema string) error {
	return exclusively(ctx, conn, func(tx pgx.Tx) error { return current.apply(ctx, tx, schema, tracking{}) })
}

func (s set) apply(ctx context.Context, tx pgx.Tx, schema string, track tracking) error {
	if err := ensureSchema(ctx, tx, schema); err != nil {
		return err
	}
	if err := checkLog(ctx, tx, schema); err != nil {
		return err
	}
	err := s.run(ctx, tx, schema, track)
	switch postgres.SQLState(err) {
	case pgerrcode.LockNotAvailable:
		return fmt.Errorf("%w: a session that has read or written the tables of matview keeps its transaction open; end it (see pg_stat_activity) and try again", err)
	case pgerrcode.InsufficientPrivilege:
		return fmt.Errorf("%w; run this as the owner of what is installed already, or as a role that may create tables there", err)
	}
	return err
}

// exclusively runs do in a transaction while no other migration of the database runs.
// It retries after a conflict with changes by others, such as a GRANT on the same schema
// at the same moment.
func exclusively(ctx context.Context, conn *pgx.Conn, do func(pgx.Tx) error) error {
	return postgres.Retry(ctx, func() error { return once(ctx, conn, do) })
}

// lockTimeout bounds each wait for a lock, since readers of the freshness view queue
// behind it.
const lockTimeout = "5s"

func once(ctx context.Context, conn *pgx.Conn, do func(pgx.Tx) error) (err error) {
	// Explicit, since defaults of the role or the database may differ: after waiting for
	// the lock we must see what the other migration did.
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return fmt.Errorf("begin migration: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		rollbackErr := tx.Rollback(context.WithoutCancel(ctx))
		if rollbackErr != nil && !errors.Is(rollbackErr, pgx.ErrTxClosed) {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", lockKey); err != nil {
		return fmt.Errorf("wait for another migration of this database: %w", err)
	}
	if err := do(tx); err != nil {
		return err
	}
	if err := postgres.Commit(ctx, tx); err != nil {
		return fmt.Errorf("commit migration: %w", err)
	}
	return nil
}

func ensureSchema(ctx context.Context, tx pgx.Tx, schema string) error {
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema).Scan(&exists); err != nil {
		return fmt.Errorf("look for schema %q: %w", schema, err)
	}
	if exists {
		return nil
	}
	// IF NOT EXISTS alone would require CREATE on the database even if the schema exists.
	if _, err := tx.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
		return fmt.Errorf("create schema %q: %w", schema, err)
	}
	return nil
}

// run brings the tables in schema to the version of s and creates those that are
// missing; the views and functions are created again.
func (s set) run(ctx context.Context, tx pgx.Tx, schema string, track tracking) error {
	// Notices say what IF NOT EXISTS has found.
	settings := "SET LOCAL search_path = " + pgx.Identifier{schema}.Sanitize() + ", pg_temp; SET LOCAL client_min_messages = warning; SET LOCAL lock_timeout = '" + lockTimeout + "'; " + track.sql()
	if err := script(ctx, tx, settings); err != nil {
		return fmt.Errorf("install the tables of matview in schema %q: %w", schema, err)
	}
	missing, err := s.missingTables(ctx, tx, schema)
	if err != nil {
		return err
	}
	installed, err := s.installedTables(ctx, tx, schema, missing)
	if err != nil {
		return err
	}
	if installed > s.version() {
		return &NewerError{Schema: schema, Installed: installed, Known: s.version()}
	}
	if err := script(ctx, tx, s.drop); err != nil {
		return fmt.Errorf("replace the views and functions of matview in schema %q: %w", schema, err)
	}
	for i, file := range s.tables {
		if int32(i) < installed && !slices.Contains(missing, file.table) { //nolint:gosec // a handful of files
			continue
		}
		if err := script(ctx, tx, file.sql); err != nil {
			return fmt.Errorf("install table %s in schema %q: %w", file.table, schema, err)
		}
	}
	if _, err := tx.Exec(ctx, "UPDATE "+VersionTable+" SET version = $1", s.version()); err != nil {
		return fmt.Errorf("set the version of the tables in schema %q: %w", schema, err)
	}
	for _, sql := range s.repeatable {
		if err := script(ctx, tx, sql); err != nil {
			return fmt.Errorf("install the views and functions of matview in schema %q: %w", schema, err)
		}
	}
	return nil
}

// script runs SQL of several statements, by the simple protocol.
func script(ctx context.Context, tx pgx.Tx, sql string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// missingTables are the tables of s that are not in schema.
func (s set) missingTables(ctx context.Context, tx pgx.Tx, schema string) ([]string, error) {
	names := make([]string, len(s.tables))
	for i, file := range s.tables {
		names[i] = file.table
	}
	rows, err := tx.Query(ctx, `
SELECT DISTINCT t.name FROM unnest($2::text[]) AS t(name)
WHERE NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  WHERE n.nspname = $1 AND c.relname = t.name AND c.relkind IN ('r', 'p'))`, schema, names)
	if err != nil {
		return nil, fmt.Errorf("look for the tables of matview in schema %q: %w", schema, err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for the tables of matview in schema %q: %w", schema, err)
	}
	return missing, nil
}

// installedTables is the version of the tables in schema: 0 if there are none. Tables
// without a version, whose version table somebody has dropped or emptied, are taken
// for those of this release: if they are older, the views over them cannot be created.
func (s set) installedTables(ctx context.Context, tx pgx.Tx, schema string, missing []string) (version int32, err error) {
	if !slices.Contains(missing, VersionTable) {
		err = tx.QueryRow(ctx, "SELECT version FROM "+VersionTable).Scan(&version)
		switch {
		case err == nil:
			return version, nil
		case !errors.Is(err, pgx.ErrNoRows):
			return 0, fmt.Errorf("read the version of the tables in schema %q: %w", schema, err)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO "+VersionTable+" VALUES (0)"); err != nil {
			return 0, fmt.Errorf("repair the version of the tables in schema %q: %w", schema, err)
		}
	}
	if slices.Contains(missing, store.ScheduleTable) && slices.Contains(missing, store.StateTable) && slices.Contains(missing, store.HistoryTable) {
		return 0, nil
	}
	return s.version(), nil
}

// present counts those of our tables, views, functions and triggers that are in
// schema; all is how many there are in a complete installation. The role need not be
// allowed to use the schema.
func present(ctx context.Context, db postgres.Querier, schema string) (found, all int, err error) {
	names := map[string][]string{"TABLE": {store.LogTable}}
	for _, o := range ours {
		names[o.kind] = append(names[o.kind], o.name)
	}
	relations := slices.Concat(names["TABLE"], names["VIEW"])
	err = db.QueryRow(ctx, `
SELECT (SELECT count(*) FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relname = ANY (@relations))
     + (SELECT count(DISTINCT p.proname) FROM pg_proc AS p WHERE p.pronamespace = n.oid AND p.proname = ANY (@functions))
     + (SELECT count(*) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE c.relnamespace = n.oid AND (c.relname, t.tgname) IN (
            ('materialized_view_refresh_schedule', 'materialized_view_refresh_schedule_changed'),
            ('materialized_view_refresh_history', 'materialized_view_refresh_attempt_ended')))
FROM pg_namespace AS n WHERE n.nspname = @schema`,
		pgx.NamedArgs{"schema": schema, "relations": relations, "functions": names["FUNCTION"]}).Scan(&found)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) { // without the schema, there are none
		return 0, 0, fmt.Errorf("look for the tables of matview in schema %q: %w", schema, err)
	}
	return found, len(relations) + len(names["FUNCTION"]) + 2, nil
}

// Exists reports whether anything of ours is in schema, however incomplete.
func Exists(ctx context.Context, db postgres.Querier, schema string) (bool, error) {
	found, _, err := present(ctx, db, schema)
	return found > 0, err
}

// Installed returns the version of the tables in schema: 0 if there are none, or if some
// are missing and have to be applied again. If they are dropped at the same moment, the
// error is [postgres.Retryable], and a transaction around it has failed.
func Installed(ctx context.Context, db postgres.Querier, schema string) (int32, error) {
	found, all, err := present(ctx, db, schema)
	if err != nil || found < all {
		return 0, err
	}
	var version int32
	err = db.QueryRow(ctx, "SELECT version FROM "+pgx.Identifier{schema, VersionTable}.Sanitize()).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of the tables of matview in schema %q: %w", schema, postgres.Vanished(err))
	}
	return version, nil
}
