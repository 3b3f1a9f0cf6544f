// Package migrations holds the tables of matview as numbered SQL files, and
// applies them.
//
// Every file can be run again at any later version: applying is also repairing.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

//go:embed *.sql
var files embed.FS

// VersionTable is the table, in the schema of the log, that holds the version.
const VersionTable = "matview_schema_version"

// lockKey keeps two migrations of one database apart. It is held to the end of
// the transaction, so that a pooler in transaction mode does not lose it.
const lockKey = int64(0x6d617476_6d696772)

// Version is the version that this program installs: the number of the last file.
func Version() int32 {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	return int32(len(names)) //nolint:gosec // a handful of files
}

// NewerError says that the tables were installed by a later release.
type NewerError struct {
	Schema           string
	Installed, Known int32
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("the tables in schema %q are at version %d, and this program knows only up to %d: use a newer release of matview", e.Schema, e.Installed, e.Known)
}

// Apply installs, upgrades or repairs the tables in schema, which it creates
// where it is missing. It is one transaction: either all of it is there
// afterwards, or nothing has changed. A log table that exists already is kept
// with its rows; one that cannot be used gives an [IncompatibleLogError]. Whether
// refreshes by others are tracked stays as it is; see [Track].
//
// Two that run at once wait for each other. It takes ACCESS EXCLUSIVE on the
// freshness view for a few milliseconds, and no lock on any materialized view.
func Apply(ctx context.Context, conn *pgx.Conn, schema string) error {
	return exclusively(ctx, conn, func(tx pgx.Tx) error { return apply(ctx, tx, schema, tracking{}) })
}

func apply(ctx context.Context, tx pgx.Tx, schema string, track tracking) error {
	if err := ensureSchema(ctx, tx, schema); err != nil {
		return err
	}
	if err := checkLog(ctx, tx, schema); err != nil {
		return err
	}
	err := applyFiles(ctx, tx, schema, track)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.LockNotAvailable {
		return fmt.Errorf("%w: a session that has read or written the tables of matview keeps its transaction open; end it (see pg_stat_activity) and try again", err)
	}
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InsufficientPrivilege {
		return fmt.Errorf("%w; do this as the owner of what is installed already, or as a role that may create tables there", err)
	}
	return err
}

// exclusively runs do in a transaction of its own while no other change of this
// kind is under way in the database, and again where the server says that
// trying again is the remedy: this keeps our own changes apart, but not those of
// others, such as a GRANT on the same schema at the same moment.
func exclusively(ctx context.Context, conn *pgx.Conn, do func(pgx.Tx) error) error {
	return postgres.Retry(ctx, func() error { return once(ctx, conn, do) })
}

// lockTimeout bounds each wait for a lock: readers of the freshness view queue
// behind that wait.
const lockTimeout = "5s"

func once(ctx context.Context, conn *pgx.Conn, do func(pgx.Tx) error) (err error) {
	// Stated, as the defaults of role or database may differ: whoever has waited
	// for the lock must see what the other one did.
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return fmt.Errorf("begin migration: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		rollbackErr := tx.Rollback(context.WithoutCancel(ctx))
		// tern takes session locks, which outlive a transaction that failed.
		_, unlockErr := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock_all()")
		if rollbackErr != nil && !errors.Is(rollbackErr, pgx.ErrTxClosed) || unlockErr != nil {
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
	// IF NOT EXISTS alone would want CREATE on the database also where it exists.
	if _, err := tx.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
		return fmt.Errorf("create schema %q: %w", schema, err)
	}
	return nil
}

func applyFiles(ctx context.Context, tx pgx.Tx, schema string, track tracking) error {
	versionTable := pgx.Identifier{schema, VersionTable}.Sanitize()
	// The transaction is ours: tern would commit after each file.
	migrator, err := migrate.NewMigratorEx(ctx, tx.Conn(), versionTable, &migrate.MigratorOptions{DisableTx: true})
	if err != nil {
		return fmt.Errorf("create the version table in schema %q: %w", schema, err)
	}
	if err := migrator.LoadMigrations(files); err != nil {
		return fmt.Errorf("load migrations: %w", err)
	}
	installed, err := migrator.GetCurrentVersion(ctx)
	if errors.Is(err, pgx.ErrNoRows) { // somebody emptied the table
		_, err = tx.Exec(ctx, "INSERT INTO "+versionTable+" (version) VALUES (0)")
	}
	if err != nil {
		return fmt.Errorf("read the version of schema %q: %w", schema, err)
	}
	if installed > Version() {
		return &NewerError{Schema: schema, Installed: installed, Known: Version()}
	}
	// From the first file on, whatever the version says: that is the repair.
	if _, err := tx.Exec(ctx, "UPDATE "+versionTable+" SET version = 0"); err != nil {
		return fmt.Errorf("repair schema %q: %w", schema, err)
	}
	for _, m := range migrator.Migrations {
		// tern resets all settings after each file.
		m.UpSQL = "SET LOCAL search_path = " + pgx.Identifier{schema}.Sanitize() + ", pg_temp;\n" +
			"SET LOCAL client_min_messages = warning;\nSET LOCAL lock_timeout = '" + lockTimeout + "';\n" + track.sql() + m.UpSQL
	}
	if err := migrator.Migrate(ctx); err != nil {
		return fmt.Errorf("install the tables of matview in schema %q: %w", schema, err)
	}
	return nil
}

// Querier is what reading needs: a connection, a pool or a transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// relations are all that the files make, the log apart.
var relations = []string{
	"materialized_view_refresh_schedule",
	"materialized_view_refresh_state",
	"materialized_view_refresh_history",
	"materialized_view_refresh_settings",
	"materialized_view_refresh_publication",
	"materialized_view_names",
	"materialized_view_freshness",
	VersionTable,
}

// functions are those that no view depends on.
var functions = []string{
	"materialized_view_upstreams",
	"materialized_view_oid",
	"materialized_view_freshness_of",
}

const presentSQL = `
SELECT count(*) + (SELECT count(*) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                   WHERE n.nspname = $1 AND p.proname = ANY ($3))
              + (SELECT count(*)
                   FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
                   WHERE n.nspname = $1 AND c.relname = 'materialized_view_refresh_schedule'
                     AND t.tgname = 'materialized_view_refresh_schedule_changed')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = ANY ($2)`

// present counts the relations that are there, and the trigger among them.
func present(ctx context.Context, db Querier, schema string) (found int, err error) {
	if err := db.QueryRow(ctx, presentSQL, schema, append([]string{LogTable}, relations...), functions).Scan(&found); err != nil {
		return 0, fmt.Errorf("look for the tables of matview in schema %q: %w", schema, err)
	}
	return found, nil
}

// Exists reports whether anything of ours is in schema, however incomplete.
func Exists(ctx context.Context, db Querier, schema string) (bool, error) {
	found, err := present(ctx, db, schema)
	return found > 0, err
}

// Installed is the version of the tables in schema: 0 if there are none, or if
// some are missing, so that they want applying again. Where they are dropped while
// it looks, the error is [postgres.Retryable]: a transaction would be of no use
// after it.
func Installed(ctx context.Context, db Querier, schema string) (int32, error) {
	found, err := present(ctx, db, schema)
	if err != nil {
		return 0, err
	}
	if found < len(relations)+len(functions)+2 { // the log and the trigger are the two
		return 0, nil
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
