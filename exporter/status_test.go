package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestStatusExplains(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE TABLE fuel (n int);
CREATE MATERIALIZED VIEW by_cron AS SELECT 1 AS x WITH NO DATA;
CREATE MATERIALIZED VIEW by_every AS SELECT 1 AS x WITH NO DATA;
CREATE MATERIALIZED VIEW by_target AS SELECT 1 AS x WITH NO DATA;
CREATE MATERIALIZED VIEW out_of_reach AS SELECT 1 AS x WITH NO DATA;
CREATE MATERIALIZED VIEW paused AS SELECT 1 AS x WITH NO DATA;
CREATE MATERIALIZED VIEW bad AS SELECT 1 AS x WITH NO DATA;
CREATE MATERIALIZED VIEW fails AS SELECT 1/n AS x FROM generate_series(0, 1) AS n WITH NO DATA;
CREATE MATERIALIZED VIEW base AS SELECT 1 AS x WITH NO DATA;
CREATE MATERIALIZED VIEW waits AS SELECT x FROM base WITH NO DATA;
CREATE MATERIALIZED VIEW alone AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW warned AS SELECT 1 AS x WITH NO DATA;
INSERT INTO materialized_view_refresh_schedule (view_name, every, total_jobs) VALUES ('warned', '1 d', '1 / 0');
INSERT INTO materialized_view_refresh_schedule (view_name, cron, every, target_staleness, time_zone, jitter, enabled) VALUES
('by_cron', '0 3 * * *', NULL, NULL, 'Europe/Berlin', NULL, true), ('by_every', NULL, '5 min', NULL, 'UTC', '20 s', true),
('by_target', NULL, NULL, '10 min', 'UTC', NULL, true), ('out_of_reach', NULL, NULL, '10 min', 'UTC', NULL, true),
('paused', NULL, '5 min', NULL, 'UTC', NULL, false), ('fails', NULL, '1 d', NULL, 'UTC', NULL, true),
('public.by_every', NULL, '7 min', NULL, 'UTC', NULL, true);
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, started_at, finished_at)
SELECT 'out_of_reach', 'schedule', 'succeeded', t, t + interval '7 min' FROM generate_series(now() - interval '3 h', now() - interval '1 h', interval '1 h') AS t`)
	exec(t, db.URL(), "refresh", "--due")
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, cron, every) VALUES ('bad', '61 * * * *', NULL), ('waits', NULL, '1 d'), ('unseen', NULL, '1 d');
INSERT INTO materialized_view_refresh_state (view_name, schedule_name, next_run_at) VALUES ('waits', 'waits', now());
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, attempted_by, heartbeat_at) VALUES ('base', 'manual', 'running', 'somebody', now())`)

	code, stdout, stderr := exec(t, db.URL(), "status", "--output=json")
	var status struct {
		Views []struct {
			View         string  `json:"view_name"`
			Why          *string `json:"next_run_reason"`
			Method       *string `json:"last_method"`
			MethodReason *string `json:"last_method_reason"`
			Warning      *string `json:"last_warning"`
		} `json:"views"`
	}
	if err := json.Unmarshal([]byte(stdout), &status); err != nil || code != exitOK {
		t.Fatalf("%d, %v, %s", code, err, stderr)
	}
	_, table, _ := exec(t, db.URL(), "status")
	why := map[string]string{}
	for _, v := range status.Views {
		if v.Why != nil {
			why[v.View] = *v.Why
			if v.View != "base" && !strings.Contains(table, *v.Why) { // the seconds go on
				t.Errorf("the table does not say of %s: %s", v.View, *v.Why)
			}
		}
		if v.View == "by_every" && (v.Method == nil || *v.Method != "blocking" || *v.MethodReason != "first population") {
			t.Errorf("method of by_every: %v", v)
		}
		if v.View == "warned" {
			const want = "total_jobs is null: division by zero"
			if v.Warning == nil || !strings.HasPrefix(*v.Warning, want) || !strings.Contains(table, "blocking: first population; warning: "+want) {
				t.Errorf("warned: %v\n%s", v.Warning, table)
			}
		} else if v.Warning != nil {
			t.Errorf("%s: warning %s", v.View, *v.Warning)
		}
	}
	for view, want := range map[string]string{
		"by_cron":      "cron 0 3 * * * in Europe/Berlin",
		"by_every":     "every 5m0s, spread over 20s; ignored: a second schedule, of public.by_every",
		"by_target":    "target 10m0s, less ",
		"out_of_reach": "target 10m0s cannot be met: refreshes, with those of the views that it reads, take 7m0s at the 95th percentile",
		"paused":       "paused: its schedule is disabled",
		"fails":        "backing off, no later than its schedule says (every 24h0m0s); 1 failure, the last: refresh fails: blocking: division by zero",
		"bad":          `never: cron "61 * * * *"`,
		"waits":        "due, waits for base; every 24h0m0s",
		"base":         "running for ",
		"unseen":       "not planned yet: no exporter has seen this schedule",
	} {
		if !strings.HasPrefix(why[view], want) {
			t.Errorf("%s: %q, want %q", view, why[view], want)
		}
	}
	for row := range strings.Lines(table) { // a long error of one view must not widen the rows of others
		if strings.Contains(row, strings.Repeat(" ", 40)) {
			t.Errorf("widened by the text of another row: %q", row)
		}
	}
	if why["alone"] != "" {
		t.Errorf("alone: %q", why["alone"])
	}
	if !strings.Contains(table, "blocking: first population") {
		t.Errorf("the table does not say why the last method:\n%s", table)
	}
}
