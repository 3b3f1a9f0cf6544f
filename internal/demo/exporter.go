package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

func (d *demo) startExporter(ctx context.Context) error {
	if err := d.assertFewRights(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.dir, "exporter.log"))
	if err != nil {
		return err
	}
	// Not under ctx: cleanUp stops it with SIGTERM, before the server.
	d.exporter = exec.CommandContext(context.WithoutCancel(ctx), d.exporterBinary(), "run",
		"--config.file="+filepath.Join(d.source, example, "exporter.yml"), "--web.listen-address="+address)
	d.exporter.Env = append(os.Environ(),
		"MATVIEW_DATABASE_URL="+d.url("matview_exporter", d.exporterPassword),
		"MATVIEW_REAL_TIME_URL="+d.url("matview_real_time", d.realTimePassword))
	d.exporter.Stdout, d.exporter.Stderr = log, log
	if err := d.exporter.Start(); err != nil {
		d.exporter = nil
		return err
	}
	d.exited = make(chan error, 1)
	go func() { d.exited <- d.exporter.Wait() }()
	d.api = "http://" + address
	if err := d.awaitReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, d.exporterLog())
	}
	say("Ready at %s.", d.api)
	return nil
}

// assertFewRights checks that neither login is a superuser, may become one, or may
// write the application's tables.
func (d *demo) assertFewRights(ctx context.Context) error {
	return query(ctx, d.server.URL(database), func(conn *pgx.Conn) error {
		var excessive *string
		err := conn.QueryRow(ctx, `
SELECT string_agg(login, ', ') FROM unnest(ARRAY['matview_exporter', 'matview_real_time']) AS login
WHERE EXISTS (SELECT FROM pg_roles WHERE rolsuper AND pg_has_role(login, oid, 'MEMBER'))
   OR has_table_privilege(login, 'jobs', 'INSERT, UPDATE, DELETE')`).Scan(&excessive)
		if err == nil && excessive != nil {
			err = fmt.Errorf("more rights than necessary: %s", *excessive)
		}
		return err
	})
}

func (d *demo) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if code, _, err := d.get(ctx, "/-/ready"); err == nil && code == http.StatusOK {
			return nil
		}
		select {
		case err := <-d.exited:
			d.exited <- err
			return fmt.Errorf("the exporter exited: %v", err) //nolint:errorlint // may be nil
		case <-ctx.Done():
			return errors.New("the exporter is not ready after 30 s")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *demo) stopExporter() error {
	if err := d.exporter.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-d.exited:
		if err != nil {
			return fmt.Errorf("the exporter on SIGTERM: %w\n%s", err, d.exporterLog())
		}
		return nil
	case <-time.After(time.Minute):
		return errors.Join(errors.New("the exporter does not exit on SIGTERM"), d.exporter.Process.Kill())
	}
}

func (d *demo) exporterLog() string {
	log, err := os.ReadFile(filepath.Join(d.dir, "exporter.log"))
	if err != nil {
		return err.Error()
	}
	return string(log)
}

func (d *demo) get(ctx context.Context, path string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.api+path, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// getJSON decodes the answer to a GET, which must be 200, into v and returns its body.
func (d *demo) getJSON(ctx context.Context, path string, v any) ([]byte, error) {
	code, body, err := d.get(ctx, path)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("GET %s: %d: %s", path, code, body)
	}
	if err != nil {
		return nil, err
	}
	return body, json.Unmarshal(body, v)
}

// showJSON is getJSON, and prints the command and the answer.
func (d *demo) showJSON(ctx context.Context, path string, v any) error {
	body, err := d.getJSON(ctx, path, v)
	if err == nil {
		say("curl %s%s", d.api, path)
		say("%s", strings.TrimSpace(string(body)))
	}
	return err
}

