-- The pairs of a materialized view and one that its query reads, itself or through
-- plain views.
--
-- Set-based, and without materialized_view_names and materialized_view_upstreams,
-- which take a hundred times as long for ten thousand views.
WITH RECURSIVE edge AS MATERIALIZED (
    SELECT DISTINCT r.ev_class AS reader, c.oid AS relid, c.relkind
    FROM pg_rewrite AS r
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
), reads(view, relid, relkind) AS (
    SELECT e.reader, e.relid, e.relkind FROM edge AS e JOIN pg_class AS v ON v.oid = e.reader AND v.relkind = 'm'
    UNION
    SELECT reads.view, e.relid, e.relkind FROM reads JOIN edge AS e ON e.reader = reads.relid WHERE reads.relkind = 'v'
), names AS MATERIALIZED (
    SELECT c.oid, {name}(n.nspname, c.relname) AS view_name
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'm'
)
SELECT v.view_name, u.view_name
FROM reads JOIN names AS v ON v.oid = reads.view JOIN names AS u ON u.oid = reads.relid
WHERE reads.relkind = 'm'
ORDER BY 1, 2
