-- Refreshes by others (psql, pg_cron, a Lambda function) are recorded by an event
-- trigger, if that is asked for: by Terraform, by `matview-exporter migrate
-- --track-external-refreshes`, or for `psql -f` with
-- PGOPTIONS='-c matview.track_external_refreshes=on'. Otherwise it stays as it was.
INSERT INTO materialized_view_refresh_settings DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Both functions run within the REFRESH of anyone, with the rights of their
-- owner. So every name in them is qualified, and nobody else may call the second.
--
-- A view that REFRESH reads may be refreshed itself between REFRESH's snapshot
-- and its end. So the upstreams' as-of is needed as that snapshot had it, and as
-- it is at the end. An event trigger is called with that very snapshot active,
-- and a function that is STABLE reads by it: hence two functions, as such a
-- function may write nothing.
DO $$
BEGIN
    EXECUTE format($create$
CREATE OR REPLACE FUNCTION %1$I.materialized_view_refresh_tracked()
RETURNS event_trigger LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- The lock on a row of ours is worth no more of somebody else's time.
SET lock_timeout = '50ms' AS $body$
DECLARE
    refreshed OID;
BEGIN
    -- Our own programs record their refreshes themselves. Anybody can set this;
    -- whoever does leaves a view that shows as changed_outside.
    IF current_setting('matview.own', true) = txid_current()::text THEN
        RETURN;
    END IF;
    -- Whoever owns the function may have made it SECURITY INVOKER, and the tables
    -- that it writes may have triggers of others.
    IF (SELECT pg_get_userbyid(proowner) FROM pg_proc
        WHERE oid = to_regprocedure(format('%%I.materialized_view_refresh_tracked()', %1$L))) <> current_user THEN
        RETURN;
    END IF;
    FOR refreshed IN SELECT objid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass LOOP
        -- TRUNCATE, and ALTER TABLE where it rewrites, are not MVCC-safe: of a table
        -- that got another file after its snapshot, REFRESH saw neither the old rows
        -- nor the new. Nor did it where a partition was exchanged for a new one. Of
        -- which moment the view is then, nobody can say. (Of files and of partitions
        -- these functions know the present; the catalogs here are as of the snapshot.)
        CONTINUE WHEN EXISTS (
            WITH RECURSIVE reads(relid, relkind) AS (
                SELECT refreshed, 'v'::"char"
                UNION
                SELECT c.oid, c.relkind
                FROM reads
                CROSS JOIN LATERAL (
                    SELECT d.refobjid
                    FROM pg_rewrite AS r
                    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> reads.relid
                    WHERE reads.relkind = 'v' AND r.ev_class = reads.relid
                    UNION ALL
                    SELECT i.inhrelid FROM pg_inherits AS i WHERE reads.relkind <> 'v' AND i.inhparent = reads.relid
                ) AS next(relid)
                JOIN pg_class AS c ON c.oid = next.relid AND c.relkind IN ('r', 'p', 'v')
            )
            SELECT FROM reads JOIN pg_class AS c ON c.oid = reads.relid
            WHERE c.relkind = 'r' AND c.relfilenode <> 0 AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid)::oid
               OR c.relispartition AND NOT EXISTS (SELECT FROM pg_partition_ancestors(c.oid) AS a(relid)
                                                   JOIN pg_inherits AS i ON i.inhrelid = c.oid AND i.inhparent = a.relid));
        PERFORM %1$I.materialized_view_refresh_record_external(
            refreshed,
            (SELECT relfilenode FROM pg_class WHERE oid = refreshed),
            -- They are read for a view that has any only, and in a serializable
            -- transaction not at all: having read our tables might cost it a
            -- serialization failure. Of one that was refreshed since the snapshot, the
            -- read model says nothing; the record that the snapshot shows does.
            (SELECT jsonb_object_agg(u.oid, coalesce(
                 (SELECT f.data_as_of FROM %1$I.materialized_view_freshness AS f WHERE f.view_oid = u.oid),
                 (SELECT st.data_as_of FROM %1$I.materialized_view_refresh_state AS st JOIN pg_class AS c ON c.oid = st.view_oid
                  WHERE st.view_oid = u.oid AND st.view_filenode = c.relfilenode AND st.view_xmin = c.xmin
                    AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid) AND st.data_as_of <= clock_timestamp())))
             FROM %1$I.materialized_view_upstreams(refreshed) AS u(oid)
             WHERE current_setting('transaction_isolation') <> 'serializable'));
    END LOOP;
