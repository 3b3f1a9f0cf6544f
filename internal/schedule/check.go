package schedule

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Target is the materialized view that a schedule means.
type Target struct {
	ViewName string // canonical: what the tables store
	OID      uint32
	View     matview.Name
	// StoredAs is the view_name of the row that the view's schedule has, "" if it
	// has none. Rows written by hand may use another of the view's names.
	StoredAs string
}

// Resolve finds the view by any of the names that materialized_view_names gives
// it. It reads catalogs and waits for no refresh.
func Resolve(ctx context.Context, db DB, schema, knownAs string) (target Target, found bool, err error) {
	names := postgres.QuoteIdent(schema, "materialized_view_names")
	// OFFSET 0 has the rows that bear a name of the view found first, so that the
	// names are not gone through again for each row of the schedule: with a
	// thousand views that took seconds.
	err = db.QueryRow(ctx, `
SELECT n.view_name, n.view_oid, n.schema_name, n.relation_name,
       coalesce((SELECT s.view_name FROM (SELECT s.view_name FROM `+names+` AS o JOIN `+table(schema)+` AS s ON s.view_name = o.known_as
                                          WHERE o.view_oid = n.view_oid OFFSET 0) AS s
                 WHERE n.view_oid = (SELECT k.view_oid FROM `+names+` AS k WHERE k.known_as = s.view_name ORDER BY k.preference LIMIT 1)
                 ORDER BY s.view_name <> n.view_name LIMIT 1), '')
FROM `+names+` AS n
WHERE n.known_as = $1
ORDER BY n.preference
LIMIT 1`, knownAs).Scan(&target.ViewName, &target.OID, &target.View.Schema, &target.View.Relation, &target.StoredAs)
	if errors.Is(err, pgx.ErrNoRows) {
		return Target{}, false, nil
	}
	if err != nil {
		return Target{}, false, fmt.Errorf("look for the materialized view %s: %w", knownAs, err)
	}
	return target, true, nil
}

// Beginner is a connection or a pool.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// CheckTotal has the server parse a totals expression over the view; nothing of
// it is executed. It locks the view for a moment as a SELECT would, and gives up
// with [pgerrcode.LockNotAvailable] after a second behind a blocking refresh.
func CheckTotal(ctx context.Context, db Beginner, view matview.Name, expression string) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // there is nothing to lose
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'"); err != nil {
		return err
	}
	// The line break ends a comment in the expression. With count(*) beside it,
	// an expression that has a value a row instead of one is an error.
	const before = "SELECT ("
	statement, err := tx.Conn().PgConn().Prepare(ctx, "", before+expression+"\n)::bigint, count(*) FROM "+view.SQL(), nil)
	if err != nil {
		return totalError(err, expression, len(before))
	}
	if len(statement.Fields) != 2 || len(statement.ParamOIDs) != 0 {
		return errors.New("must be one expression, without parameters")
	}
	return nil
}

// totalError adds where in the expression the error is.
func totalError(err error, expression string, before int) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	at := int(pgErr.Position) - before // in characters, from 1
	text := []rune(expression)
	if at < 1 || at > len(text) {
		return err
	}
	lines := strings.Split(string(text[:at]), "\n")
	return fmt.Errorf("line %d, column %d: %w", len(lines), len([]rune(lines[len(lines)-1])), err)
}

// CheckSetting tries a setting on the server, in a transaction that is rolled
// back, as a role without special rights would.
func CheckSetting(ctx context.Context, db Beginner, name, value string) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // there is nothing to lose
	if err := CheckSettingName(name); err != nil {
		return err
	}
	var level string
	err = tx.QueryRow(ctx, "SELECT context FROM pg_settings WHERE name = lower($1)", name).Scan(&level)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && strings.Contains(name, "."):
		return nil // an extension's, which may not be loaded yet
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("PostgreSQL has no setting %q", name)
	case err != nil:
		return err
	case level != "user":
		return fmt.Errorf("a plain role, which refreshes views, may not set %q", name)
	}
	_, err = tx.Exec(ctx, "SELECT set_config($1, $2, true)", name, value)
	return err
}
