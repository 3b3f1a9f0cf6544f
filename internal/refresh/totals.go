package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// totals are the values of the schedule's expressions; null with a warning if one
// failed.
type totals struct {
	jobs, objects *int64
	warning       string
}

const (
	maxTotalJobs    = 1<<31 - 1 // the log's column is an integer
	maxTotalObjects = 1<<63 - 1
)

// totals evaluates the schedule's expressions on the new data. One that fails is
// null with a warning; the refresh stands.
//
// The expressions are somebody's SQL, so they run as the view's owner, read
// only, and whatever they did is rolled back. A function in one could take the
// session's own role back, and from there any role that the login may act as,
// so a login that may act as more than the owner does not run them at all.
func (a *attempt) totals(ctx context.Context, tx *pgx.Conn, f facts) *totals {
	t, _ := a.totalsFrom(ctx, tx, f, relation{sql: f.name().SQL()})
	return t
}

// totalsOfReplacement evaluates them on a replacement under the name of the view. It
// is nil if that gives no answer: an expression that reads the view by its name
// again, in a subquery or through a view over it, would get the old data.
func (a *attempt) totalsOfReplacement(ctx context.Context, tx *pgx.Conn, f facts, replacement matview.Name) *totals {
	t, err := a.totalsFrom(ctx, tx, f, relation{sql: replacement.SQL() + " AS " + postgres.QuoteIdent(f.Relation), not: f.OID})
	switch state := postgres.SQLState(err); {
	case errors.Is(err, errReadsOldView), state == pgerrcode.LockNotAvailable, // of the old view
		state == pgerrcode.UndefinedTable, state == pgerrcode.UndefinedColumn: // with the view's schema in front
		return nil
	}
	return t
}

// relation is what expressions are evaluated on.
type relation struct {
	sql string
	not uint32 // the OID of one that they must not read, 0 if any will do
}

var errReadsOldView = errors.New("it reads the view as it was before")

// totalsFrom also returns the first error that became a warning.
func (a *attempt) totalsFrom(ctx context.Context, tx *pgx.Conn, f facts, from relation) (t *totals, failure error) {
	t = &totals{}
	if a.request.TotalJobs == "" && a.request.TotalObjects == "" {
		return t, nil
	}
	excess := ""
	err := rolledBack(ctx, tx, func() (err error) {
		excess, err = excessRole(ctx, tx, f)
		return err
	})
	if err != nil {
		t.warning = "totals not evaluated: " + postgres.Message(err)
		return t, nil
	}
	if excess != "" {
		t.warning = fmt.Sprintf("totals not evaluated: this login may act as %s, which the view's owner %s may not; refresh this view with a login that is a member of its owner only", excess, f.Owner)
		return t, nil
	}
	// Both in one pass over the view; one by one only if that fails.
	both, err := evaluate(ctx, tx, f, from, a.request.TotalJobs, a.request.TotalObjects)
	if err == nil && (both[0] == nil || *both[0] <= maxTotalJobs) {
		t.jobs, t.objects = both[0], both[1]
		return t, nil
	}
	if errors.Is(err, errReadsOldView) {
		return t, err
	}
	var warnings []string
	for _, one := range []struct {
		name, expression string
		limit            int64
		value            **int64
	}{{"total_jobs", a.request.TotalJobs, maxTotalJobs, &t.jobs}, {"total_objects", a.request.TotalObjects, maxTotalObjects, &t.objects}} {
		value, err := evaluate(ctx, tx, f, from, one.expression)
		if err == nil && value[0] != nil && *value[0] > one.limit {
			err = fmt.Errorf("%d does not fit the log's column", *value[0])
		}
		if err != nil {
			failure = cmp.Or(failure, err)
			warnings = append(warnings, fmt.Sprintf("%s is null: %s", one.name, postgres.Message(err)))
			continue
		}
		*one.value = value[0]
	}
	t.warning = strings.Join(warnings, "; ")
	return t, failure
}

// excessRole is a role that the login may act as and the view's owner may not;
// "" if there is none. The roles that only monitor do not count. A superuser may
// act as any.
func excessRole(ctx context.Context, tx *pgx.Conn, f facts) (string, error) {
	var role *string
	err := tx.QueryRow(ctx, `
SELECT coalesce((SELECT 'superuser' FROM pg_roles WHERE rolname = session_user AND rolsuper AND NOT o.rolsuper),
                (SELECT r.rolname::text FROM pg_roles AS r
                 WHERE r.rolname <> session_user AND pg_has_role(session_user, r.oid, 'MEMBER') AND NOT pg_has_role(o.oid, r.oid, 'MEMBER')
                   AND r.rolname NOT IN ('pg_monitor', 'pg_read_all_settings', 'pg_read_all_stats', 'pg_stat_scan_tables')
                 ORDER BY r.rolsuper DESC, r.rolname LIMIT 1))
FROM pg_roles AS o WHERE o.rolname = $1`, f.Owner).Scan(&role)
	if err != nil || role == nil {
		return "", err
	}
	return *role, nil
}

// rolledBack calls do and rolls back all that it did: an error of it leaves the
// transaction usable.
func rolledBack(ctx context.Context, tx *pgx.Conn, do func() error) (err error) {
	if _, err := tx.Exec(ctx, "SAVEPOINT totals"); err != nil {
		return err
	}
	defer func() {
		if _, rollbackErr := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT totals"); rollbackErr != nil && err == nil {
			err = rollbackErr
		}
	}()
	return do()
}

const hasReadSQL = `
SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation = $1
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`

// evaluate runs the expressions, of which "" is null, in one query and rolls back
// all that it did.
func evaluate(ctx context.Context, tx *pgx.Conn, f facts, from relation, expressions ...string) ([]*int64, error) {
	columns := make([]string, len(expressions))
	values := make([]*int64, len(expressions))
	targets := make([]any, len(expressions), len(expressions)+1)
	for i, e := range expressions {
		// The line break ends a comment in the expression.
		columns[i] = "(" + cmp.Or(e, "NULL") + "\n)::bigint"
		targets[i] = &values[i]
	}
	// count(*) makes an expression with a value for each row an error. By the
	// extended protocol, which takes a single statement only.
	sql := "SELECT " + strings.Join(columns, ", ") + ", count(*) FROM " + from.sql
	targets = append(targets, new(int64))
	return values, rolledBack(ctx, tx, func() error {
		if _, err := tx.Exec(ctx, "SELECT set_config('role', $1, true), set_config('transaction_read_only', 'on', true)", f.Owner); err != nil {
			return fmt.Errorf("act as the view's owner %s: %w", f.Owner, err)
		}
		if err := tx.QueryRow(ctx, sql, pgx.QueryExecModeExec).Scan(targets...); err != nil || from.not == 0 {
			return err
		}
		// Whatever a transaction has read it has locked, by whichever way.
		var read bool
		if err := tx.QueryRow(ctx, hasReadSQL, from.not).Scan(&read); err != nil {
			return err
		}
		if read {
			return errReadsOldView
		}
		return nil
	})
}
