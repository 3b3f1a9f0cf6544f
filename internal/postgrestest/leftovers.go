package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// namePrefix begins the names of everything we create on a given server.
const namePrefix = "matview_test_"

var namePattern = regexp.MustCompile(`^(` + namePrefix + `(\d+)_[a-z2-7]{6})_\d+$`)

// dropLeftovers drops the databases and roles of runs that are over: those
// whose process is gone and that have no presence on the server. Each check
// alone would be wrong: processes of other machines are not ours to see, and
// a presence ends when the server restarts.
func dropLeftovers(ctx context.Context, conn *pgx.Conn) error {
	databases, err := leftovers(ctx, conn, `SELECT datname FROM pg_database WHERE starts_with(datname, $1)`)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range databases {
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)")
		errs = append(errs, err)
	}
	roles, err := leftovers(ctx, conn, `SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)`)
	if err != nil {
		return err
	}
	for _, name := range roles {
		errs = append(errs, dropRole(ctx, conn, name))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("drop what earlier tests left: %w", err)
	}
	return nil
}

func leftovers(ctx context.Context, conn *pgx.Conn, query string) ([]string, error) {
	rows, err := conn.Query(ctx, query, namePrefix)
	if err != nil {
		return nil, fmt.Errorf("look for what earlier tests left: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for what earlier tests left: %w", err)
	}
	var left []string
	for _, name := range names {
		match := namePattern.FindStringSubmatch(name)
		if match == nil {
			continue // not ours
		}
		pid, err := strconv.Atoi(match[2])
		if err != nil || processAlive(pid) {
			continue
		}
		var present bool
		err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1)`,
			match[1]).Scan(&present)
		if err != nil {
			return nil, fmt.Errorf("look for what earlier tests left: %w", err)
		}
		if !present {
			left = append(left, name)
		}
	}
	return left, nil
}

// dropRole drops a role after the databases in which it owned something.
func dropRole(ctx context.Context, conn *pgx.Conn, name string) error {
	// What remains are privileges on shared objects.
	if _, err := conn.Exec(ctx, "DROP OWNED BY "+quote(name)+" CASCADE"); err != nil {
		return fmt.Errorf("drop role %q: %w", name, err)
	}
	if _, err := conn.Exec(ctx, "DROP ROLE "+quote(name)); err != nil {
		return fmt.Errorf("drop role %q: %w", name, err)
	}
	return nil
}
