-- The materialized views that the query of one reads, also through plain views.
-- It stops at each materialized view: what lies behind that is in its own as-of.
CREATE FUNCTION materialized_view_upstreams(view_oid OID)
RETURNS SETOF OID LANGUAGE sql STABLE
-- Dearer than that, but called for few rows: with the default estimates the
-- planner would compile the freshness view for longer than it takes to run.
COST 1 ROWS 1 AS $$
    WITH RECURSIVE read(relid, relkind) AS (
        SELECT view_oid, 'v'::"char"
        UNION
        SELECT c.oid, c.relkind
        FROM read
        JOIN pg_rewrite AS r ON r.ev_class = read.relid
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                           AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> read.relid
        JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
        WHERE read.relkind = 'v'
    )
    SELECT relid FROM read WHERE relkind = 'm'
$$;

ALTER FUNCTION materialized_view_upstreams(OID) SET search_path = pg_catalog, pg_temp;

-- By which names a materialized view may be called in the log and in the
-- schedule. preference 0 is its canonical view_name; the others are what people
-- and programs write who do not quote, or who leave out a schema where there is
-- only one view of that name.
CREATE VIEW materialized_view_names AS
    WITH views AS (
        SELECT c.oid AS view_oid,
               n.nspname AS schema_name,
               c.relname AS relation_name,
               CASE WHEN n.nspname = 'public' THEN quote_ident(c.relname)
                    ELSE quote_ident(n.nspname) || '.' || quote_ident(c.relname) END AS view_name,
               n.nspname = 'public' OR count(*) OVER (PARTITION BY c.relname) = 1 AS bare,
               -- "a.b".c and a."b.c" are both a.b.c without quotes, which says nothing then.
               count(*) OVER (PARTITION BY n.nspname || '.' || c.relname) = 1 AS distinct_unquoted
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind = 'm'
    )
    SELECT v.view_oid, v.view_name, v.schema_name::text, v.relation_name::text, k.known_as, k.preference
    FROM views AS v
    CROSS JOIN LATERAL (
        SELECT v.view_name AS known_as, 0 AS preference
        UNION ALL SELECT quote_ident(v.schema_name) || '.' || quote_ident(v.relation_name), 1
        UNION ALL SELECT v.schema_name || '.' || v.relation_name, 2 WHERE v.distinct_unquoted
        UNION ALL SELECT quote_ident(v.relation_name), 3 WHERE v.bare
        UNION ALL SELECT v.relation_name::text, 4 WHERE v.bare
    ) AS k;

