-- The refresh log: a public contract of exactly these five columns. Other
-- programs read and upsert it, so a table that is already there stays as it is.
--
-- Every file in this folder can be run again at any later version, by
-- `matview-exporter migrate`, by Terraform or with `psql -f`, in order; the
-- objects go to the first schema of the search_path.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_log (
    view_name           TEXT PRIMARY KEY,
    last_refreshed_at   TIMESTAMP WITH TIME ZONE NOT NULL,
    refresh_duration_ms INTEGER,
    total_jobs          INTEGER,
    total_objects       BIGINT
);

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
CREATE OR REPLACE FUNCTION materialized_view_refresh_log_rows(names TEXT[] DEFAULT NULL)
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

-- The canonical name of a relation: bare in schema public, else schema.name, each
-- part as quote_ident gives it. The planner inlines it.
CREATE OR REPLACE FUNCTION materialized_view_name(schema_name NAME, relation_name NAME)
RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN schema_name = 'public' THEN pg_catalog.quote_ident(relation_name)
                ELSE pg_catalog.quote_ident(schema_name) || '.' || pg_catalog.quote_ident(relation_name) END
$$;

-- How long after its last heartbeat a running attempt counts as dead. The planner
-- inlines it.
CREATE OR REPLACE FUNCTION materialized_view_attempt_timeout()
RETURNS INTERVAL LANGUAGE sql IMMUTABLE AS $$ SELECT INTERVAL '7 seconds' $$;
