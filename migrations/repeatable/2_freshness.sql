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

-- Whether several materialized views are called so without quotes: "a.b".c and a."b.c"
-- are both a.b.c. It is a function of its own, and not inlined, since the planner would
-- count its cost for every view, although few names have a dot, and compile each query of
-- the read model (jit) for longer than it runs.
CREATE FUNCTION materialized_view_is_ambiguous(unquoted TEXT)
RETURNS BOOLEAN LANGUAGE sql STABLE COST 1
SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) > 1
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'm' AND n.nspname || '.' || c.relname = unquoted
$$;

-- The names by which the log and the schedule may refer to a materialized view, in
-- order of preference, null where one is ambiguous or the same as another. The first is its
-- canonical name. The others are what people and programs write who do not quote
-- names, or who leave out the schema of the only view of that name.
--
-- The planner inlines it; every name in it is qualified because it then runs with
-- the search_path of the reader.
DO $$
BEGIN
    EXECUTE format($create$
CREATE FUNCTION materialized_view_known_as(view_oid OID, schema_name NAME, relation_name NAME)
RETURNS SETOF TEXT[] LANGUAGE sql STABLE ROWS 1 AS $body$
    SELECT ARRAY[
        %1$I.materialized_view_name(schema_name, relation_name),
        CASE WHEN schema_name = 'public' THEN 'public.' || %1$I.materialized_view_quote(relation_name) END,
        CASE WHEN schema_name || '.' || relation_name = %1$I.materialized_view_quote(schema_name) || '.' || %1$I.materialized_view_quote(relation_name) THEN NULL
             WHEN pg_catalog.strpos(schema_name || relation_name::text, '.') = 0
                  OR NOT %1$I.materialized_view_is_ambiguous(schema_name || '.' || relation_name)
             THEN schema_name || '.' || relation_name END]
        || CASE WHEN schema_name = 'public' THEN ARRAY[NULL, nullif(relation_name::text, %1$I.materialized_view_quote(relation_name))]
                WHEN NOT EXISTS (
                    SELECT FROM pg_catalog.pg_class AS c
                    WHERE c.relname = relation_name AND c.relkind = 'm' AND c.oid <> view_oid)
                THEN ARRAY[%1$I.materialized_view_quote(relation_name), nullif(relation_name::text, %1$I.materialized_view_quote(relation_name))] END
    OFFSET 0
$body$
$create$, current_schema());
END
$$;

-- Every name of every materialized view. preference 0 is its canonical view_name;
-- a name that several views bear stands for the one with the lowest preference.
CREATE VIEW materialized_view_names AS
    SELECT c.oid AS view_oid,
           k.names[1] AS view_name,
           n.nspname::text AS schema_name,
           c.relname::text AS relation_name,
           name.known_as,
           (name.position - 1)::integer AS preference
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL materialized_view_known_as(c.oid, n.nspname, c.relname) AS k(names)
    CROSS JOIN LATERAL unnest(k.names) WITH ORDINALITY AS name(known_as, position)
    WHERE c.relkind = 'm' AND name.known_as IS NOT NULL;

-- The materialized view that a name stands for, null if there is none.
CREATE FUNCTION materialized_view_oid(name TEXT)
RETURNS OID LANGUAGE sql STABLE AS $$
    SELECT n.view_oid FROM materialized_view_names AS n WHERE n.known_as = name ORDER BY n.preference LIMIT 1
$$;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION materialized_view_oid(TEXT) SET search_path = %I, pg_catalog, pg_temp', current_schema());
END
$$;

-- Whether a subscription fills the log, or the state: then their rows are about the
-- views of another server.
DO $$
BEGIN
    EXECUTE format($create$
CREATE FUNCTION materialized_view_replicated()
RETURNS TABLE (log BOOLEAN, state BOOLEAN) LANGUAGE sql STABLE ROWS 1 AS $body$
    SELECT coalesce(bool_or(c.relname = 'materialized_view_refresh_log'), false),
           coalesce(bool_or(c.relname = 'materialized_view_refresh_state'), false)
    FROM pg_catalog.pg_subscription_rel AS r
    JOIN pg_catalog.pg_class AS c ON c.oid = r.srrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = %1$L
$body$
$create$, current_schema());
END
$$;

