-- What the sessions of the database do, and whether its counters of changes can be
-- relied on. @lag is the least lag of what they prove.
--
-- A session that is not idle may hold back the counts of what it committed since
-- it became busy, and of 61 seconds before: a procedure that commits as it goes,
-- or one that is idle in a transaction. So may one that went idle a moment ago,
-- of its last statement. Only a client's session says when it is idle.
SELECT statement_timestamp() AS now,
       CASE WHEN NOT {tested_server}()
                THEN format('PostgreSQL %s is not among the majors that this program is tested with, and may have changed the internals that skipping relies on',
                            current_setting('server_version_num')::int / 10000)
            WHEN current_setting('track_counts') = 'off'
              OR EXISTS (SELECT FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c
                         WHERE c ILIKE 'track_counts=%' AND c NOT ILIKE 'track_counts=on' AND c NOT ILIKE 'track_counts=true')
                THEN 'the setting track_counts is off, so that PostgreSQL does not count changes'
            WHEN NOT pg_has_role('pg_read_all_stats', 'USAGE')
                THEN format('%I may not see what other sessions do: GRANT pg_read_all_stats TO %1$I', current_user)
            ELSE '' END AS doubt,
       coalesce(least(b.since, statement_timestamp() - @lag::interval), statement_timestamp() - @lag::interval) AS provable,
       CASE WHEN b.since < statement_timestamp() - @lag::interval THEN b.pid ELSE 0 END AS busy_pid
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT a.pid, CASE
               WHEN a.backend_type NOT IN ('client backend', 'walsender') OR a.state IS DISTINCT FROM 'idle'
                   THEN coalesce(least(a.xact_start, a.query_start), a.backend_start) - @lag::interval
               WHEN a.state_change > statement_timestamp() - @lag::interval THEN a.query_start
           END AS since
    FROM pg_stat_activity AS a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
    ORDER BY since LIMIT 1
) AS b ON true
