package postgres

import "fmt"

// DescribeSessionsSQL is a query that describes, in one text, up to five sessions
// for a message: null if there are none. pids is what it selects their pid from,
// such as "unnest(pg_blocking_pids(42)) AS pid". Only members of pg_monitor see the
// sessions of other roles in full. What a session runs is its user's business.
func DescribeSessionsSQL(pids string) string {
	return fmt.Sprintf(`
SELECT string_agg(
    CASE WHEN p.pid = 0 THEN 'a prepared transaction'
         ELSE concat_ws(', ', format('process %%s (role %%s', p.pid, coalesce(a.usename, '?')), nullif(a.application_name, ''), a.state,
                        'in a transaction since ' || date_trunc('second', a.xact_start)) || ')' END, ', ' ORDER BY p.pid)
FROM (SELECT DISTINCT pid FROM %s LIMIT 5) AS p
LEFT JOIN pg_stat_activity AS a ON a.pid = p.pid`, pids)
}