-- Whatever goes wrong here is no reason for somebody's REFRESH to fail: without
-- a record the view shows as changed_outside. OTHERS leaves out their own cancel
-- and statement_timeout.
EXCEPTION WHEN OTHERS OR assert_failure THEN
    RETURN;
END
$body$
$create$, current_schema());

    EXECUTE format($create$
CREATE OR REPLACE FUNCTION %1$I.materialized_view_refresh_record_external(view_oid OID, filenode_before OID, upstreams_before JSONB)
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $body$
#variable_conflict use_column
DECLARE
    isolation   CONSTANT text := current_setting('transaction_isolation');
    -- REFRESH's snapshot is later than this. Under READ COMMITTED that is taken
    -- when the statement begins; now() is later than the statement in a procedure
    -- that has committed. Above it is the transaction's.
    started     CONSTANT timestamptz := CASE WHEN isolation LIKE 'read %%' THEN greatest(statement_timestamp(), now()) ELSE now() END;
    finished    CONSTANT timestamptz := clock_timestamp();
    duration    CONSTANT bigint := ceil(extract(epoch FROM finished - started) * 1000);
    as_of       timestamptz := started;
    method      text;
    warning     text;
    may_lack_rows boolean;
    view        RECORD;
    logged_at   timestamptz;
    logged_ms   integer;
BEGIN
    SELECT %1$I.materialized_view_name(n.nspname, c.relname) AS view_name,
           c.relfilenode, c.xmin, c.relispopulated
    INTO view
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = view_oid AND c.relkind = 'm';
    IF NOT FOUND OR NOT view.relispopulated THEN -- WITH NO DATA
        RETURN;
    END IF;

    -- A transaction above READ COMMITTED may have begun with the snapshot of
    -- another one (SET TRANSACTION SNAPSHOT), older than itself. Not if this is
    -- its first statement; else the snapshot is later than what it shows others
    -- to have committed.
    IF isolation NOT LIKE 'read %%' AND (now() <> statement_timestamp() OR current_query() ~* 'snapshot') THEN
        as_of := NULL;
        IF isolation <> 'serializable' THEN
            SELECT h.started_at INTO as_of FROM %1$I.materialized_view_refresh_history AS h
            WHERE h.started_at < now() ORDER BY h.started_at DESC LIMIT 1;
        END IF;
    END IF;

    -- The oldest of its own and its upstreams'; unknown if one of them is.
    IF EXISTS (SELECT FROM %1$I.materialized_view_upstreams(view_oid)) THEN
        IF isolation = 'serializable' THEN
            as_of := NULL;
        ELSE
            SELECT CASE WHEN bool_and(f.data_as_of IS NOT NULL AND b.data_as_of IS NOT NULL
                                      -- What replaced its rows after an old snapshot is read, but not seen in here.
                                      AND pg_relation_filenode(u.oid) = (SELECT c.relfilenode FROM pg_class AS c WHERE c.oid = u.oid))
                             AND as_of IS NOT NULL
                        THEN least(as_of, min(f.data_as_of), min(b.data_as_of)) END
            INTO as_of
            FROM %1$I.materialized_view_upstreams(view_oid) AS u(oid)
            LEFT JOIN %1$I.materialized_view_freshness AS f ON f.view_oid = u.oid
            LEFT JOIN LATERAL (SELECT (upstreams_before ->> u.oid::text)::timestamptz AS data_as_of) AS b ON true;
        END IF;
    END IF;

    -- CONCURRENTLY keeps the file node.
    IF view.relfilenode = filenode_before THEN
        method := 'concurrently';
    ELSIF current_query() ~* '^\s*refresh\s+materialized\s+view\s' AND current_query() !~* 'concurrently' THEN
        method := 'blocking';
    END IF;

    -- CONCURRENTLY keeps one of several equal rows if they contain a null, and a
    -- trigger has no means to prove that the query returns none. Without the right to
    -- read the view it may contain nulls.
    -- What waited behind somebody's blocking refresh has another file than its snapshot shows.
    IF method IS DISTINCT FROM 'blocking' THEN
        may_lack_rows := true;
        IF has_table_privilege(view_oid, 'SELECT') THEN
            EXECUTE (SELECT format('SELECT EXISTS (SELECT FROM %%s WHERE NOT ROW(%%s) IS NOT NULL)', view_oid::regclass, string_agg(quote_ident(attname), ', '))
                     FROM pg_attribute WHERE attrelid = view_oid AND attnum > 0 AND NOT attisdropped)
            INTO may_lack_rows;
        END IF;
        IF may_lack_rows THEN
            as_of := NULL;
            warning := 'its data is of an unknown time, since the refresh may have lost rows: of equal rows that contain a null, CONCURRENTLY keeps one only; refresh it by matview-exporter, or blocking';
        END IF;
    END IF;

    -- In the order of our own record.
    INSERT INTO %1$I.materialized_view_refresh_history
        (view_name, trigger, method, outcome, started_at, data_as_of, finished_at, duration_ms, warning, attempted_by)
    VALUES (view.view_name, 'external', method, 'succeeded', started, as_of, finished, duration, warning, session_user);

    IF to_regclass(format('%%I.materialized_view_refresh_log', %1$L)) IS NOT NULL THEN
        INSERT INTO %1$I.materialized_view_refresh_log AS l
            (view_name, last_refreshed_at, refresh_duration_ms, total_jobs, total_objects)
        -- Readers of the log take last_refreshed_at less the duration for the as-of.
        VALUES (view.view_name, finished, CASE WHEN as_of = started THEN least(duration, 2147483647) END, NULL, NULL)
        ON CONFLICT (view_name) DO UPDATE SET
            last_refreshed_at = EXCLUDED.last_refreshed_at, refresh_duration_ms = EXCLUDED.refresh_duration_ms,
            total_jobs = NULL, total_objects = NULL
        RETURNING l.last_refreshed_at, l.refresh_duration_ms INTO logged_at, logged_ms;
    END IF;

    INSERT INTO %1$I.materialized_view_refresh_state AS s
        (view_name, last_attempt_at, last_outcome, data_as_of, view_oid, view_filenode, view_xmin,
         logged_refreshed_at, logged_duration_ms, size_bytes)
    VALUES (view.view_name, started, 'succeeded', as_of, view_oid, view.relfilenode, view.xmin,
            logged_at, logged_ms, pg_total_relation_size(view_oid))
    ON CONFLICT (view_name) DO UPDATE SET
        consecutive_failures = 0, last_attempt_at = EXCLUDED.last_attempt_at, last_outcome = EXCLUDED.last_outcome, last_error = NULL,
        data_as_of = EXCLUDED.data_as_of, view_oid = EXCLUDED.view_oid, view_filenode = EXCLUDED.view_filenode, view_xmin = EXCLUDED.view_xmin,
        logged_refreshed_at = EXCLUDED.logged_refreshed_at, logged_duration_ms = EXCLUDED.logged_duration_ms,
        size_bytes = EXCLUDED.size_bytes, change_counters = NULL;
END
$body$
$create$, current_schema());
END
$$;

