package provider

// ofView is a query for a column of the view's row in pg_class.
func ofView(column string) string {
	return "SELECT " + column + " FROM pg_class AS c WHERE relname = 'NAME' AND relkind = 'm' AND relnamespace <> 'away'::regnamespace"
}

// What is planned of a resource.
const noop, create, update, replace = "noop", "create", "update", "replace"

const (
	onlyName  = `name = "NAME"`
	plainView = onlyName + "\n" + `definition = "SELECT id, name FROM jobs"`
	anew      = "DROP MATERIALIZED VIEW NAME; CREATE MATERIALIZED VIEW NAME AS SELECT status FROM jobs"
	// columnsOfView are their names in order.
	columnsOfView = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'NAME'::regclass AND attnum > 0"
)

var (
	// gone is planned where the resource is not there any more.
	gone = map[string]string{"drifted": create}
	// stays is planned where leaving the attribute out leaves it as it is.
	stays = map[string]string{"removed": noop}
)

var viewAttributeCases = map[string]attributeCase{
	"matview_view.name": {
		base: `definition = "SELECT id FROM jobs"`,
		a:    `"NAME_a"`, b: `"NAME B.\"é"`,
		read: "SELECT string_agg(relname, ',') FROM pg_class WHERE relname ~ '^NAME' AND relkind = 'm'", inA: "NAME_a", inB: `NAME B."é`,
		drift: `ALTER MATERIALIZED VIEW "NAME B.""é" RENAME TO other_than_that`, actions: gone,
	},
	"matview_view.id": {
		base: `definition = "SELECT id FROM jobs"`, as: "name = VALUE",
		a: `"NAME_a"`, b: `"NAME B"`, stateA: "NAME_a", stateB: `"NAME B"`,
		read: "SELECT string_agg(relname, ',') FROM pg_class WHERE relname ~ '^NAME' AND relkind = 'm'", inA: "NAME_a", inB: "NAME B",
		drift: `ALTER MATERIALIZED VIEW "NAME B" RENAME TO other_than_that_id`, actions: gone,
	},
	"matview_view.schema": {
		base: plainView, a: `"one"`, b: `"two"`, stateNone: "public",
		read: ofView("relnamespace::regnamespace"), inA: "one", inB: "two", inNone: "public",
		drift: "ALTER MATERIALIZED VIEW two.NAME SET SCHEMA away", actions: gone,
	},
	"matview_view.definition": {
		base: onlyName, a: `"SELECT id FROM jobs"`, b: `"SELECT id, name FROM jobs"`,
		read: columnsOfView, inA: "id", inB: "id,name", drift: anew,
	},
	"matview_view.canonical_definition": {
		base: onlyName, as: "definition = VALUE", a: `"SELECT id FROM jobs"`, b: `"SELECT name FROM jobs"`,
		stateA: `\s*SELECT\s.*\bid\s+FROM public\.jobs;?`, stateB: `\s*SELECT\s.*\bname\s+FROM public\.jobs;?`,
		read: columnsOfView, inA: "id", inB: "name", drift: anew,
	},
	"matview_view.output_columns": {
		base: onlyName, as: "definition = VALUE", a: `"SELECT id FROM jobs"`, b: `"SELECT id, name FROM jobs"`,
		at: "output_columns.#", stateA: "1", stateB: "2",
		read: columnsOfView, inA: "id", inB: "id,name", drift: anew,
	},
	"matview_view.output_columns.name": {
		base: onlyName, as: "definition = VALUE", a: `"SELECT id FROM jobs"`, b: `"SELECT name FROM jobs"`,
		at: "output_columns.0.name", stateA: "id", stateB: "name",
		read: columnsOfView, inA: "id", inB: "name", drift: "ALTER MATERIALIZED VIEW NAME RENAME COLUMN name TO drifted",
	},
	"matview_view.output_columns.type": {
		base: onlyName, as: "definition = VALUE", a: `"SELECT id AS x FROM jobs"`, b: `"SELECT id::numeric(10,2) AS x FROM jobs"`,
		at: "output_columns.0.type", stateA: "integer", stateB: `numeric\(10,2\)`,
		read: "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'NAME'::regclass AND attnum = 1", inA: "integer", inB: "numeric(10,2)", drift: anew,
	},
	"matview_view.supports_concurrent_refresh": {
		base: plainView, as: `indexes = { NAME_i = { keys = ["id"], unique = VALUE } }`, a: "false", b: "true", stateA: "false", stateB: "true",
		read: "SELECT indisunique FROM pg_index WHERE indrelid = 'NAME'::regclass", inA: "false", inB: "true",
		drift: "DROP INDEX NAME_i; CREATE INDEX NAME_i ON NAME (id)",
	},
	"matview_view.column_names": {
		base: plainView, a: `["x"]`, b: `["y", "Z z"]`,
		read: columnsOfView, inA: "x,name", inB: "y,Z z", inNone: "id,name",
		drift: "ALTER MATERIALIZED VIEW NAME RENAME COLUMN y TO drifted",
	},
	"matview_view.on_definition_change": {
		base: plainView, a: `"recreate"`, b: `"swap"`, stateNone: "swap", actions: stays,
		shownBy: "TestAccViewFailedChange",
	},
	"matview_view.tablespace": {
		base: plainView, a: `"pg_default"`, b: `"SPACE1"`, stateNone: "SPACE1", actions: stays,
		read: ofView("coalesce((SELECT spcname FROM pg_tablespace AS s WHERE s.oid = reltablespace), '-')"), inA: "-", inB: "SPACE1", inNone: "SPACE1",
		drift: "ALTER MATERIALIZED VIEW NAME SET TABLESPACE pg_default",
	},
	"matview_view.access_method": {
		base: plainView, a: `"heap"`, b: `"heap2"`, stateNone: "heap2", actions: stays, since: 150000,
		read: ofView("(SELECT amname FROM pg_am AS m WHERE m.oid = relam)"), inA: "heap", inB: "heap2", inNone: "heap2",
		drift: "ALTER MATERIALIZED VIEW NAME SET ACCESS METHOD heap",
	},
	"matview_view.storage_parameters": {
		base: plainView, a: `{ fillfactor = "70" }`, b: `{ fillfactor = "80", "autovacuum_enabled" = "off" }`,
		read: ofView("array_to_string(ARRAY(SELECT unnest(reloptions) ORDER BY 1), ',')"), inA: "fillfactor=70", inB: "autovacuum_enabled=off,fillfactor=80",
		inNone: "autovacuum_enabled=off,fillfactor=80", stateNone: "<nil>", // no longer managed
		drift: "ALTER MATERIALIZED VIEW NAME SET (fillfactor = 50)",
	},
	"matview_view.with_data": {
		base: plainView, a: "false", b: "true", stateNone: "true", actions: stays,
		read: ofView("relispopulated"), inA: "false", inB: "true", inNone: "true", inAgain: "true",
		drift: "REFRESH MATERIALIZED VIEW NAME WITH NO DATA",
	},
	"matview_view.owner": {
		base: plainView, a: `"ROLE1"`, b: `"ROLE2"`, stateNone: "ROLE2", actions: stays,
		read: ofView("relowner::regrole"), inA: "ROLE1", inB: "ROLE2", inNone: "ROLE2",
		drift: "ALTER MATERIALIZED VIEW NAME OWNER TO ROLE1",
	},
	"matview_view.comment": {
		base: plainView, a: `"it's"`, b: `"so"`,
		read: "obj_description('NAME'::regclass)", inA: "it's", inB: "so", inNone: "null",
		drift: "COMMENT ON MATERIALIZED VIEW NAME IS 'else'",
	},
	"matview_view.timeouts":        {base: plainView, a: `{ create = "1m" }`, b: `{ update = "5m", delete = "5m" }`, shownBy: "TestAccViewTimeouts"},
	"matview_view.timeouts.create": {base: plainView, as: "timeouts = { create = VALUE }", a: `"1m"`, b: `"60m"`, shownBy: "TestAccViewTimeouts"},
	"matview_view.timeouts.update": {base: plainView, as: "timeouts = { update = VALUE }", a: `"1m"`, b: `"60m"`, shownBy: "TestAccViewTimeouts"},
	"matview_view.timeouts.delete": {base: plainView, as: "timeouts = { delete = VALUE }", a: `"1m"`, b: `"60m"`, shownBy: "TestAccViewTimeouts"},
}