-- The rules of the read model: what is said of one view, given its row in pg_class,
-- the log row and the schedule row that count for it (null if there is none), its
-- state, and the time. log_replicated and state_replicated tell that a subscription
-- fills the table, so that its rows are about the views of another server.
--
-- The planner inlines it, and computes only the columns that a query uses.
DO $$
BEGIN
    EXECUTE format($create$
CREATE FUNCTION materialized_view_freshness_row(
    oid OID, name TEXT, nspname TEXT, relname TEXT, populated BOOLEAN, filenode OID, row_xmin XID,
    log_name TEXT, logged_at TIMESTAMP WITH TIME ZONE, logged_ms BIGINT, logged_jobs BIGINT, logged_objects BIGINT,
    schedule %1$I.materialized_view_refresh_schedule, running BOOLEAN,
    state_name TEXT, next_run TIMESTAMP WITH TIME ZONE, failures INTEGER, attempted_at TIMESTAMP WITH TIME ZONE, outcome TEXT, error TEXT,
    recorded_as_of TIMESTAMP WITH TIME ZONE, recorded_oid OID, recorded_filenode OID, recorded_xmin XID,
    recorded_at TIMESTAMP WITH TIME ZONE, recorded_ms INTEGER, size BIGINT,
    log_replicated BOOLEAN, state_replicated BOOLEAN, now TIMESTAMP WITH TIME ZONE)
RETURNS TABLE (
    view_name             TEXT,
    schema_name           TEXT,
    relation_name         TEXT,
    is_populated          BOOLEAN,
    is_scheduled          BOOLEAN,
    enabled               BOOLEAN,
    last_refreshed_at     TIMESTAMP WITH TIME ZONE,
    refresh_duration_ms   BIGINT,
    data_as_of            TIMESTAMP WITH TIME ZONE,
    staleness_seconds     DOUBLE PRECISION,
    seconds_since_refresh DOUBLE PRECISION,
    data_age              INTERVAL,
    performance_rating    TEXT,
    total_jobs            BIGINT,
    total_objects         BIGINT,
    max_staleness_seconds DOUBLE PRECISION,
    is_stale              BOOLEAN,
    stale_reason          TEXT,
    last_attempt_at       TIMESTAMP WITH TIME ZONE,
    last_outcome          TEXT,
    last_error            TEXT,
    consecutive_failures  INTEGER,
    next_run_at           TIMESTAMP WITH TIME ZONE,
    -- For our own programs.
    refresh_in_progress   BOOLEAN,
    size_bytes            BIGINT,
    view_oid              OID)
LANGUAGE sql STABLE ROWS 1 AS $body$
    SELECT name, nspname, relname, populated,
           (schedule).view_name IS NOT NULL,
           (schedule).enabled,
           logged_at,
           logged_ms,
           data.as_of,
           extract(epoch FROM now - data.as_of)::double precision,
           -- Of a time before the clock was set back, nobody knows how long ago it is.
           CASE WHEN logged_at <= now THEN extract(epoch FROM now - logged_at)::double precision END,
           CASE WHEN logged_at <= now THEN now - logged_at END,
           CASE WHEN logged_ms < 1000 THEN 'Fast' WHEN logged_ms < 5000 THEN 'Normal' WHEN logged_ms >= 5000 THEN 'Slow' END,
           logged_jobs,
           logged_objects,
           extract(epoch FROM allowed.max_staleness)::double precision,
           CASE WHEN log_name IS NOT NULL OR (schedule).view_name IS NOT NULL THEN stale.reason IS NOT NULL END,
           stale.reason,
           attempted_at,
           outcome,
           error,
           coalesce(failures, 0),
           CASE WHEN (schedule).enabled THEN next_run END,
           running,
           size,
           oid
    FROM (SELECT
               -- The rows of a blocking refresh are seen by older snapshots too, but not what
               -- is recorded of them. Of files, this function knows the present.
               pg_catalog.pg_relation_filenode(oid) IS DISTINCT FROM filenode AS has_newer_rows,
               -- The log row is the one that we wrote with our last refresh.
               coalesce(log_name = state_name
                        AND logged_at = recorded_at
                        AND logged_ms IS NOT DISTINCT FROM recorded_ms, false) AS is_ours,
               -- Nobody has touched the view since our last refresh.
               coalesce(recorded_oid = oid AND recorded_filenode = filenode AND recorded_xmin = row_xmin
                        AND NOT state_replicated, false) AS is_intact
          OFFSET 0) AS record
    CROSS JOIN LATERAL (
        SELECT CASE
                   WHEN oid IS NULL OR NOT populated OR log_name IS NULL OR record.has_newer_rows THEN NULL
                   -- Recorded before the clock was set back: how long ago, nobody knows.
                   WHEN record.is_intact AND recorded_as_of > now THEN NULL
                   -- A server of an untested major may hide a refresh by somebody else.
                   WHEN record.is_intact AND NOT %1$I.materialized_view_server_is_tested() THEN NULL
                   -- Nobody refreshed it since we did, whatever the log says.
                   WHEN record.is_intact THEN recorded_as_of
                   WHEN record.is_ours OR log_replicated THEN NULL
                   -- A row by somebody else: as far as it can be believed.
                   WHEN logged_ms IS NULL OR logged_ms < 0 OR logged_at > now THEN NULL
                   WHEN EXISTS (SELECT FROM %1$I.materialized_view_upstreams(oid)) THEN NULL
                   ELSE logged_at - (logged_ms + 1) * INTERVAL '1 millisecond'
               END AS as_of
        OFFSET 0) AS data
    CROSS JOIN LATERAL (
        SELECT coalesce((schedule).max_staleness,
                        2 * (coalesce((schedule).every, (schedule).longest_gap, (schedule).target_staleness)
                             + coalesce((schedule).jitter, INTERVAL '0'))
                        -- A skipped refresh proves no more than what was committed 61 seconds before.
                        + CASE WHEN (schedule).skip_unchanged THEN INTERVAL '61 seconds' ELSE INTERVAL '0' END
                        + coalesce(logged_ms, 0) * INTERVAL '1 millisecond') AS max_staleness) AS allowed
    CROSS JOIN LATERAL (
        SELECT CASE
                   WHEN log_name IS NULL AND (schedule).view_name IS NULL THEN NULL
                   WHEN oid IS NULL THEN 'missing'
                   WHEN NOT populated THEN 'not_populated'
                   WHEN log_name IS NULL THEN 'never_refreshed'
                   WHEN record.is_ours AND recorded_oid IS DISTINCT FROM oid THEN 'recreated'
                   WHEN record.has_newer_rows OR record.is_ours AND NOT record.is_intact THEN 'changed_outside'
                   -- A cron schedule that nobody has made sense of yet has no limit,
                   -- and must not look fresh for ever.
                   WHEN data.as_of IS NULL OR (schedule).view_name IS NOT NULL AND allowed.max_staleness IS NULL THEN 'unverified'
                   WHEN now - data.as_of > allowed.max_staleness THEN 'older_than_max_staleness'
               END AS reason) AS stale
$body$
$create$, current_schema());
END
$$;

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
               materialized_view_name(n.nspname, c.relname) COLLATE "default" AS view_name,
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
        SELECT s AS schedule, s.view_name, v.view_oid
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
        SELECT s.schedule, s.view_name, coalesce(s.view_oid, r.view_oid) AS view_oid, coalesce(r.preference, 0) AS preference
        FROM schedule AS s
        LEFT JOIN renamed AS r ON r.view_name = s.view_name
    ),
    running AS (
        SELECT DISTINCT view_name
        FROM materialized_view_refresh_history
        WHERE outcome = 'running' AND heartbeat_at BETWEEN clock_timestamp() - materialized_view_attempt_timeout() AND clock_timestamp() + materialized_view_attempt_timeout()
    ),
    asked AS (
        SELECT v.*, l.view_name AS log_name, l.last_refreshed_at, l.refresh_duration_ms, l.total_jobs, l.total_objects, s.schedule
        FROM views AS v
        -- Of several rows about one view, one counts.
        LEFT JOIN (SELECT DISTINCT ON (view_oid) * FROM logged WHERE view_oid IS NOT NULL
                   ORDER BY view_oid, last_refreshed_at DESC NULLS LAST, preference) AS l ON l.view_oid = v.view_oid
        LEFT JOIN (SELECT DISTINCT ON (view_oid) * FROM scheduled WHERE view_oid IS NOT NULL
                   ORDER BY view_oid, preference) AS s ON s.view_oid = v.view_oid
        UNION ALL
        SELECT NULL, coalesce(l.view_name, s.view_name), NULL, NULL, NULL, NULL, NULL,
               l.view_name, l.last_refreshed_at, l.refresh_duration_ms, l.total_jobs, l.total_objects, s.schedule
        FROM (SELECT * FROM logged WHERE view_oid IS NULL) AS l
        FULL JOIN (SELECT * FROM scheduled WHERE view_oid IS NULL) AS s ON s.view_name = l.view_name
    )
    SELECT f.*
    FROM asked AS a
    CROSS JOIN clock
    CROSS JOIN materialized_view_replicated() AS replicated
    LEFT JOIN materialized_view_refresh_state AS st ON st.view_name = a.view_name
    LEFT JOIN running AS r ON r.view_name = a.view_name
    CROSS JOIN LATERAL materialized_view_freshness_row(
        a.view_oid, a.view_name, a.schema_name, a.relation_name, a.is_populated, a.filenode, a.row_xmin,
        a.log_name, a.last_refreshed_at, a.refresh_duration_ms, a.total_jobs, a.total_objects,
        a.schedule, r.view_name IS NOT NULL,
        st.view_name, st.next_run_at, st.consecutive_failures, st.last_attempt_at, st.last_outcome, st.last_error,
        st.data_as_of, st.view_oid, st.view_filenode, st.view_xmin, st.logged_refreshed_at, st.logged_duration_ms, st.size_bytes,
        replicated.log, replicated.state, clock.now) AS f;

