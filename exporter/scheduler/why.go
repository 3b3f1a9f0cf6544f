package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// Reasons are why a view runs when it does and as it does; "" where there is none.
type Reasons struct {
	NextRun string
	// Method is that of the last attempt that chose one, and Choice why it was chosen.
	Method, Choice string
	Warning        string // of that attempt
}

// Why explains the next run and the last method of each view, by canonical name.
// It takes no lock on any of them.
func (s *Scheduler) Why(ctx context.Context, views []freshness.View) (map[string]Reasons, error) {
	w := why{Scheduler: s}
	names := make([]string, len(views))
	for i, v := range views {
		names[i] = v.Name
	}
	if _, err := s.readUpstreams(ctx); err != nil {
		return nil, err
	}
	for _, read := range []func(context.Context) error{w.readSchedules, w.readRunning, w.readWaits, w.readGoals} {
		if err := read(ctx); err != nil {
			return nil, err
		}
	}
	// Of a view that is being refreshed the attempt before counts.
	history, err := freshness.History(ctx, s.Pool, s.Schema, names, 2)
	if err != nil {
		return nil, err
	}
	reasons := make(map[string]Reasons, len(views))
	for _, v := range views {
		r := Reasons{NextRun: w.nextRun(v)}
		for _, a := range slices.Backward(history[v.Name]) {
			if a.Method != nil {
				r.Method, r.Choice, r.Warning = *a.Method, text(a.Reason), text(a.Warning)
			}
		}
		reasons[v.Name] = r
	}
	return reasons, nil
}

// why is what [Scheduler.Why] has read, by canonical names.
type why struct {
	*Scheduler
	now      time.Time
	schedule map[string]schedule.Row
	ignored  map[string][]string // further rows of a view
	running  map[string]string
	waits    map[string]string
	goals    map[string]schedule.Goal
}

func (w *why) readSchedules(ctx context.Context) error {
	rows, err := w.Pool.Query(ctx, fmt.Sprintf(`
SELECT DISTINCT ON (s.view_name) %s, coalesce(n.view_name, s.view_name), coalesce(n.preference, 0), clock_timestamp()
FROM %s AS s LEFT JOIN %s AS n ON n.known_as = s.view_name
ORDER BY s.view_name, n.preference`, schedule.Columns, w.table("schedule"), postgres.QuoteIdent(w.Schema, "materialized_view_names")))
	if err != nil {
		return fmt.Errorf("read the schedules: %w", err)
	}
	type named struct {
		row        schedule.Row
		view       string
		preference int
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n named, err error) {
		n.row, err = schedule.Scan(row, &n.view, &n.preference, &w.now)
		return n, err
	})
	if err != nil {
		return fmt.Errorf("read the schedules: %w", err)
	}
	slices.SortStableFunc(found, func(a, b named) int { return a.preference - b.preference })
	w.schedule, w.ignored = map[string]schedule.Row{}, map[string][]string{}
	for _, n := range found {
		if _, known := w.schedule[n.view]; known {
			w.ignored[n.view] = append(w.ignored[n.view], n.row.ViewName)
			continue
		}
		w.schedule[n.view] = n.row
	}
	return nil
}

func (w *why) readRunning(ctx context.Context) error {
	w.running = map[string]string{}
	rows, err := w.Pool.Query(ctx, `
SELECT view_name, format('running for %s s, by %s', round(extract(epoch FROM clock_timestamp() - started_at)), coalesce(attempted_by, 'an exporter'))
FROM `+w.table("history")+` WHERE outcome = 'running' ORDER BY started_at`)
	return collectInto(w.running, rows, err)
}

func (w *why) readWaits(ctx context.Context) error {
	w.waits = map[string]string{}
	readers, read := w.pairs()
	if len(readers) == 0 {
		return nil
	}
	rows, err := w.Pool.Query(ctx, fmt.Sprintf(`
SELECT w.reader, string_agg(DISTINCT w.read, ', ' ORDER BY w.read)
FROM `+waitingSQL+` AS w
JOIN %[1]s AS st ON st.view_name = w.reader AND st.next_run_at <= clock_timestamp()
                AND st.next_run_at > clock_timestamp() - $3 * interval '1 second'
GROUP BY w.reader`, w.table("state"), w.table("schedule"), w.table("history")), readers, read, w.upstreamWait(), true)
	return collectInto(w.waits, rows, err)
}

func collectInto(texts map[string]string, rows pgx.Rows, err error) error {
	if err == nil {
		var view, text string
		_, err = pgx.ForEachRow(rows, []any{&view, &text}, func() error { texts[view] = text; return nil })
	}
	if err != nil {
		return fmt.Errorf("read why views run when they do: %w", err)
	}
	return nil
}

func (w *why) readGoals(ctx context.Context) (err error) {
	targets := map[string]time.Duration{}
	for view, row := range w.schedule {
		if row.TargetStaleness > 0 {
			targets[view] = row.TargetStaleness
		}
	}
	w.goals, err = w.Scheduler.readGoals(ctx, targets)
	return err
}

// nextRun says first what keeps the view from running as its schedule says.
func (w *why) nextRun(v freshness.View) string {
	row, scheduled := w.schedule[v.Name]
	var said []string
	if running := w.running[v.Name]; running != "" {
		said = append(said, running)
	}
	switch {
	case !scheduled:
	case !row.Enabled:
		said = append(said, "paused: its schedule is disabled")
	case v.NextRunAt == nil:
		said = append(said, w.neverRuns(row))
	default:
		if waits := w.waits[v.Name]; waits != "" && v.NextRunAt.Before(w.now) {
			said = append(said, "due, waits for "+waits)
		} else if v.NextRunAt.Before(w.now) && len(said) == 0 {
			said = append(said, "due, to be taken by the next exporter that is free")
		}
		rule := w.rule(v.Name, row)
		if v.ConsecutiveFailures > 0 {
			rule = "backing off, no later than its schedule says (" + rule + ")"
		}
		said = append(said, rule)
	}
	if v.ConsecutiveFailures > 0 {
		said = append(said, fmt.Sprintf("%s, the last: %s", times(v.ConsecutiveFailures, "failure"), text(v.LastError)))
	}
	for _, name := range w.ignored[v.Name] {
		said = append(said, "ignored: a second schedule, of "+name)
	}
	return strings.Join(said, "; ")
}

func (w *why) neverRuns(row schedule.Row) string {
	if err := Validate(row); err != nil {
		return "never: " + err.Error()
	}
	return "not planned yet: no exporter has seen this schedule"
}

// rule is the schedule in words.
func (w *why) rule(view string, row schedule.Row) string {
	var rule string
	switch {
	case row.Cron != "":
		rule = "cron " + row.Cron
		if row.TimeZone != "" && row.TimeZone != "UTC" {
			rule += " in " + row.TimeZone
		}
	case row.Every > 0:
		rule = "every " + row.Every.String()
	default:
		goal := w.goals[view]
		rule = fmt.Sprintf("target %s, less %s that refreshes take at the 95th percentile", goal.Staleness, goal.Lead.Round(time.Millisecond))
		if !goal.Reachable() {
			rule = fmt.Sprintf("target %s cannot be met: %s", goal.Staleness, unreachable(goal))
		}
	}
	if row.Jitter > 0 {
		rule += ", spread over " + row.Jitter.String()
	}
	return rule
}

func times(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss in a row", n, what)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
