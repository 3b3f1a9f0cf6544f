package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/exporter/scheduler"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

type statusFlags struct {
	views  []string
	output string
}

func (a *app) addStatus(cli *kingpin.Application, commands map[string]command) {
	var f statusFlags
	c := cli.Command("status", "Show how fresh each view is, when it runs next and what failed.")
	c.Flag("output", "table or json.").Default("table").EnumVar(&f.output, "table", "json")
	c.Arg("view", "Views to show; without any, all of the database.").StringsVar(&f.views)
	commands[c.FullCommand()] = func(ctx context.Context) int { return a.status(ctx, f) }
}

func (a *app) status(ctx context.Context, f statusFlags) int {
	pool, err := a.open(ctx, 1)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	defer pool.Close()
	var views []freshness.View
	if len(f.views) > 0 {
		views, err = a.find(ctx, pool, f.views)
	} else {
		views, err = freshness.All(ctx, pool, a.schema)
	}
	if err != nil {
		return a.fail(exitFailed, a.hint(err))
	}
	explanations, err := scheduler.NewExplainer(pool, a.schema).Explain(ctx, views)
	if err != nil {
		return a.fail(exitFailed, a.hint(err))
	}
	if f.output == "json" {
		err = a.statusJSON(views, explanations)
	} else {
		err = a.table(views, explanations)
	}
	if err != nil {
		return a.fail(exitFailed, fmt.Errorf("write the status: %w", err))
	}
	return exitOK
}

// explained is a view as /cache/status has it, with its explanation.
type explained struct {
	api.View
	NextRunReason *string `json:"next_run_reason"`
	Method        *string `json:"last_method"`
	MethodReason  *string `json:"last_method_reason"`
	Warning       *string `json:"last_warning"`
}

func (a *app) statusJSON(views []freshness.View, explanations map[string]scheduler.Explanation) error {
	status := struct {
		Views []explained `json:"views"`
	}{Views: make([]explained, len(views))}
	for i, v := range views {
		e := explanations[v.Name]
		status.Views[i] = explained{
			View: api.NewView(v), NextRunReason: orNil(e.NextRun), Method: orNil(e.Method), MethodReason: orNil(e.MethodReason), Warning: orNil(e.Warning),
		}
	}
	encoder := json.NewEncoder(a.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(status)
}

// table puts the explanation last: that column is as wide in each row as its own
// text, so that the error of one view widens no other row.
func (a *app) table(views []freshness.View, explanations map[string]scheduler.Explanation) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VIEW\tSTATE\tDATA AS OF\tREFRESHED\tTOOK\tNEXT RUN\tWHY")
	for _, v := range views {
		fmt.Fprintln(w, strings.Join([]string{
			v.Name, state(v), since(v.DataAsOf, v.StalenessSeconds), since(v.LastRefreshedAt, v.SecondsSinceRefresh),
			took(v), nextRun(v), orDash(orNil(explanations[v.Name].String())),
		}, "\t"))
	}
	return w.Flush()
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func state(v freshness.View) string {
	switch {
	case v.RefreshInProgress:
		return "refreshing"
	case v.IsStale == nil:
		return "not tracked"
	case v.StaleReason != nil:
		return *v.StaleReason
	default:
		return "fresh"
	}
}

func since(at *time.Time, age *float64) string {
	if at == nil || age == nil {
		return "-"
	}
	return ago(*age)
}

func took(v freshness.View) string {
	if v.RefreshDurationMS == nil {
		return "-"
	}
	return fmt.Sprintf("%s (%s)", seconds(float64(*v.RefreshDurationMS)/1000), orDash(v.PerformanceRating))
}

func nextRun(v freshness.View) string {
	switch {
	case !v.IsScheduled:
		return "no schedule"
	case v.Enabled != nil && !*v.Enabled:
		return "paused"
	case v.NextRunAt == nil:
		return "-"
	default:
		return v.NextRunAt.UTC().Format(time.RFC3339)
	}
}

func orDash(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

// hint adds to an error what to do where the tables of matview are not installed, or
// closed to this role.
func (a *app) hint(err error) error {
	var text string
	switch postgres.SQLState(err) {
	case pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName, pgerrcode.UndefinedFunction:
		text = fmt.Sprintf("the tables of matview are not installed in schema %s: run `matview-exporter migrate`, apply a matview_refresh_log, or set --database.schema", a.schema)
	case pgerrcode.InsufficientPrivilege:
		text = "this role may not use the tables of matview: put it into writer_roles or reader_roles of matview_refresh_log"
	default:
		return err
	}
	return errors.Join(errors.New(text), err)
}
