package provider

const oneLog = "schema = \"NAME\"\ndeletion_protection = false"

// mayIn is a query for which of the two roles has the privilege on the log table,
// and on nothing else that it should not have.
func mayIn(privilege string) string {
	return "SELECT concat_ws(' ', 'may', CASE WHEN has_table_privilege('ROLE1', 'NAME.materialized_view_refresh_log', '" + privilege + "') THEN 'one' END," +
		" CASE WHEN has_table_privilege('ROLE2', 'NAME.materialized_view_refresh_log', '" + privilege + "') THEN 'two' END)"
}

var logAttributeCases = map[string]attributeCase{
	"matview_refresh_log.schema": {
		// Left out, it is the provider's log_schema.
		base: "deletion_protection = false", a: `"NAME_a"`, b: `"NAME b"`, stateNone: "other_logs",
		read: "SELECT string_agg(nspname, ',') FROM pg_namespace WHERE (nspname ~ '^NAME' OR nspname = 'other_logs') AND EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_namespace.oid)",
		inA:  "NAME_a", inB: "NAME b", inNone: "other_logs",
		drift: `DROP SCHEMA "NAME b" CASCADE`, actions: elsewhere,
	},
	"matview_refresh_log.id": {
		base: "deletion_protection = false", as: "schema = VALUE", a: `"NAME_a"`, b: `"NAME b"`, stateA: "NAME_a", stateB: "NAME b",
		read: "SELECT string_agg(nspname, ',') FROM pg_namespace WHERE nspname ~ '^NAME' AND EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_namespace.oid)",
		inA:  "NAME_a", inB: "NAME b", drift: `DROP SCHEMA "NAME b" CASCADE`,
		actions: map[string]string{"drifted": create, "set again": replace, "changed to what is unknown": replace, "unknown, and the same": replace},
	},
	"matview_refresh_log.history_retention": {
		base: oneLog, a: `"48h"`, b: `"90m"`, stateNone: "720h",
		read: "SELECT history_retention FROM NAME.materialized_view_refresh_settings", inA: "48:00:00", inB: "01:30:00", inNone: "720:00:00",
		drift: "UPDATE NAME.materialized_view_refresh_settings SET history_retention = '1 day'",
	},
	"matview_refresh_log.track_external_refreshes": {
		base: oneLog, a: "false", b: "true", stateNone: "false", actions: back,
		read: "SELECT count(*) FROM pg_event_trigger WHERE evtname <> 'coverage'", inA: "0", inB: "1", inNone: "0",
		drift: "DO $$ BEGIN EXECUTE (SELECT format('DROP EVENT TRIGGER %I', evtname) FROM pg_event_trigger WHERE evtname <> 'coverage'); END $$",
	},
	"matview_refresh_log.writer_roles": {
		base: oneLog, a: `["ROLE1"]`, b: `["ROLE2"]`,
		read: mayIn("INSERT"), inA: "may one", inB: "may two", inNone: "may",
		drift: "REVOKE INSERT ON NAME.materialized_view_refresh_log FROM ROLE2",
	},
	"matview_refresh_log.reader_roles": {
		base: oneLog, a: `["ROLE1"]`, b: `["ROLE2"]`,
		read: mayIn("SELECT"), inA: "may one", inB: "may two", inNone: "may",
		drift: "REVOKE SELECT ON NAME.materialized_view_refresh_log FROM ROLE2",
	},
	"matview_refresh_log.deletion_protection": {
		base: `schema = "NAME"`, a: "false", b: "true", stateNone: "true", actions: stays, shownBy: "TestAccRefreshLogProtected",
	},
	"matview_refresh_log.version": {
		base: oneLog, as: "history_retention = VALUE", a: `"1h"`, b: `"2h"`, stateA: `[1-9]\d*`, stateB: `[1-9]\d*`,
		read: "SELECT to_regclass('NAME.materialized_view_freshness') IS NOT NULL", inA: "true", inB: "true",
		drift: "DROP VIEW NAME.materialized_view_freshness CASCADE",
	},
}