-- The row of materialized_view_freshness about one view, by index lookups: a name
-- with dots or quotes in it may also be what another view is called.
DO $$
BEGIN
    EXECUTE format($create$
CREATE FUNCTION materialized_view_freshness_of(view_oid OID)
RETURNS SETOF %1$I.materialized_view_freshness LANGUAGE sql STABLE ROWS 1 AS $body$
    SELECT f.*
    FROM (SELECT pg_catalog.clock_timestamp() AS now OFFSET 0) AS clock
    CROSS JOIN %1$I.materialized_view_replicated() AS replicated
    CROSS JOIN pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL %1$I.materialized_view_known_as(c.oid, n.nspname, c.relname) AS known(names)
    CROSS JOIN LATERAL (
        SELECT known.names COLLATE pg_catalog."default" AS names, (n.nspname || c.relname::text) !~ '[."]' AS plain OFFSET 0) AS v
    LEFT JOIN LATERAL (
        SELECT l.* FROM %1$I.materialized_view_refresh_log_rows(v.names) AS l
        WHERE l.view_name = v.names[1] OR v.plain OR %1$I.materialized_view_oid(l.view_name) = c.oid
        ORDER BY l.last_refreshed_at DESC NULLS LAST, pg_catalog.array_position(v.names, l.view_name) LIMIT 1) AS l ON true
    LEFT JOIN LATERAL (
        SELECT s.schedule
        FROM pg_catalog.unnest(v.names) WITH ORDINALITY AS name(known_as, position)
        CROSS JOIN LATERAL (SELECT s AS schedule, s.view_name FROM %1$I.materialized_view_refresh_schedule AS s WHERE s.view_name = name.known_as LIMIT 1) AS s
        WHERE s.view_name = v.names[1] OR v.plain OR %1$I.materialized_view_oid(s.view_name) = c.oid
        ORDER BY name.position LIMIT 1) AS s ON true
    LEFT JOIN %1$I.materialized_view_refresh_state AS st ON st.view_name = v.names[1]
    CROSS JOIN LATERAL (SELECT EXISTS (
        SELECT FROM %1$I.materialized_view_refresh_history AS h
        WHERE h.view_name = v.names[1] AND h.outcome = 'running'
          AND h.heartbeat_at BETWEEN pg_catalog.clock_timestamp() - %1$I.materialized_view_attempt_timeout()
                                 AND pg_catalog.clock_timestamp() + %1$I.materialized_view_attempt_timeout()) AS running) AS attempt
    CROSS JOIN LATERAL %1$I.materialized_view_freshness_row(
        c.oid, v.names[1], n.nspname::text, c.relname::text, c.relispopulated, c.relfilenode, c.xmin,
        l.view_name, l.last_refreshed_at, l.refresh_duration_ms, l.total_jobs, l.total_objects,
        s.schedule, attempt.running,
        st.view_name, st.next_run_at, st.consecutive_failures, st.last_attempt_at, st.last_outcome, st.last_error,
        st.data_as_of, st.view_oid, st.view_filenode, st.view_xmin, st.logged_refreshed_at, st.logged_duration_ms, st.size_bytes,
        replicated.log, replicated.state, clock.now) AS f
    WHERE c.oid = $1 AND c.relkind = 'm'
$body$
$create$, current_schema());
END
$$;
