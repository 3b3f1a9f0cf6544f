-- The tables that the view of OID $1 reads, also through plain views and partitions,
-- with their files, and those plain views. It stops at materialized views: their
-- rows are frozen, so that every snapshot sees all of a new file. What only a
-- function reads is in no catalog. It locks nothing but catalogs.
WITH RECURSIVE reads(relid, relkind) AS (
    SELECT $1::oid, 'v'::"char"
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
SELECT c.oid, n.nspname::text, c.relname::text,
       CASE c.relkind WHEN 'v' THEN (SELECT max(w.xmin::text::bigint)::oid FROM pg_rewrite AS w WHERE w.ev_class = c.oid) ELSE c.relfilenode END
FROM reads
JOIN pg_class AS c ON c.oid = reads.relid AND c.relkind IN ('r', 'p', 'v') AND c.oid <> $1
JOIN pg_namespace AS n ON n.oid = c.relnamespace
