-- The owners and grants of what drop.sql dropped are restored exactly: default
-- privileges may have given the new objects others.
DO $$
DECLARE
    made RECORD;
    item RECORD;
BEGIN
    FOR made IN
        SELECT 'TABLE' AS kind, c.oid::regclass::text AS object, c.relowner AS owner, c.relacl AS acl,
               noted.owner AS was_owned_by, noted.acl::aclitem[] AS had, noted.columns AS had_on_columns, c.oid
        FROM jsonb_to_recordset(current_setting('matview.dropped')::jsonb) AS noted(name text, owner text, acl text, columns jsonb)
        JOIN pg_class AS c ON c.relname = noted.name AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)),
               noted.owner, coalesce(noted.acl::aclitem[], acldefault('f', p.proowner)), NULL, p.oid
        FROM jsonb_to_recordset(current_setting('matview.dropped')::jsonb) AS noted(name text, owner text, acl text, columns jsonb)
        JOIN pg_proc AS p ON p.proname = noted.name AND p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
    LOOP
        IF made.was_owned_by::regrole <> made.owner THEN
            EXECUTE format('ALTER %s %s OWNER TO %s', replace(made.kind, 'TABLE', 'VIEW'), made.object, made.was_owned_by);
        END IF;
        FOR item IN
            SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
            FROM aclexplode(made.acl) AS a WHERE a.grantee <> made.was_owned_by::regrole
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s', made.kind, made.object, item.grantee);
        END LOOP;
        FOR item IN
            SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.privilege_type AS right_, a.is_grantable, '' AS of_column
            FROM aclexplode(made.had) AS a WHERE a.grantee <> made.was_owned_by::regrole
            UNION ALL
            SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, a.privilege_type, a.is_grantable, format(' (%I)', c.attname)
            FROM jsonb_each_text(made.had_on_columns) AS had(attname, acl)
            JOIN pg_attribute AS c ON c.attrelid = made.oid AND c.attname = had.attname -- others are gone
            CROSS JOIN LATERAL aclexplode(had.acl::aclitem[]) AS a
        LOOP
            EXECUTE format('GRANT %s%s ON %s %s TO %s%s', item.right_, item.of_column, made.kind, made.object, item.grantee,
                           CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        END LOOP;
    END LOOP;
    PERFORM set_config('matview.dropped', '', false);
END
$$;

-- A log that was dropped and created again has lost its grants: whoever may
-- write our state may write the log, and whoever may read freshness, read it.
DO $$
DECLARE
    lost RECORD;
BEGIN
    FOR lost IN
        SELECT DISTINCT
               CASE WHEN c.relkind = 'v' THEN 'SELECT' ELSE 'SELECT, INSERT, UPDATE, DELETE' END AS privileges,
               CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        JOIN pg_class AS l ON l.oid = to_regclass('materialized_view_refresh_log')
        WHERE (c.oid = to_regclass('materialized_view_refresh_state') AND a.privilege_type = 'INSERT'
               OR c.oid = to_regclass('materialized_view_freshness') AND a.privilege_type = 'SELECT')
          AND a.grantee <> c.relowner
          AND pg_has_role(l.relowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT %s ON materialized_view_refresh_log TO %s', lost.privileges, lost.grantee);
    END LOOP;
END
$$;
