-- The fingerprint of all that a materialized view's query reads: if it equals an
-- earlier one, the query would give what it gave then, as far as changes have been
-- counted. It reads catalogs and counters only and locks nothing.
--
-- @inputs is what query_inputs.sql found, as JSON. Hashes are sha256: md5 fails on a
-- server in FIPS mode.
WITH RECURSIVE watched AS MATERIALIZED (
    SELECT key, value::oid AS oid
    FROM jsonb_each(@inputs::jsonb) AS lists(key, list)
    CROSS JOIN LATERAL jsonb_array_elements_text(CASE WHEN jsonb_typeof(list) = 'array' THEN list ELSE '[]' END) AS value
),
-- Each with its partitions or child tables.
members(top, oid) AS (
    SELECT oid, oid FROM watched WHERE key = 'relations'
    UNION
    SELECT m.top, i.inhrelid FROM members AS m JOIN pg_inherits AS i ON i.inhparent = m.oid
),
fingerprint(key, value) AS (
    -- A materialized view's row changes with each refresh; its own rows are not counted.
    SELECT {name}(n.nspname, t.relname),
           string_agg(concat_ws(' ', c.oid, c.relfilenode, c.xmin,
               CASE WHEN c.relkind = 'v' THEN (SELECT string_agg(w.oid || ':' || w.xmin, ',' ORDER BY w.oid) FROM pg_rewrite AS w WHERE w.ev_class = c.oid) END,
               (SELECT string_agg(a.xmin::text, ',' ORDER BY a.attnum) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0),
               CASE WHEN c.relhassubclass THEN (SELECT string_agg(i.inhrelid || ':' || i.xmin, ',' ORDER BY i.inhrelid) FROM pg_inherits AS i WHERE i.inhparent = c.oid) END,
               CASE WHEN c.relkind = 'r' THEN concat_ws('/', pg_stat_get_tuples_inserted(c.oid), pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_deleted(c.oid)) END),
               ',' ORDER BY c.oid)
    FROM members AS m
    JOIN pg_class AS c ON c.oid = m.oid
    JOIN pg_class AS t ON t.oid = m.top
    JOIN pg_namespace AS n ON n.oid = t.relnamespace
    GROUP BY t.oid, t.relname, n.nspname
    UNION ALL
    SELECT '=a function or operator that it uses', string_agg(concat_ws(' ', f.oid, f.row_xmin), ',' ORDER BY f.oid, f.row_xmin)
    FROM (SELECT p.oid, p.xmin::text AS row_xmin FROM watched AS w JOIN pg_proc AS p ON p.oid = w.oid WHERE w.key = 'functions'
          UNION ALL
          SELECT o.oid, o.xmin::text FROM watched AS w JOIN pg_operator AS o ON o.oid = w.oid WHERE w.key = 'operators') AS f
    UNION ALL
    SELECT '=an extension', string_agg(concat_ws(' ', oid, xmin), ',' ORDER BY oid) FROM pg_extension
    UNION ALL
    SELECT '=an enum type', string_agg(concat_ws(' ', oid, xmin), ',' ORDER BY oid) FROM pg_enum
    UNION ALL
    SELECT '=the version of a collation', string_agg(concat_ws(' ', c.oid, c.version), ',' ORDER BY c.oid)
    FROM (SELECT oid, pg_database_collation_actual_version(oid) AS version FROM pg_database WHERE datname = current_database()
          UNION ALL
          SELECT c.oid, concat_ws(' ', c.xmin, pg_collation_actual_version(c.oid))
          FROM watched AS w JOIN pg_collation AS c ON c.oid = w.oid WHERE w.key = 'collations') AS c
    UNION ALL
    -- Functions that are marked immutable depend on these all the same.
    SELECT '=a setting', concat_ws(' ', current_setting('extra_float_digits'), current_setting('bytea_output'), current_setting('IntervalStyle'),
                                   current_setting('xmloption'), current_setting('xmlbinary'), current_setting('server_version_num'))
    UNION ALL
    -- Counters start anew after a crash, which leaves the start time as it was,
    -- or on request. A standby that took over has counted for itself.
    SELECT '=the server', concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()), extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()),
                                    extract(epoch FROM pg_stat_get_db_stat_reset_time(d.oid)), d.oid,
                                    CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END)
    FROM pg_database AS d WHERE d.datname = current_database()
)
SELECT (SELECT jsonb_object_agg(key, coalesce(encode(sha256(convert_to(value, 'UTF8')), 'hex'), '')) FROM fingerprint)
