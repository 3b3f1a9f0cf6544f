package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kingpin/v2"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

type refreshFlags struct {
	views    []string
	all, due bool
	method   string

	maxConcurrent int
	output        string
	publish       publishFlags
}

func (a *app) addRefresh(cli *kingpin.Application, commands map[string]command) {
	var f refreshFlags
	c := cli.Command("refresh", "Refresh views now, in the order of their dependencies, and record it. Exits with 1 if any failed.")
	c.Flag("all", "Refresh every materialized view of the database.").BoolVar(&f.all)
	c.Flag("due", "Refresh the scheduled views that are due.").BoolVar(&f.due)
	c.Flag("method", "auto, blocking, concurrently or swap; by default what the view's schedule says, else auto.").EnumVar(&f.method, refresh.Methods...)
	c.Flag("max-concurrent", "How many views may be refreshed at once, those apart that one reads.").Default("2").IntVar(&f.maxConcurrent)
	c.Flag("output", "text, with progress on a terminal, or json: one line of JSON for each view as it is done, on standard output.").Default("text").EnumVar(&f.output, "text", "json")
	f.publish.add(c)
	c.Arg("view", "Views to refresh.").StringsVar(&f.views)
	commands[c.FullCommand()] = func(ctx context.Context) int { return a.refresh(ctx, f) }
}

func (f refreshFlags) validate() error {
	if f.maxConcurrent < 1 {
		return errors.New("--max-concurrent must be at least 1")
	}
	given := 0
	for _, set := range []bool{len(f.views) > 0, f.all, f.due} {
		if set {
			given++
		}
	}
	if given != 1 {
		return errors.New("refresh what? Name views, or give one of --all and --due")
	}
	return nil
}

func (a *app) refresh(ctx context.Context, f refreshFlags) int {
	if err := f.validate(); err != nil {
		return a.fail(exitUsage, err)
	}
	// A terminal that is closed, or a reader of the output that is gone, stops it as
	// Ctrl-C does: what it is at is recorded, and not left behind as running. With
	// nohup it goes on.
	gone := []os.Signal{syscall.SIGPIPE}
	if !signal.Ignored(syscall.SIGHUP) {
		gone = append(gone, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(ctx, gone...)
	defer stop()
	pool, err := a.open(ctx, f.connections())
	if err != nil {
		return a.fail(exitFailed, err)
	}
	defer pool.Close()
	r, err := a.newRefreshing(ctx, pool, f)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	published := context.WithoutCancel(ctx) // also when interrupted
	r.announce(ctx, published)
	defer r.publish(published)
	views, err := r.wanted(ctx)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	if len(views) == 0 && f.output == "text" {
		fmt.Fprintln(a.stdout, "Nothing to refresh.")
	}
	return a.shown(ctx, r, views)
}

// shown refreshes the views and says how that goes.
func (a *app) shown(ctx context.Context, r *refreshing, views []string) (code int) {
	p := newProgress(a, r.pool)
	if r.flags.output == "json" {
		p.terminal = nil
	}
	stop := p.watch(ctx, views)
	left, err := r.each(ctx, views, p.begin, func(view string, result refresh.Result, claimed bool, err error) {
		if err != nil {
			code = exitFailed
		}
		if result.Warning != "" && r.flags.output == "text" {
			p.print(a.stderr, fmt.Sprintf("%s: warning: %s", result.View, result.Warning))
		}
		to, line := r.said(view, result, claimed, err)
		p.end(view, to, line)
	})
	stop()
	switch {
	case err != nil:
		return a.fail(exitFailed, err)
	case len(left) > 0:
		return a.fail(exitFailed, errors.New("interrupted; the views not named above were not refreshed"))
	}
	return code
}

// said is what is printed about a view, and where.
func (r *refreshing) said(view string, result refresh.Result, claimed bool, err error) (to io.Writer, line string) {
	switch {
	case r.flags.output == "json":
		return r.stdout, newRefreshed(view, result, claimed, err).line()
	case err != nil:
		return r.stderr, fmt.Sprintf("%s: FAILED: %s", view, postgres.Message(err))
	case !claimed:
		return r.stdout, view + ": taken by another exporter meanwhile"
	case result.Skipped:
		return r.stdout, fmt.Sprintf("%s: skipped, %s", result.View, result.Reason)
	}
	return r.stdout, fmt.Sprintf("%s: refreshed in %s, %s: %s", result.View, seconds(result.Duration.Seconds()), result.Method, result.Reason)
}