type progress struct {
	JobID             string   `json:"job_id"`
	Total             int      `json:"total"`
	Succeeded         int      `json:"succeeded"`
	Failed            int      `json:"failed"`
	ProgressPercent   *float64 `json:"progress_percent"`
	DataSource        string   `json:"data_source"`
	CacheRefreshedAt  *string  `json:"cache_refreshed_at"`
	CacheRefreshDurMS *int     `json:"cache_refresh_duration_ms"`
	CacheDataAsOf     *string  `json:"cache_data_as_of"`
}

const job = "/jobs/job-007"

func (d *demo) showCached(ctx context.Context) error {
	var p progress
	if err := d.showJSON(ctx, job, &p); err != nil {
		return err
	}
	if p.CacheRefreshedAt == nil || p.CacheRefreshDurMS == nil || p.CacheDataAsOf == nil || p.ProgressPercent == nil {
		return errors.New("the cached answer lacks a field")
	}
	refreshed, err := time.Parse("2006-01-02T15:04:05.000Z", *p.CacheRefreshedAt)
	if age := time.Since(refreshed); err != nil || age < 0 || age > time.Minute {
		return fmt.Errorf("implausible cache_refreshed_at: %s", *p.CacheRefreshedAt)
	}
	return errors.Join(want("data_source", p.DataSource, "cached"), want("job_id", p.JobID, "job-007"), p.plausible())
}

func (p progress) plausible() error {
	if p.Total < 8333 || p.Total > 8334 || p.Succeeded == 0 || p.Succeeded+p.Failed > p.Total {
		return fmt.Errorf("implausible: %+v", p)
	}
	return nil
}

// showRealTime changes an object between two answers in real time.
func (d *demo) showRealTime(ctx context.Context) error {
	const change = "UPDATE job_objects SET state = 'failed' WHERE (job_id, object_id) = (SELECT job_id, min(object_id) FROM job_objects WHERE job_id = 'job-007' AND state = 'succeeded' GROUP BY job_id)"
	var before, p progress
	if err := d.showJSON(ctx, job+"?real_time=true", &before); err != nil {
		return err
	}
	err := query(ctx, d.url(admin, d.adminPassword), func(conn *pgx.Conn) error { _, err := conn.Exec(ctx, change); return err })
	if err != nil {
		return err
	}
	say("One of its objects fails:")
	if err := d.showJSON(ctx, job+"?real_time=true", &p); err != nil {
		return err
	}
	if p.CacheRefreshedAt != nil || p.CacheRefreshDurMS != nil || p.CacheDataAsOf != nil {
		return errors.New("the real-time answer has cache fields")
	}
	return errors.Join(want("failed objects in real time", p.Failed, before.Failed+1), want("data_source", p.DataSource, "real_time"), p.plausible())
}

type viewStatus struct {
	ViewName         string    `json:"view_name"`
	LastRefreshedAt  time.Time `json:"last_refreshed_at"`
	DataAsOf         time.Time `json:"data_as_of"`
	StalenessSeconds *float64  `json:"staleness_seconds"`
	IsStale          *bool     `json:"is_stale"`
	TotalJobs        int       `json:"total_jobs"`
	TotalObjects     int       `json:"total_objects"`
	LastOutcome      string    `json:"last_outcome"`
}

// status returns what /cache/status reports about job_progress.
func (d *demo) status(ctx context.Context) (viewStatus, error) {
	var s viewStatus
	body, err := d.getJSON(ctx, "/cache/status/job_progress", &s)
	if err == nil && (s.StalenessSeconds == nil || s.IsStale == nil) {
		err = fmt.Errorf("the staleness is unknown: %s", body)
	}
	return s, err
}

func (d *demo) showStatus(ctx context.Context) error {
	// The exporter's first refresh adds the totals.
	if _, err := d.awaitRefresh(ctx, time.Time{}); err != nil {
		return err
	}
	var all struct {
		Views []viewStatus `json:"views"`
	}
	if err := d.showJSON(ctx, "/cache/status", &all); err != nil {
		return err
	}
	if len(all.Views) != 1 || all.Views[0].IsStale == nil {
		return errors.New("want one view, with its freshness")
	}
	v := all.Views[0]
	return errors.Join(want("view_name", v.ViewName, "job_progress"), want("is_stale", *v.IsStale, false),
		want("total_jobs", v.TotalJobs, 150), want("total_objects", v.TotalObjects, 1_250_000))
}

