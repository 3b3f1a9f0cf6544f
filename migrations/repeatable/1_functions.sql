-- The log may be dropped and created again by its users while everything else
-- stays. Nothing may depend on it, or that DROP TABLE would fail: it is read
-- through this function, which is empty while the log is missing. It gives the rows
-- of these names, or all rows without names.
--
-- Names are looked up one at a time: for an array PostgreSQL would make a new plan
-- at each call, or read the whole table. Relations are qualified because setting
-- the search_path takes longer than the lookup.
DO $$
BEGIN
    EXECUTE format($create$
CREATE FUNCTION materialized_view_refresh_log_rows(names TEXT[] DEFAULT NULL)
RETURNS TABLE (
    view_name           TEXT,
    last_refreshed_at   TIMESTAMP WITH TIME ZONE,
    refresh_duration_ms BIGINT,
    total_jobs          BIGINT,
    total_objects       BIGINT
)
LANGUAGE plpgsql STABLE ROWS 1 AS $body$
#variable_conflict use_column
DECLARE
    name text;
BEGIN
    IF pg_catalog.to_regclass(%2$L) IS NULL THEN
        RETURN;
    END IF;
    IF names IS NULL THEN
        RETURN QUERY SELECT %3$s FROM %1$I.materialized_view_refresh_log AS l;
        RETURN;
    END IF;
    FOREACH name IN ARRAY names LOOP
        CONTINUE WHEN name IS NULL;
        SELECT %3$s
        INTO view_name, last_refreshed_at, refresh_duration_ms, total_jobs, total_objects
        FROM %1$I.materialized_view_refresh_log AS l
        WHERE l.view_name = name;
        IF FOUND THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$body$
$create$, current_schema(), format('%I.materialized_view_refresh_log', current_schema()),
    -- What no clock and no stopwatch shows (infinity, a duration of years) is
    -- unknown here: one such row would end every reader's arithmetic in an error.
    $list$
        l.view_name::text,
        CASE WHEN l.last_refreshed_at >= '0002-01-01 00:00:00+00' AND l.last_refreshed_at < '9999-01-01 00:00:00+00'
             THEN l.last_refreshed_at END,
        CASE WHEN l.refresh_duration_ms BETWEEN 0 AND 2147483647 THEN l.refresh_duration_ms::bigint END,
        l.total_jobs::bigint, l.total_objects::bigint
    $list$);
END
$$;

-- An identifier, quoted where it has to be, whatever quote_all_identifiers is for the
-- session: names are stored and compared.
CREATE FUNCTION materialized_view_quote_pinned(identifier TEXT)
RETURNS TEXT LANGUAGE sql STABLE SET quote_all_identifiers = off AS $$ SELECT pg_catalog.quote_ident(identifier) $$;

-- The planner inlines this, which it cannot do with a function that has settings.
DO $$
BEGIN
    EXECUTE format($create$
CREATE FUNCTION materialized_view_quote(identifier TEXT)
RETURNS TEXT LANGUAGE sql STABLE AS $body$
    SELECT CASE pg_catalog.current_setting('quote_all_identifiers') WHEN 'off' THEN pg_catalog.quote_ident(identifier)
                ELSE %1$I.materialized_view_quote_pinned(identifier) END
$body$;

-- The canonical name of a relation: bare in schema public, else schema.name, each
-- part quoted where it has to be. The planner inlines it.
CREATE FUNCTION materialized_view_name(schema_name NAME, relation_name NAME)
RETURNS TEXT LANGUAGE sql STABLE AS $body$
    SELECT CASE WHEN schema_name = 'public' THEN '' ELSE %1$I.materialized_view_quote(schema_name) || '.' END || %1$I.materialized_view_quote(relation_name)
$body$
$create$, current_schema());
END
$$;

-- How long after its last heartbeat a running attempt counts as dead. The planner
-- inlines it.
CREATE FUNCTION materialized_view_attempt_timeout()
RETURNS INTERVAL LANGUAGE sql IMMUTABLE AS $$ SELECT INTERVAL '7 seconds' $$;

-- Whether this program has been tested with the major version of this server. Of
-- another one it does not rely on internals: that every REFRESH changes the pg_class
-- row of the view, and what parse trees look like. See TestedMajors in
-- internal/postgres/versions.go.
CREATE FUNCTION materialized_view_server_is_tested()
RETURNS BOOLEAN LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.current_setting('server_version_num')::integer / 10000 IN (13, 14, 15, 16, 17, 18)
$$;

-- A schedule changed by hand must not keep the gap of the cron it had, and a
-- running exporter wants to know at once.
CREATE OR REPLACE FUNCTION materialized_view_refresh_schedule_changed()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('matview_schedule', OLD.view_name);
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
        IF (NEW.cron, NEW.time_zone) IS DISTINCT FROM (OLD.cron, OLD.time_zone)
           AND NEW.longest_gap IS NOT DISTINCT FROM OLD.longest_gap THEN
            NEW.longest_gap := NULL;
        END IF;
    END IF;
    PERFORM pg_notify('matview_schedule', NEW.view_name);
    RETURN NEW;
END
$$;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION materialized_view_refresh_schedule_changed() SET search_path = %I, pg_temp', current_schema());
    IF NOT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = to_regclass('materialized_view_refresh_schedule')
                     AND tgname = 'materialized_view_refresh_schedule_changed') THEN
        CREATE TRIGGER materialized_view_refresh_schedule_changed
            BEFORE INSERT OR UPDATE OR DELETE ON materialized_view_refresh_schedule
            FOR EACH ROW EXECUTE FUNCTION materialized_view_refresh_schedule_changed();
    END IF;
END
$$;

-- SECURITY DEFINER: whoever records an attempt needs no privilege on the tables of
-- publication. So every name in it is qualified, and its search_path holds no schema in
-- which others may create functions or operators.
DO $$
BEGIN
    EXECUTE format($create$
CREATE OR REPLACE FUNCTION materialized_view_refresh_attempt_ended()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF TG_OP = 'INSERT' OR OLD.outcome = 'running' THEN
        INSERT INTO %1$I.materialized_view_refresh_unpublished (attempt_id, destination)
        SELECT NEW.id, destination FROM %1$I.materialized_view_refresh_publication
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$body$
$create$, current_schema());
END
$$;
REVOKE ALL ON FUNCTION materialized_view_refresh_attempt_ended() FROM PUBLIC;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = to_regclass('materialized_view_refresh_history')
                     AND tgname = 'materialized_view_refresh_attempt_ended') THEN
        CREATE TRIGGER materialized_view_refresh_attempt_ended
            AFTER INSERT OR UPDATE OF outcome ON materialized_view_refresh_history
            FOR EACH ROW WHEN (NEW.outcome <> 'running') EXECUTE FUNCTION materialized_view_refresh_attempt_ended();
    END IF;
    -- Dropping the history drops the reference to it, and with it every attempt.
    IF NOT EXISTS (SELECT FROM pg_constraint
                   WHERE conrelid = to_regclass('materialized_view_refresh_unpublished') AND contype = 'f') THEN
        DELETE FROM materialized_view_refresh_unpublished;
        ALTER TABLE materialized_view_refresh_unpublished
            ADD FOREIGN KEY (attempt_id) REFERENCES materialized_view_refresh_history ON DELETE CASCADE;
    END IF;
END
$$;
