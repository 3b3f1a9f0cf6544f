//go:build e2e

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const prometheusExamples = "../examples/prometheus"

// program starts a program of another package and ends it with the test.
func program(t *testing.T, name string, args ...string) *osexec.Cmd {
	t.Helper()
	log := &syncBuffer{}
	cmd := osexec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, log.String())
		}
	})
	return cmd
}

func TestE2EPromtool(t *testing.T) {
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, {"check", "rules", "rules.yml"}, {"test", "rules", "rules_test.yml"}} {
		cmd := osexec.Command("promtool", args...)
		cmd.Dir = prometheusExamples
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// exporterProcess is the exporter as a program of its own, to be killed.
func exporterProcess(t *testing.T, args ...string) *osexec.Cmd {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "matview-exporter")
	if out, err := osexec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program(t, binary, args...)
}

// prometheusOver scrapes every second, by the rules of the example, whose
// minutes of patience are cut to two seconds.
func prometheusOver(t *testing.T, targets string, flags ...string) (base string) {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	rules, err := os.ReadFile(filepath.Join(prometheusExamples, "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	rules = regexp.MustCompile(`for: \d+m`).ReplaceAll(rules, []byte("for: 2s"))
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("rules.yml", string(rules))
	config := write("prometheus.yml", "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\nscrape_configs:\n"+targets)
	program(t, "prometheus", append(flags, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)...)
	base = "http://" + address
	eventually(t, "Prometheus is ready", func() bool { code, _ := fetch(t, base+"/-/ready"); return code == http.StatusOK })
	return base
}

// query is the result of an expression, an error of which fails the test.
func query(t *testing.T, base, expr string) []sampleOf {
	t.Helper()
	_, body := fetch(t, base+"/api/v1/query?query="+url.QueryEscape(expr))
	var answer struct {
		Status, Error string
		Data          struct{ Result []sampleOf }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Status != "success" {
		t.Errorf("query %s: %v %s", expr, err, body)
	}
	return answer.Data.Result
}

type sampleOf struct {
	Metric map[string]string
	Value  [2]any
}

func alert(t *testing.T, base, name string) (state string) {
	t.Helper()
	for _, s := range query(t, base, fmt.Sprintf("ALERTS{alertname=%q}", name)) {
		state = s.Metric["alertstate"]
	}
	return state
}

// TestE2EAlerts sees a view grow stale in a real Prometheus: the alert is
// pending, then firing; a refresh resolves it. Then the exporter dies, and the
// other alert fires.
func TestE2EAlerts(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; CREATE MATERIALIZED VIEW paused AS SELECT 1 AS x;
INSERT INTO materialized_view_refresh_schedule (view_name, every, max_staleness, enabled) VALUES ('v', '1 hour', '6 s', true), ('paused', '1 hour', '1 s', false)`)
	refreshNow := func() {
		if code, _, errs := exec(t, db.URL(), "refresh", "v", "paused"); code != exitOK {
			t.Fatal(errs)
		}
	}
	address := freeAddress(t)
	process := exporterProcess(t, "--database.url="+db.URL(), "run", "--no-scheduler", "--web.listen-address="+address)
	refreshNow()
	base := prometheusOver(t, fmt.Sprintf("- {job_name: matview-exporter, static_configs: [{targets: [%q]}]}\n", address))
	becomes := func(name, want string) {
		t.Helper()
		eventually(t, name+" is "+want, func() bool { return alert(t, base, name) == want })
	}
	eventually(t, "staleness is scraped", func() bool { return len(query(t, base, `view:matview_staleness_seconds:max{view="v"}`)) == 1 })
	if state := alert(t, base, "MatviewStale"); state == "firing" {
		t.Errorf("at first the alert is %s", state)
	}
	becomes("MatviewStale", "pending")
	becomes("MatviewStale", "firing")
	if firing := query(t, base, `ALERTS{alertstate="firing", alertname!="MatviewStale"} or ALERTS{alertstate="firing", view="paused"}`); len(firing) > 0 {
		t.Errorf("these fire too: %v", firing)
	}
	dashboardAnswers(t, base)
	refreshNow()
	becomes("MatviewStale", "")
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	becomes("MatviewExporterDown", "firing")
	if state := alert(t, base, "MatviewStale"); state != "" {
		t.Errorf("a dead exporter is one page, but MatviewStale is %s", state)
	}
}

// TestE2EHistogram: whether Prometheus stores the native histogram or the classic
// one, the rules and the dashboard know how long refreshes take.
func TestE2EHistogram(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 second')`)
	address := freeAddress(t)
	exporterProcess(t, "--database.url="+db.URL(), "run", "--web.listen-address="+address)
	targets := fmt.Sprintf("- {job_name: matview-exporter, static_configs: [{targets: [%q]}]}\n", address)
	native := prometheusOver(t, targets, "--enable-feature=native-histograms")
	classic := prometheusOver(t, targets)
	for base, series := range map[string]string{native: "matview_refresh_duration_seconds", classic: "matview_refresh_duration_seconds_bucket"} {
		eventually(t, "the record of "+series, func() bool { return len(query(t, base, "job:matview_refresh_duration_seconds:p95_1h > 0")) == 1 })
		if got := query(t, base, series); len(got) == 0 {
			t.Errorf("%s is not what is stored", series)
		}
		asked := 0
		for expr := range dashboardExpressions(t) {
			if strings.Contains(expr, "histogram_quantile") {
				asked++
				if got := query(t, base, expr+" > 0"); len(got) != 1 {
					t.Errorf("%s: %v", expr, got)
				}
			}
		}
		if asked != 2 {
			t.Errorf("%d expressions", asked)
		}
	}
}

// dashboardExpressions are those of the dashboard with the names of their panels.
func dashboardExpressions(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(prometheusExamples, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all[strings.NewReplacer("$job", ".*", "$view", ".*", "$__rate_interval", "1m").Replace(target.Expr)] = p.Title
		}
	}
	if len(all) < 15 {
		t.Errorf("only %d expressions", len(all))
	}
	return all
}

// dashboardAnswers asks Prometheus every expression of the dashboard.
func dashboardAnswers(t *testing.T, base string) {
	t.Helper()
	// Of these the test has none: nothing was refreshed by the process itself or
	// goes to CloudWatch, and no totals are configured.
	empty := regexp.MustCompile(`_bucket|_total|cloudwatch|total_jobs|total_objects|next_refresh`)
	for expr, panel := range dashboardExpressions(t) {
		if got := query(t, base, expr); len(got) == 0 && !empty.MatchString(expr) {
			t.Errorf("%s: %s has no data", panel, expr)
		}
	}
}

// TestE2EPushgateway: runs push to a real Pushgateway, and none of them, failed
// or about another view or without a database, erases the last success.
func TestE2EPushgateway(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE TABLE source AS SELECT 1 AS x; CREATE MATERIALIZED VIEW v AS SELECT 1 / x AS x FROM source; CREATE SCHEMA "a/b";
CREATE MATERIALIZED VIEW "a/b"."Ünï ""q""" AS SELECT 1 AS x`)
	address := freeAddress(t)
	program(t, "prometheus-pushgateway", "--web.listen-address="+address)
	base := "http://" + address
	eventually(t, "the Pushgateway is ready", func() bool { code, _ := fetch(t, base+"/-/ready"); return code == http.StatusOK })
	push := func(databaseURL string, want int, args ...string) {
		t.Helper()
		code, _, errs := exec(t, databaseURL, append([]string{"refresh", "--push.gateway-url=" + base}, args...)...)
		if code != want || strings.Contains(errs, "cannot publish") {
			t.Fatalf("exit code %d: %s", code, errs)
		}
	}
	sample := func(name, view string) string {
		_, body := fetch(t, base+"/metrics")
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, name+"{") && strings.Contains(line, `view="`+view+`"`) && strings.Contains(line, `job="matview-exporter"`) {
				return line[bytes.LastIndexByte([]byte(line), ' ')+1:]
			}
		}
		return ""
	}
	const stamp = "matview_last_refresh_timestamp_seconds"
	push(db.URL(), exitOK, "v")
	first := sample(stamp, "v")
	if first == "" || sample("matview_consecutive_failures", "v") != "0\n" {
		t.Fatalf("after a success: %q", first)
	}
	db.Exec(t, `UPDATE source SET x = 0`)
	push(db.URL(), exitFailed, "v")
	if got := sample(stamp, "v"); got != first || sample("matview_consecutive_failures", "v") != "1\n" {
		t.Errorf("after a failure: %q, want %q", got, first)
	}
	push(db.URL(), exitOK, `"a/b"."Ünï ""q"""`)
	if got := sample(stamp, "v"); got != first || sample(stamp, `\"a/b\".\"Ünï \"\"q\"\"\"`) == "" {
		t.Errorf("after a refresh of another view: %q, want %q", got, first)
	}
	push("postgres://127.0.0.1:1/nowhere", exitFailed, "v")
	if got := sample(stamp, "v"); got != first {
		t.Errorf("after a run without a database: %q, want %q", got, first)
	}
	_, body := fetch(t, base+"/metrics")
	if !strings.Contains(body, "matview_up{instance=\"\",job=\"matview-exporter\"} 0\n") {
		t.Errorf("no matview_up 0: %s", body)
	}
	for _, frozen := range []string{"matview_staleness_seconds", "matview_stale{"} {
		if strings.Contains(body, frozen) {
			t.Errorf("%s would stand still", frozen)
		}
	}
}