func (d *demo) showMetrics(ctx context.Context) error {
	code, body, err := d.get(ctx, "/metrics")
	if err != nil {
		return err
	}
	if err := want("GET /metrics", code, http.StatusOK); err != nil {
		return err
	}
	found := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "matview_") || strings.HasPrefix(line, "matview_refresh_duration_seconds_bucket") {
			continue
		}
		say("%s", line)
		name, value, _ := strings.Cut(line, " ")
		if found[name], err = strconv.ParseFloat(value, 64); err != nil {
			return err
		}
	}
	one := `{view="job_progress"}`
	if found["matview_refreshes_total"+one] < 1 || found["matview_staleness_seconds"+one] <= 0 || found["matview_staleness_seconds"+one] > 60 {
		return errors.New("implausible matview_refreshes_total or matview_staleness_seconds")
	}
	return errors.Join(want("matview_up", found["matview_up"], 1), want("matview_stale", found["matview_stale"+one], 0),
		want("matview_refresh_failures_total", found["matview_refresh_failures_total"+one], 0),
		want("matview_total_objects", found["matview_total_objects"+one], 1_250_000))
}

func (d *demo) showCheck(ctx context.Context) error {
	env := []string{"MATVIEW_DATABASE_URL=" + d.url("matview_exporter", d.exporterPassword)}
	out, err := output(ctx, "", env, d.exporterBinary(), "check", "--max-age=5m", "job_progress")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(out, "job_progress: fresh, data as of ") {
		return fmt.Errorf("check printed %s", out)
	}
	say("matview-exporter check --max-age=5m job_progress")
	say("%s(exit 0)", strings.Replace(out, "\n", " ", 1))
	return nil
}

// awaitRefresh waits for a refresh by the exporter that finished after a time.
func (d *demo) awaitRefresh(ctx context.Context, after time.Time) (viewStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		s, err := d.status(ctx)
		if err != nil {
			return s, err
		}
		if s.LastOutcome == "failed" {
			return s, fmt.Errorf("a refresh failed\n%s", d.exporterLog())
		}
		if s.TotalJobs > 0 && s.LastRefreshedAt.After(after) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("no refresh within a minute: %w\n%s", ctx.Err(), d.exporterLog())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *demo) showStaleness(ctx context.Context) error {
	last, err := d.awaitRefresh(ctx, time.Time{})
	if err != nil {
		return err
	}
	for range 2 {
		var grown viewStatus
		// Poll until the next refresh.
		for s := last; s.LastRefreshedAt.Equal(last.LastRefreshedAt); {
			if grown.StalenessSeconds != nil && *s.StalenessSeconds <= *grown.StalenessSeconds {
				return fmt.Errorf("staleness fell from %.3f s to %.3f s without a refresh", *grown.StalenessSeconds, *s.StalenessSeconds)
			}
			grown = s
			time.Sleep(100 * time.Millisecond)
			if s, err = d.status(ctx); err != nil {
				return err
			}
		}
		next, err := d.awaitRefresh(ctx, last.LastRefreshedAt)
		if err != nil {
			return err
		}
		say("%5.2f s after one refresh, it grew to %5.2f s, and the next one, as of %s, brought it to %5.2f s",
			*last.StalenessSeconds, *grown.StalenessSeconds, next.DataAsOf.Format(time.TimeOnly), *next.StalenessSeconds)
		if *grown.StalenessSeconds <= *last.StalenessSeconds || *next.StalenessSeconds >= *grown.StalenessSeconds {
			return errors.New("staleness did not grow and fall")
		}
		last = next
	}
	return nil
}
