-- What the query of a materialized view reads and calls, for query_fingerprint.sql
-- to watch, and the first reason, if there is one, why its result might change
-- without a trace there. All of it follows from catalog rows that are watched.
--
-- $1 is the view's OID. It reads catalogs only and locks nothing.
WITH RECURSIVE
-- The rules of the view and of the plain views behind it name what they read
-- (:relid). pg_depend would not do: it leaves out what initdb made.
read(relid, kind, is_child) AS (
    SELECT $1::oid, 'v'::"char", true
    UNION
    SELECT c.oid, c.relkind, n.is_child
    FROM read AS r
    CROSS JOIN LATERAL (
        SELECT m[1]::oid AS relid, false AS is_child
        FROM pg_rewrite AS w, regexp_matches(w.ev_action::text, ':relid (\d+)', 'g') AS m
        WHERE r.kind = 'v' AND w.ev_class = r.relid
        UNION ALL
        SELECT i.inhrelid, true FROM pg_inherits AS i WHERE r.kind IN ('r', 'p', 'f') AND i.inhparent = r.relid
    ) AS n
    JOIN pg_class AS c ON c.oid = n.relid
    WHERE c.oid <> $1
),
relations AS MATERIALIZED (
    SELECT DISTINCT c.oid, {name}(n.nspname, c.relname) AS name, c.relkind, c.relpersistence, c.relrowsecurity,
           c.relam
    FROM read AS r
    JOIN pg_class AS c ON c.oid = r.relid AND c.oid <> $1
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
),
rules AS MATERIALIZED (
    SELECT w.ev_action::text AS tree
    FROM pg_rewrite AS w
    WHERE w.ev_class = $1 OR w.ev_class IN (SELECT oid FROM relations WHERE relkind = 'v')
),
-- What the parse trees name: the tag of each node, and the field in which an
-- object's OID is.
nodes AS MATERIALIZED (
    SELECT DISTINCT m[1] AS tag, m[2] AS field, m[3]::oid AS oid
    FROM rules,
         regexp_matches(tree, '\{([A-Z]+)|:(funcid|aggfnoid|winfnoid|opno|eqop|sortop|[a-z]*(?:colli|Colli|Coll|coll)[a-z]*) (\d+)', 'g') AS m
),
operators AS MATERIALIZED (
    SELECT o.oid, o.oprcode::oid
    FROM pg_operator AS o
    WHERE o.oid IN (SELECT oid FROM nodes WHERE field IN ('opno', 'eqop', 'sortop')
                    UNION ALL
                    SELECT unnest(string_to_array(m[1], ' ')::oid[]) FROM rules, regexp_matches(tree, ':opnos \(o ([\d ]+)\)', 'g') AS m)
),
-- A cast by way of the text of a value calls the output function of one type and
-- the input function of another. The cast does not name the first, but the node
-- inside it does; where it is not among the first fields, the type is unknown.
casts AS MATERIALIZED (
    SELECT DISTINCT (regexp_match(m[1], ':(?:vartype|consttype|typeId|funcresulttype|opresulttype|aggtype|wintype|refrestype|casetype|coalescetype|minmaxtype|array_typeid|row_typeid) (\d+)'))[1]::oid AS type, true AS is_output
    FROM rules, regexp_matches(tree, '\{COERCEVIAIO :arg \{([^{}]*)', 'g') AS m
    UNION
    SELECT m[1]::oid, false FROM rules, regexp_matches(tree, ':resulttype (\d+) :resultcollid \d+ :coerceformat', 'g') AS m
),
functions AS MATERIALIZED (
    SELECT p.oid, p.oid::regprocedure::text AS name, p.provolatile, p.proargtypes,
           l.lanname AS language
    FROM pg_proc AS p
    JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.oid IN (
        SELECT oid FROM nodes WHERE field IN ('funcid', 'aggfnoid', 'winfnoid')
        UNION ALL SELECT oprcode FROM operators
        UNION ALL
        SELECT f FROM pg_aggregate AS a,
               unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) AS f
        WHERE a.aggfnoid IN (SELECT oid FROM nodes WHERE field IN ('aggfnoid', 'winfnoid'))
        -- enum_in and enum_out depend on pg_enum alone, which is watched.
        UNION ALL
        SELECT CASE WHEN k.is_output THEN t.typoutput ELSE t.typinput END::oid
        FROM casts AS k
        JOIN pg_type AS t ON t.oid = k.type AND t.typtype <> 'e'
    )
),
doubts(rank, reason) AS (
    SELECT 1, CASE
        WHEN oid < 16384 THEN format('it reads the system catalog %s, whose changes are not counted', name)
        WHEN relkind = 'f' THEN format('it reads the foreign table %s, whose changes this server does not see', name)
        WHEN relkind = 'S' THEN format('it reads the sequence %s, whose changes are not counted', name)
        WHEN relrowsecurity THEN format('it reads %s, whose row security may show other rows each time', name)
        WHEN relpersistence = 'u' THEN format('it reads the unlogged table %s, which a crash empties', name)
        WHEN EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = r.oid) THEN format('it reads %s, which a subscription fills', name)
        WHEN relkind NOT IN ('r', 'p', 'v', 'm') THEN format('it reads %s, a relation of kind %s', name, relkind)
        WHEN relkind IN ('r', 'm') AND NOT EXISTS (SELECT FROM pg_am AS a WHERE a.oid = r.relam AND a.amhandler = 'pg_catalog.heap_tableam_handler'::regproc)
            THEN format('it reads %s, whose access method may not count changes', name)
        END
    FROM relations AS r
    UNION ALL
    -- The node types that can be judged by the functions and operators that they name.
    -- A PARAM is the column of the subquery of IN, ANY or ALL: a view has no others.
    SELECT 2, CASE tag
        WHEN 'TABLESAMPLECLAUSE' THEN 'it has a TABLESAMPLE, which may pick other rows each time'
        WHEN 'SQLVALUEFUNCTION' THEN 'it reads the current time or user, such as current_date'
        WHEN 'XMLEXPR' THEN 'it uses an XML function, and whether that gives the same result each time is not known'
        WHEN 'TABLEFUNC' THEN 'it uses XMLTABLE or JSON_TABLE, and whether that gives the same result each time is not known'
        ELSE CASE WHEN tag LIKE 'JSON%' THEN 'it uses an SQL/JSON function, and whether that gives the same result each time is not known'
                  ELSE 'it uses syntax of which it is not known whether it gives the same result each time' END
        END
    FROM nodes
    WHERE tag <> ALL (ARRAY[
        'AGGREF', 'ALIAS', 'ARRAYCOERCEEXPR', 'ARRAYEXPR', 'BOOLEANTEST', 'BOOLEXPR', 'CASEEXPR', 'CASETESTEXPR', 'CASEWHEN',
        'COALESCEEXPR', 'COERCETODOMAIN', 'COERCEVIAIO', 'COLLATEEXPR', 'COMMONTABLEEXPR', 'CONST', 'CONVERTROWTYPEEXPR', 'CTECYCLECLAUSE',
        'CTESEARCHCLAUSE', 'DISTINCTEXPR', 'FIELDSELECT', 'FROMEXPR', 'FUNCEXPR', 'GROUPINGFUNC', 'GROUPINGSET', 'JOINEXPR',
        'MINMAXEXPR', 'NAMEDARGEXPR', 'NULLIFEXPR', 'NULLTEST', 'OPEXPR', 'PARAM', 'QUERY', 'RANGETBLENTRY', 'RANGETBLFUNCTION', 'RANGETBLREF',
        'RELABELTYPE', 'ROWCOMPAREEXPR', 'ROWEXPR', 'RTEPERMISSIONINFO', 'SCALARARRAYOPEXPR', 'SETOPERATIONSTMT', 'SORTGROUPCLAUSE',
        'SUBLINK', 'SUBSCRIPTINGREF', 'TARGETENTRY', 'VAR', 'WINDOWCLAUSE', 'WINDOWFUNC'])
    UNION ALL
    SELECT 3, 'it reads a system column such as ctid or xmin, which may change on its own'
    FROM rules WHERE tree ~ ':varattno -[1-5] '
    UNION ALL
    SELECT 4, CASE
        WHEN provolatile = 'v' THEN format('it calls %s, which may give another result each time', name)
        WHEN provolatile = 's' THEN format('it calls %s, whose result depends on more than the data, such as the time zone or the clock', name)
        WHEN language NOT IN ('internal', 'c') THEN format('it calls %s, written in %s, which may read tables', name, language)
        WHEN proargtypes::oid[] && '{3734,3769}'::oid[] THEN format('it calls %s, which depends on a text search configuration', name)
        END
    FROM functions
    UNION ALL
    SELECT 5, 'it casts a value of a type that is not known here to or from text'
    WHERE EXISTS (SELECT FROM casts WHERE type IS NULL)
)
SELECT coalesce((SELECT reason FROM doubts WHERE reason IS NOT NULL ORDER BY rank, reason LIMIT 1), ''),
       ARRAY(SELECT DISTINCT relid FROM read WHERE NOT is_child),
       ARRAY(SELECT oid FROM functions),
       ARRAY(SELECT oid FROM operators),
       ARRAY(SELECT DISTINCT oid FROM nodes WHERE field ~ 'oll'),
       EXISTS (SELECT FROM relations WHERE relkind = 'm')
