//go:build e2e

package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// screenshots is where the pictures are kept for a person to look at.
const screenshots = "testdata/screenshots"

// The page, as a browser shows it: a stale view turns fresh while it is open.
func TestE2EStatusPage(t *testing.T) {
	db := installed(t)
	db.Exec(t, `
CREATE TABLE jobs AS SELECT i AS id FROM generate_series(1, 1000) AS i;
CREATE MATERIALIZED VIEW job_progress AS SELECT id, id % 7 AS done FROM jobs;
CREATE MATERIALIZED VIEW unwatched AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW "A view with a rather long name, <b>odd</b> ключ" AS SELECT 1 AS x;
CREATE TABLE divisors AS SELECT 1 AS d;
CREATE MATERIALIZED VIEW failing AS SELECT 1 / d AS x FROM divisors;
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('job_progress', '5 min'), ('failing', '1 h'), ('gone', '1 h');
INSERT INTO materialized_view_refresh_schedule (view_name, cron, longest_gap) VALUES (quote_ident('A view with a rather long name, <b>odd</b> ключ'), '0 3 * * *', '25 h')`)
	for _, args := range [][]string{{"job_progress"}, {"failing"}, {`"A view with a rather long name, <b>odd</b> ключ"`}} {
		if code, _, stderr := exec(t, db.URL(), append([]string{"refresh"}, args...)...); code != exitOK {
			t.Fatal(stderr)
		}
	}
	db.Exec(t, `UPDATE divisors SET d = 0`)
	if code, _, _ := exec(t, db.URL(), "refresh", "failing"); code != exitFailed {
		t.Fatal("the refresh that cannot work has worked")
	}
	// A history to plot, and data that is older than its limit.
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, method, outcome, started_at, finished_at, data_as_of, duration_ms)
SELECT 'job_progress', 'schedule', 'concurrently', CASE WHEN i % 9 = 4 THEN 'failed' ELSE 'succeeded' END, now() - i * interval '5 min', now() - i * interval '5 min', now() - i * interval '5 min',
       300 + 250 * sin(i) + i * 20 FROM generate_series(3, 30) AS i;
UPDATE materialized_view_refresh_state SET data_as_of = now() - interval '47 min', next_run_at = now() - interval '37 min' WHERE view_name = 'job_progress'`)
	d := startDaemon(t, db.URL(), "auth: {bearer_tokens_file: tokens}\n", "--no-scheduler")
	b := startBrowser(t)
	if code, body := fetch(t, d.url); code != http.StatusUnauthorized || strings.Contains(body, "job_progress") {
		t.Errorf("without credentials: %d %s", code, body)
	}
	b.authorize("anybody", testToken)
	b.open(d.url + "/?refresh=1")
	state := `document.querySelector('a[href*="job_progress"]').closest('tr').querySelector('.badge').innerText`
	if got := b.eval(state); got != "stale" {
		t.Fatalf("before the refresh it is %q", got)
	}
	photograph(t, b, "views", d.url+"/?refresh=off")
	photograph(t, b, "view", d.url+"/cache/views/job_progress?refresh=off")
	photograph(t, b, "failing", d.url+"/cache/views/failing?refresh=off")

	b.open(d.url + "/?refresh=1")
	if code, _, stderr := exec(t, db.URL(), "refresh", "job_progress"); code != exitOK {
		t.Fatal(stderr)
	}
	eventually(t, "the open page shows the view as fresh", func() bool { return b.eval(state) == "fresh" })
	b.screenshot("views-after", 1280, false)

	b.open(d.url + "/?refresh=off")
	keyboard(t, b)
	if name := b.eval(`Array.from(document.querySelectorAll('svg[role=img]')).every(s => s.getAttribute('aria-label'))`); name != "true" {
		t.Errorf("a plot has no name for screen readers")
	}
	if wide := b.eval(`document.querySelector('b') === null`); wide != "true" {
		t.Error("a view's name became HTML")
	}
	if errors := b.errors(); len(errors) != 0 {
		t.Errorf("the console: %s", errors)
	}
}

// The page says what is the matter where there is little to show.
func TestE2EStatusPageWithoutMuch(t *testing.T) {
	empty, unscheduled := installed(t), installed(t)
	unscheduled.Exec(t, `CREATE MATERIALIZED VIEW monthly_totals AS SELECT 1 AS x; CREATE MATERIALIZED VIEW job_progress AS SELECT 1 AS x WITH NO DATA`)
	for name, c := range map[string]struct{ url, want string }{
		"away":        {"postgres://someone@127.0.0.1:1/x", "The exporter's log says why."},
		"empty":       {empty.URL(), "no materialized view"},
		"unscheduled": {unscheduled.URL(), "Give a view a schedule"},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDaemon(t, c.url, "public: true\n", "--no-scheduler")
			b := startBrowser(t)
			photograph(t, b, name, d.url+"/?refresh=off")
			if text := b.eval(`document.body.innerText`); !strings.Contains(text, c.want) {
				t.Errorf("it does not say %q: %s", c.want, text)
			}
		})
	}
}

// photograph takes the page at the width of a phone and of a desk, light and
// dark, and wants it to fit.
func photograph(t *testing.T, b *browser, name, url string) {
	t.Helper()
	for _, width := range []int{390, 1280} {
		for _, dark := range []bool{false, true} {
			b.size(width, dark)
			b.open(url)
			if got := b.eval(`document.documentElement.scrollWidth <= window.innerWidth`); got != "true" {
				t.Errorf("%s is wider than %d pixels", name, width)
			}
			b.screenshot(name, width, dark)
		}
	}
}

// keyboard reaches every link with the tabulator, in the order of the page.
func keyboard(t *testing.T, b *browser) {
	t.Helper()
	var reached []string
	for range 4 {
		b.key("Tab")
		reached = append(reached, b.eval(`document.activeElement.innerText`))
	}
	if want := "Skip to the content|Resume updates|gone|failing"; strings.Join(reached, "|") != want {
		t.Errorf("by tabulator: %q", reached)
	}
	if got := b.eval(`getComputedStyle(document.activeElement).outlineStyle`); got != "solid" {
		t.Errorf("what has the focus has the outline %q", got)
	}
}

func (b *browser) screenshot(name string, width int, dark bool) {
	b.t.Helper()
	b.size(width, dark)
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	if err := os.MkdirAll(screenshots, 0o755); err != nil {
		b.t.Fatal(err)
	}
	file := filepath.Join(screenshots, fmt.Sprintf("%s-%d-%s.png", name, width, scheme))
	if err := os.WriteFile(file, b.picture(), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

const browserTimeout = 30 * time.Second
