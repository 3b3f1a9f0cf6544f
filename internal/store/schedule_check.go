package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// CheckTotal has the server parse a totals expression over the target; nothing of
// it is executed. It locks the view for a moment as a SELECT would, and gives up
// with [pgerrcode.LockNotAvailable] after a second behind a blocking refresh.
func CheckTotal(ctx context.Context, db Beginner, target ScheduleTarget, expression string) error {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was written
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'"); err != nil {
		return err
	}
	// The line break ends a comment in the expression. With count(*) beside it,
	// an expression that has a value a row instead of one is an error.
	const before = "SELECT ("
	statement, err := tx.Conn().PgConn().Prepare(ctx, "",
		before+expression+"\n)::bigint, count(*) FROM "+postgres.QuoteIdent(target.Schema, target.Relation), nil)
	if err != nil {
		return totalError(err, expression, len(before))
	}
	if len(statement.Fields) != 2 || len(statement.ParamOIDs) != 0 {
		return errors.New("must be one expression, without parameters")
	}
	return nil
}

// totalError adds the position in the expression to a syntax error.
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
// back, as a role without special privileges would.
func CheckSetting(ctx context.Context, db Beginner, name, value string) error {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was written
	if err := schedule.CheckSettingName(name); err != nil {
		return err
	}
	var level string
	err = tx.QueryRow(ctx, "SELECT context FROM pg_settings WHERE name = lower($1)", name).Scan(&level)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && strings.Contains(name, "."):
		return nil // that of an extension, which may not be loaded yet
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