-- The one read model for current freshness. It reads catalogs and our own
-- tables only, and locks no materialized view.
CREATE VIEW materialized_view_freshness AS
    WITH clock AS MATERIALIZED (
        -- Not now(): in a long transaction that would make data look younger.
        SELECT clock_timestamp() AS now
    ),
    -- A thousand views must be cheap to read, with every scrape: the canonical
    -- name of each is made once, and the others only where a row bears one.
    views AS MATERIALIZED (
        SELECT c.oid AS view_oid,
               CASE WHEN n.nspname = 'public' THEN quote_ident(c.relname)
                    ELSE quote_ident(n.nspname) || '.' || quote_ident(c.relname) END AS view_name,
               n.nspname::text AS schema_name,
               c.relname::text AS relation_name,
               c.relispopulated AS is_populated,
               c.relfilenode AS filenode,
               c.xmin AS row_xmin
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind = 'm'
    ),
    log AS MATERIALIZED (
        SELECT l.*, v.view_oid
        FROM materialized_view_refresh_log_rows() AS l
        LEFT JOIN views AS v ON v.view_name = l.view_name
    ),
    schedule AS MATERIALIZED (
        SELECT s.view_name, s.enabled, s.max_staleness,
               2 * (coalesce(s.every, s.longest_gap, s.target_staleness) + coalesce(s.jitter, INTERVAL '0'))
               -- A skipped refresh proves no more than what was committed 61 seconds before.
               + CASE WHEN s.skip_unchanged THEN INTERVAL '61 seconds' ELSE INTERVAL '0' END AS two_gaps,
               v.view_oid
        FROM materialized_view_refresh_schedule AS s
        LEFT JOIN views AS v ON v.view_name = s.view_name
    ),
    renamed AS MATERIALIZED (
        SELECT DISTINCT ON (r.view_name) r.view_name, n.view_oid, n.preference
        FROM (SELECT view_name FROM log WHERE view_oid IS NULL
              UNION SELECT view_name FROM schedule WHERE view_oid IS NULL) AS r
        JOIN materialized_view_names AS n ON n.known_as = r.view_name
        ORDER BY r.view_name, n.preference
    ),
    logged AS MATERIALIZED (
        SELECT l.view_name, l.last_refreshed_at, l.refresh_duration_ms, l.total_jobs, l.total_objects,
               coalesce(l.view_oid, r.view_oid) AS view_oid, coalesce(r.preference, 0) AS preference
        FROM log AS l
        LEFT JOIN renamed AS r ON r.view_name = l.view_name
    ),
    scheduled AS MATERIALIZED (
        SELECT s.view_name, s.enabled, s.max_staleness, s.two_gaps,
               coalesce(s.view_oid, r.view_oid) AS view_oid, coalesce(r.preference, 0) AS preference
        FROM schedule AS s
        LEFT JOIN renamed AS r ON r.view_name = s.view_name
    ),
    -- A table that a subscription fills is about the views of another server.
    replicated AS MATERIALIZED (
        SELECT coalesce(bool_or(c.relname = 'materialized_view_refresh_log'), false) AS log,
               coalesce(bool_or(c.relname = 'materialized_view_refresh_state'), false) AS state
        FROM pg_subscription_rel AS r
        JOIN pg_class AS c ON c.oid = r.srrelid
        JOIN pg_class AS ours ON ours.oid = 'materialized_view_refresh_state'::regclass AND ours.relnamespace = c.relnamespace
    ),
    running AS (
        SELECT DISTINCT view_name
        FROM materialized_view_refresh_history
        WHERE outcome = 'running' AND heartbeat_at > clock_timestamp() - INTERVAL '10 seconds'
    ),
    asked AS (
        SELECT v.*,
               l.view_name AS log_name, l.last_refreshed_at, l.refresh_duration_ms, l.total_jobs, l.total_objects,
               s.view_name AS schedule_name, s.enabled, s.max_staleness, s.two_gaps
        FROM views AS v
        -- Of several rows about one view, one counts.
        LEFT JOIN (SELECT DISTINCT ON (view_oid) * FROM logged WHERE view_oid IS NOT NULL
                   ORDER BY view_oid, last_refreshed_at DESC NULLS LAST, preference) AS l ON l.view_oid = v.view_oid
        LEFT JOIN (SELECT DISTINCT ON (view_oid) * FROM scheduled WHERE view_oid IS NOT NULL
                   ORDER BY view_oid, preference) AS s ON s.view_oid = v.view_oid
        UNION ALL
        SELECT NULL, coalesce(l.view_name, s.view_name), NULL, NULL, NULL, NULL, NULL,
               l.view_name, l.last_refreshed_at, l.refresh_duration_ms, l.total_jobs, l.total_objects,
               s.view_name, s.enabled, s.max_staleness, s.two_gaps
        FROM (SELECT * FROM logged WHERE view_oid IS NULL) AS l
        FULL JOIN (SELECT * FROM scheduled WHERE view_oid IS NULL) AS s ON s.view_name = l.view_name
    ),
    known AS (
        SELECT a.view_oid, a.view_name, a.schema_name, a.relation_name, a.is_populated, a.log_name, a.schedule_name,
               a.last_refreshed_at, a.refresh_duration_ms, a.total_jobs, a.total_objects, a.enabled,
               coalesce(a.max_staleness,
                        a.two_gaps + coalesce(a.refresh_duration_ms, 0) * INTERVAL '1 millisecond') AS max_staleness,
               st.last_attempt_at, st.last_outcome, st.last_error, st.size_bytes,
               coalesce(st.consecutive_failures, 0) AS consecutive_failures,
               CASE WHEN a.enabled THEN st.next_run_at END AS next_run_at,
               -- The log row is the one that we wrote with our last refresh.
               coalesce(a.log_name = st.view_name
                        AND a.last_refreshed_at = st.logged_refreshed_at
                        AND a.refresh_duration_ms IS NOT DISTINCT FROM st.logged_duration_ms, false) AS is_ours,
               coalesce(st.view_oid = a.view_oid, false) AS is_same_view,
               -- Nobody has touched the view since our last refresh.
               coalesce(st.view_oid = a.view_oid AND st.view_filenode = a.filenode AND st.view_xmin = a.row_xmin AND NOT replicated.state, false) AS is_intact,
               st.data_as_of AS recorded_as_of,
               r.view_name IS NOT NULL AS refresh_in_progress,
               clock.now, replicated.log AS is_replicated
        FROM asked AS a
        CROSS JOIN clock
        CROSS JOIN replicated
        LEFT JOIN materialized_view_refresh_state AS st ON st.view_name = a.view_name
        LEFT JOIN running AS r ON r.view_name = a.view_name
    ),
    judged AS MATERIALIZED (
        SELECT k.*,
               CASE
                   WHEN k.view_oid IS NULL OR NOT k.is_populated OR k.log_name IS NULL THEN NULL
                   -- Recorded before the clock was set back: how long ago, nobody knows.
                   WHEN k.is_intact AND (k.recorded_as_of > k.now OR NOT materialized_view_server_is_tested()) THEN NULL
                   -- Nobody refreshed it since we did, whatever the log says.
                   WHEN k.is_intact THEN k.recorded_as_of
                   WHEN k.is_ours OR k.is_replicated THEN NULL
                   -- A row by somebody else: as far as it can be believed.
                   WHEN k.refresh_duration_ms IS NULL OR k.refresh_duration_ms < 0 OR k.last_refreshed_at > k.now THEN NULL
                   WHEN EXISTS (SELECT FROM materialized_view_upstreams(k.view_oid)) THEN NULL
                   ELSE k.last_refreshed_at - (k.refresh_duration_ms + 1) * INTERVAL '1 millisecond'
               END AS data_as_of
        FROM known AS k
    ),
    reasoned AS (
        SELECT j.*,
               CASE
                   WHEN j.log_name IS NULL AND j.schedule_name IS NULL THEN NULL
                   WHEN j.view_oid IS NULL THEN 'missing'
                   WHEN NOT j.is_populated THEN 'not_populated'
                   WHEN j.log_name IS NULL THEN 'never_refreshed'
                   WHEN j.is_ours AND NOT j.is_same_view THEN 'recreated'
                   WHEN j.is_ours AND NOT j.is_intact THEN 'changed_outside'
                   -- A cron schedule that nobody has made sense of yet has no limit,
                   -- and must not look fresh for ever.
                   WHEN j.data_as_of IS NULL OR j.schedule_name IS NOT NULL AND j.max_staleness IS NULL THEN 'unverified'
                   WHEN j.now - j.data_as_of > j.max_staleness THEN 'older_than_max_staleness'
               END AS stale_reason
        FROM judged AS j
    )
    SELECT view_name,
           schema_name,
           relation_name,
           is_populated,
           schedule_name IS NOT NULL AS is_scheduled,
           enabled,
           last_refreshed_at,
           refresh_duration_ms,
           data_as_of,
           extract(epoch FROM now - data_as_of)::double precision AS staleness_seconds,
           extract(epoch FROM now - last_refreshed_at)::double precision AS seconds_since_refresh,
           now - last_refreshed_at AS data_age,
           CASE WHEN refresh_duration_ms < 1000 THEN 'Fast'
                WHEN refresh_duration_ms < 5000 THEN 'Normal'
                WHEN refresh_duration_ms >= 5000 THEN 'Slow' END AS performance_rating,
           total_jobs,
           total_objects,
           extract(epoch FROM max_staleness)::double precision AS max_staleness_seconds,
           CASE WHEN log_name IS NOT NULL OR schedule_name IS NOT NULL THEN stale_reason IS NOT NULL END AS is_stale,
           stale_reason,
           last_attempt_at,
           last_outcome,
           last_error,
           consecutive_failures,
           next_run_at,
           -- For our own programs.
           refresh_in_progress,
           size_bytes,
           view_oid
    FROM reasoned;