REVOKE ALL ON FUNCTION materialized_view_refresh_record_external(OID, OID, JSONB) FROM PUBLIC;

DO $$
DECLARE
    -- Event triggers belong to no schema.
    trigger_name CONSTANT text := 'materialized_view_refresh_tracked' || CASE WHEN current_schema() = 'public' THEN '' ELSE '_' || left(encode(sha256(convert_to(current_schema(), 'UTF8')), 'hex'), 8) END;
    wanted     boolean;
    settings   regrole;
    log        regrole;
    runs_as    regrole;
    existing   RECORD;
    f          regprocedure;
BEGIN
    wanted := nullif(current_setting('matview.track_external_refreshes', true), '');
    UPDATE materialized_view_refresh_settings SET track_external_refreshes = wanted WHERE track_external_refreshes <> wanted;
    SELECT track_external_refreshes INTO wanted FROM materialized_view_refresh_settings;
    SELECT relowner INTO settings FROM pg_class WHERE oid = 'materialized_view_refresh_settings'::regclass;
    SELECT relowner INTO log FROM pg_class WHERE oid = to_regclass('materialized_view_refresh_log');

    -- Triggers and defaults of the tables written run with the rights of the
    -- writer. An adopted log may belong to somebody else, who must not get those
    -- of a superuser that made the rest, nor the other way about.
    runs_as := CASE WHEN wanted AND (SELECT rolsuper FROM pg_roles WHERE oid = settings)
                         AND NOT coalesce((SELECT rolsuper FROM pg_roles WHERE oid = log), true) THEN log
                    ELSE settings END;
    FOREACH f IN ARRAY ARRAY['materialized_view_refresh_tracked()', 'materialized_view_refresh_record_external(oid, oid, jsonb)']::regprocedure[] LOOP
        IF (SELECT proowner FROM pg_proc WHERE oid = f) <> runs_as THEN
            EXECUTE format('ALTER FUNCTION %s OWNER TO %s', f, runs_as);
        END IF;
    END LOOP;
    IF wanted AND settings IS DISTINCT FROM log THEN
        IF NOT has_schema_privilege(runs_as, current_schema(), 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', current_schema(), runs_as);
        END IF;
        IF runs_as = settings THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE ON materialized_view_refresh_log TO %s', runs_as);
        ELSE
            EXECUTE format('GRANT SELECT ON materialized_view_freshness TO %s', runs_as);
            EXECUTE format('GRANT EXECUTE ON FUNCTION materialized_view_refresh_log_rows, materialized_view_upstreams, materialized_view_name, materialized_view_quote, materialized_view_quote_pinned,
                materialized_view_known_as, materialized_view_is_ambiguous, materialized_view_oid, materialized_view_replicated, materialized_view_freshness_row, materialized_view_freshness_of,
                materialized_view_attempt_timeout, materialized_view_server_is_tested TO %s', runs_as);
            EXECUTE format('GRANT SELECT, INSERT ON materialized_view_refresh_history TO %s', runs_as);
            EXECUTE format('GRANT SELECT, INSERT, UPDATE ON materialized_view_refresh_state TO %s', runs_as);
        END IF;
    END IF;

    FOR existing IN
        SELECT evtname FROM pg_event_trigger
        WHERE evtfoid = 'materialized_view_refresh_tracked()'::regprocedure
          AND (NOT wanted OR evtname <> trigger_name OR evtevent <> 'ddl_command_end' OR evttags IS DISTINCT FROM ARRAY['REFRESH MATERIALIZED VIEW'])
    LOOP
        EXECUTE format('DROP EVENT TRIGGER %I', existing.evtname);
    END LOOP;
    IF NOT wanted THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = trigger_name AND evtfoid = 'materialized_view_refresh_tracked()'::regprocedure) THEN
        EXECUTE format('CREATE EVENT TRIGGER %I ON ddl_command_end WHEN TAG IN (''REFRESH MATERIALIZED VIEW'') EXECUTE FUNCTION materialized_view_refresh_tracked()', trigger_name);
    END IF;
    -- ALWAYS, also in sessions that apply what another server has replicated.
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = trigger_name AND evtenabled = 'A') THEN
        EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', trigger_name);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION USING ERRCODE = 'MV001',
        MESSAGE = format('tracking external refreshes requires an event trigger, which role %I may not create or change: %s', current_user, SQLERRM),
        HINT = 'Do this once as a superuser (on Amazon RDS and Aurora, as the master user or another member of rds_superuser), or leave track_external_refreshes off.';
END
$$;
