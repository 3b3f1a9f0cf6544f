-- Views and functions are dropped and created again, so that a release can add, remove
-- and reorder their columns. Their owners and grants are noted here and restored by
-- repeatable/5_grants.sql. This comes before any change of a table: a reader locks the
-- view first and then its tables.
DO $$
DECLARE
    -- All that was ever ours, dependents first.
    ours CONSTANT text[] := ARRAY[
        'materialized_view_freshness_of', 'materialized_view_freshness', 'materialized_view_freshness_row',
        'materialized_view_names', 'materialized_view_known_as', 'materialized_view_is_ambiguous', 'materialized_view_oid', 'materialized_view_replicated',
        'materialized_view_refresh_log_rows', 'materialized_view_upstreams', 'materialized_view_name', 'materialized_view_quote', 'materialized_view_quote_pinned',
        'materialized_view_attempt_timeout', 'materialized_view_server_is_tested'];
    noted  jsonb := '[]';
    found  RECORD;
    detail text;
BEGIN
    FOR found IN
        SELECT o.n, o.name, 'VIEW' AS kind, quote_ident(c.relname) AS signature, c.relowner AS owner, c.relacl::text AS acl,
               (SELECT jsonb_object_agg(a.attname, a.attacl::text) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL) AS columns
        FROM unnest(ours) WITH ORDINALITY AS o(name, n)
        JOIN pg_class AS c ON c.relname = o.name AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND c.relkind = 'v'
        UNION ALL
        SELECT o.n, o.name, 'FUNCTION', p.oid::regprocedure::text, p.proowner, p.proacl::text, NULL
        FROM unnest(ours) WITH ORDINALITY AS o(name, n)
        JOIN pg_proc AS p ON p.proname = o.name AND p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
        ORDER BY n
    LOOP
        noted := noted || jsonb_build_object('name', found.name, 'owner', found.owner::regrole, 'acl', found.acl, 'columns', found.columns);
        EXECUTE format('DROP %s %s', found.kind, found.signature);
    END LOOP;
    PERFORM set_config('matview.dropped', noted::text, false);
EXCEPTION WHEN dependent_objects_still_exist THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
        MESSAGE = SQLERRM, DETAIL = detail,
        HINT = 'The views and functions of matview are dropped and created again. Drop what depends on them first, and create it again afterwards.';
END
$$;