// indexCase is a case of an attribute of an index with these keys.
func indexCase(keys string, c attributeCase) attributeCase {
	c.base = plainView
	c.as = "indexes = { NAME_i = {\n" + keys + "\n" + c.as + " } }"
	c.without = "indexes = { NAME_i = {\n" + keys + " } }"
	if c.drift == "" {
		c.drift = "DROP INDEX NAME_i; CREATE INDEX NAME_i ON NAME (name, id)"
	}
	return c
}

const ofIndex = "SELECT replace(pg_get_indexdef('NAME_i'::regclass), 'CREATE INDEX NAME_i ON public.NAME USING ', '')"

var viewIndexAttributeCases = map[string]attributeCase{
	"matview_view.indexes": {
		base: plainView, a: `{ NAME_i = { keys = ["id"] } }`, b: `{ NAME_i = { keys = ["id"] }, NAME_j = { keys = ["name"] } }`,
		read: "SELECT string_agg(indexrelid::regclass::text, ',' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = 'NAME'::regclass", inA: "NAME_i", inB: "NAME_i,NAME_j",
		inNone: "NAME_i,NAME_j", stateNone: "<nil>", // no longer managed
		drift: "DROP INDEX NAME_j; CREATE INDEX NAME_k ON NAME (id)",
	},
	"matview_view.indexes.keys": indexCase("", attributeCase{
		as: "keys = VALUE", a: `["id"]`, b: `["lower(name) DESC", "id"]`,
		read: ofIndex, inA: "btree (id)", inB: "btree (lower(name) DESC, id)",
	}),
	"matview_view.indexes.unique": indexCase(`keys = ["id"]`, attributeCase{
		as: "unique = VALUE", a: "true", b: "false", at: "indexes.NAME_i.unique", stateNone: "false", actions: stays,
		read: "SELECT indisunique FROM pg_index WHERE indexrelid = 'NAME_i'::regclass", inA: "true", inB: "false", inNone: "false",
		drift: "DROP INDEX NAME_i; CREATE UNIQUE INDEX NAME_i ON NAME (id)",
	}),
	"matview_view.indexes.method": indexCase(`keys = ["id"]`, attributeCase{
		as: "method = VALUE", a: `"brin"`, b: `"hash"`, at: "indexes.NAME_i.method", stateNone: "btree",
		read: ofIndex, inA: "brin (id)", inB: "hash (id)", inNone: "btree (id)",
	}),
	"matview_view.indexes.where": indexCase(`keys = ["id"]`, attributeCase{
		as: "where = VALUE", a: `"id > 5"`, b: `"id > 7"`,
		read: ofIndex, inA: "btree (id) WHERE (id > 5)", inB: "btree (id) WHERE (id > 7)", inNone: "btree (id)",
	}),
	"matview_view.indexes.include": indexCase(`keys = ["id"]`, attributeCase{
		as: "include = VALUE", a: `["name"]`, b: `["name", "id"]`,
		read: ofIndex, inA: "btree (id) INCLUDE (name)", inB: "btree (id) INCLUDE (name, id)", inNone: "btree (id)",
	}),
	"matview_view.indexes.nulls_not_distinct": indexCase("keys = [\"id\"]\nunique = true", attributeCase{
		as: "nulls_not_distinct = VALUE", a: "false", b: "true", at: "indexes.NAME_i.nulls_not_distinct", stateNone: "false", since: 150000,
		actions: map[string]string{"set again": noop},
		read:    "SELECT to_jsonb(x)->>'indnullsnotdistinct' FROM pg_index AS x WHERE indexrelid = 'NAME_i'::regclass", inA: "false", inB: "true", inNone: "false",
	}),
	"matview_view.indexes.storage_parameters": indexCase(`keys = ["id"]`, attributeCase{
		as: "storage_parameters = VALUE", a: `{ fillfactor = "70" }`, b: `{ fillfactor = "80" }`,
		read: ofIndex, inA: "btree (id) WITH (fillfactor='70')", inB: "btree (id) WITH (fillfactor='80')", inNone: "btree (id)",
		drift: "ALTER INDEX NAME_i SET (fillfactor = 50)",
	}),
	"matview_view.indexes.tablespace": indexCase(`keys = ["id"]`, attributeCase{
		as: "tablespace = VALUE", a: `"SPACE1"`, b: `"SPACE2"`,
		read: "SELECT coalesce((SELECT spcname FROM pg_tablespace AS s WHERE s.oid = reltablespace), '-') FROM pg_class WHERE relname = 'NAME_i'",
		inA:  "SPACE1", inB: "SPACE2", inNone: "-",
		drift: "ALTER INDEX NAME_i SET TABLESPACE pg_default",
	}),
}
