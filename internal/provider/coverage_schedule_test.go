package provider

// ofSchedule is a query for a column of the schedule's row.
func ofSchedule(column string) string {
	return "SELECT " + column + " FROM materialized_view_refresh_schedule WHERE view_name = 'NAME'"
}

func drifted(column, value string) string {
	return "UPDATE materialized_view_refresh_schedule SET " + column + " = " + value + " WHERE view_name = 'NAME'"
}

const (
	// The provider's log_schema is another.
	inPublic  = "log_schema = \"public\"\n"
	ofNAME    = inPublic + "view = \"NAME\"\n"
	everyFive = ofNAME + "every = \"5m\""
)

// elsewhere is planned where a change makes another resource.
var elsewhere = map[string]string{
	"drifted": create, "removed": replace, "set again": replace, "changed to what is unknown": replace, "unknown, and the same": replace,
}

// back is planned where a is the default as well.
var back = map[string]string{"set again": noop}

var scheduleAttributeCases = map[string]attributeCase{
	"matview_refresh_schedule.id": {
		base: inPublic + `every = "5m"`, as: "view = VALUE", a: `"public.NAME"`, b: `"NAME_b"`, stateA: "NAME", stateB: "NAME_b",
		read: "SELECT string_agg(view_name, ',') FROM materialized_view_refresh_schedule WHERE view_name ~ '^NAME'", inA: "NAME", inB: "NAME_b",
		drift: "UPDATE materialized_view_refresh_schedule SET view_name = 'other' WHERE view_name = 'NAME_b'", actions: gone,
	},
	"matview_refresh_schedule.view": {
		base: inPublic + `every = "5m"`, a: `"NAME"`, b: `"one.\"NAME b\""`,
		read: "SELECT string_agg(view_name, ',') FROM materialized_view_refresh_schedule WHERE strpos(view_name, 'NAME') > 0", inA: "NAME", inB: `one."NAME b"`,
		drift: "DELETE FROM materialized_view_refresh_schedule WHERE strpos(view_name, 'NAME') > 0", actions: gone,
	},
	"matview_refresh_schedule.cron": {
		base: ofNAME, without: `every = "5m"`, a: `"*/5 * * * *"`, b: `"@daily"`,
		read: ofSchedule("cron"), inA: "*/5 * * * *", inB: "@daily", inNone: "null", drift: drifted("cron", "'1 2 3 * *'"),
	},
	"matview_refresh_schedule.every": {
		base: ofNAME, without: `cron = "@daily"`, a: `"5m"`, b: `"1h30m"`,
		read: ofSchedule("every"), inA: "00:05:00", inB: "01:30:00", inNone: "null", drift: drifted("every", "'9 minutes'"),
	},
	"matview_refresh_schedule.target_staleness": {
		base: ofNAME, without: `cron = "@daily"`, a: `"5m"`, b: `"1h30m"`,
		read: ofSchedule("target_staleness"), inA: "00:05:00", inB: "01:30:00", inNone: "null", drift: drifted("target_staleness", "'9 minutes'"),
	},
	"matview_refresh_schedule.time_zone": {
		base: ofNAME + `cron = "@daily"`, a: `"Europe/Berlin"`, b: `"America/New_York"`, stateNone: "UTC",
		read: ofSchedule("time_zone"), inA: "Europe/Berlin", inB: "America/New_York", inNone: "UTC", drift: drifted("time_zone", "'Asia/Tokyo'"),
	},
	"matview_refresh_schedule.method": {
		base: everyFive, a: `"blocking"`, b: `"swap"`, stateNone: "auto",
		read: ofSchedule("method"), inA: "blocking", inB: "swap", inNone: "auto", drift: drifted("method", "'concurrently'"),
	},
	"matview_refresh_schedule.enabled": {
		base: everyFive, a: "true", b: "false", stateNone: "true", actions: back,
		read: ofSchedule("enabled"), inA: "true", inB: "false", inNone: "true", drift: drifted("enabled", "true"),
	},
	"matview_refresh_schedule.jitter": {
		base: everyFive, a: `"20s"`, b: `"1m"`,
		read: ofSchedule("jitter"), inA: "00:00:20", inB: "00:01:00", inNone: "null", drift: drifted("jitter", "NULL"),
	},
	"matview_refresh_schedule.lock_timeout": {
		base: everyFive, a: `"1500ms"`, b: `"1m"`, stateNone: "10s",
		read: ofSchedule("lock_timeout"), inA: "00:00:01.5", inB: "00:01:00", inNone: "00:00:10", drift: drifted("lock_timeout", "'1 hour'"),
	},
	"matview_refresh_schedule.statement_timeout": {
		base: everyFive, a: `"1500ms"`, b: `"1m"`,
		read: ofSchedule("statement_timeout"), inA: "00:00:01.5", inB: "00:01:00", inNone: "null", drift: drifted("statement_timeout", "'1 hour'"),
	},
	"matview_refresh_schedule.max_staleness": {
		base: everyFive, a: `"1h"`, b: `"90m"`,
		read: ofSchedule("max_staleness"), inA: "01:00:00", inB: "01:30:00", inNone: "null", drift: drifted("max_staleness", "NULL"),
	},
	"matview_refresh_schedule.skip_unchanged": {
		base: everyFive, a: "false", b: "true", stateNone: "false", since: 150000, actions: back,
		read: ofSchedule("skip_unchanged"), inA: "false", inB: "true", inNone: "false", drift: drifted("skip_unchanged", "false"),
	},
	"matview_refresh_schedule.settings": {
		base: everyFive, a: `{ work_mem = "64MB" }`, b: `{ "work_mem" = "32MB", "my_extension.level" = "3" }`,
		read: ofSchedule("settings"), inA: `{"work_mem": "64MB"}`, inB: `{"work_mem": "32MB", "my_extension.level": "3"}`, inNone: "{}",
		drift: drifted("settings", `'{"work_mem": "8MB"}'`),
	},
	"matview_refresh_schedule.totals": {
		base: everyFive, a: `{ jobs = "count(*)" }`, b: `{ jobs = "max(id)", objects = "sum(id)" }`,
		read: ofSchedule("concat_ws(' ', 'of', total_jobs, total_objects)"), inA: "of count(*)", inB: "of max(id) sum(id)", inNone: "of",
		drift: drifted("total_objects", "NULL"),
	},
	"matview_refresh_schedule.totals.jobs": {
		base: everyFive, as: "totals = { jobs = VALUE }", without: "totals = {}", a: `"count(*)"`, b: `"max(id)"`,
		read: ofSchedule("total_jobs"), inA: "count(*)", inB: "max(id)", inNone: "null", drift: drifted("total_jobs", "'min(id)'"),
	},
	"matview_refresh_schedule.totals.objects": {
		base: everyFive, as: "totals = { objects = VALUE }", without: "totals = {}", a: `"count(*)"`, b: `"max(id)"`,
		read: ofSchedule("total_objects"), inA: "count(*)", inB: "max(id)", inNone: "null", drift: drifted("total_objects", "'min(id)'"),
	},
	"matview_refresh_schedule.log_schema": {
		// Left out, it is the provider's, where the tables are made in the same apply.
		base: "view = \"NAME\"\nevery = \"5m\"\ndepends_on = [matview_refresh_log.l_schema]", a: `"ops"`, b: `"ops2"`, stateNone: "other_logs",
		read: "SELECT CASE WHEN EXISTS (SELECT FROM ops.materialized_view_refresh_schedule WHERE view_name = 'NAME') THEN 'ops'" +
			" WHEN EXISTS (SELECT FROM ops2.materialized_view_refresh_schedule WHERE view_name = 'NAME') THEN 'ops2' ELSE 'neither' END",
		inA: "ops", inB: "ops2", inNone: "neither",
		drift:   "DELETE FROM ops2.materialized_view_refresh_schedule WHERE view_name = 'NAME'",
		actions: elsewhere,
	},
}
