package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

type checkFlags struct {
	views       []string
	maxAge      time.Duration
	maxAgeGiven bool
}

func (a *app) addCheck(cli *kingpin.Application, commands map[string]command) {
	var f checkFlags
	c := cli.Command("check", "Say which views are fresh and which are stale. Exits with 0 if all are fresh, 1 if one is stale, of unknown age or never refreshed, 2 if it could not tell.")
	c.Flag("max-age", "The oldest data, by its as-of, that counts as fresh. By default each view's own limit from its schedule.").IsSetByUser(&f.maxAgeGiven).DurationVar(&f.maxAge)
	c.Arg("view", "Views to check; without any, those that have a schedule or a row in the refresh log.").StringsVar(&f.views)
	commands[c.FullCommand()] = func(ctx context.Context) int { return a.check(ctx, f) }
}

func (a *app) check(ctx context.Context, f checkFlags) int {
	if f.maxAgeGiven && f.maxAge <= 0 {
		return a.fail(exitUnknown, fmt.Errorf("--max-age=%s is no age; give a duration such as 5m", f.maxAge))
	}
	pool, err := a.open(ctx, 1)
	if err != nil {
		return a.fail(exitUnknown, err)
	}
	defer pool.Close()
	views, err := a.find(ctx, pool, f.views)
	if err != nil {
		return a.fail(exitUnknown, err)
	}
	if len(views) == 0 {
		return a.fail(exitUnknown, errors.New("nothing to check: no view has a schedule or a row in the refresh log"))
	}
	code := exitOK
	for _, v := range views {
		verdict, fresh := judge(v, f.maxAge)
		if !fresh {
			code = exitStale
		}
		fmt.Fprintf(a.stdout, "%s: %s\n", v.Name, verdict)
	}
	return code
}

// find reads the named views, each by any of its names; without names those
// that somebody asked about.
func (a *app) find(ctx context.Context, pool *pgxpool.Pool, names []string) ([]freshness.View, error) {
	if len(names) == 0 {
		all, err := freshness.All(ctx, pool, a.schema)
		if err != nil {
			return nil, a.hint(err)
		}
		var asked []freshness.View
		for _, v := range all {
			if v.Asked() {
				asked = append(asked, v)
			}
		}
		return asked, nil
	}
	views := make([]freshness.View, 0, len(names))
	for _, name := range names {
		v, found, err := freshness.Find(ctx, pool, a.schema, name)
		if err != nil {
			return nil, a.hint(err)
		}
		if !found {
			return nil, fmt.Errorf("there is no materialized view %s, nor a log row or schedule for one", name)
		}
		views = append(views, v)
	}
	return views, nil
}

// judge says whether a view is fresh. What is not known is not fresh.
func judge(v freshness.View, maxAge time.Duration) (verdict string, fresh bool) {
	age := "of unknown age"
	if v.StalenessSeconds != nil {
		age = "data as of " + ago(*v.StalenessSeconds)
	}
	stale := func(why string) (string, bool) { return fmt.Sprintf("STALE (%s), %s", why, age), false }
	switch {
	case v.StaleReason != nil && *v.StaleReason != olderThanMax:
		return stale(*v.StaleReason)
	case v.StalenessSeconds == nil && v.LastRefreshedAt == nil:
		return stale("never_refreshed")
	case v.StalenessSeconds == nil:
		return stale("unverified")
	case maxAge > 0:
		if *v.StalenessSeconds > maxAge.Seconds() {
			return stale("older than " + maxAge.String())
		}
		return "fresh, " + age, true
	case v.StaleReason != nil:
		return stale(fmt.Sprintf("%s of %s", *v.StaleReason, seconds(*v.MaxStalenessSeconds)))
	case v.MaxStalenessSeconds == nil:
		return "not known to be stale, as it has no schedule and no --max-age was given, " + age, true
	default:
		return "fresh, " + age, true
	}
}

const olderThanMax = "older_than_max_staleness"

func ago(s float64) string { return seconds(s) + " ago" }

// seconds renders a duration to a precision that a person reads at a glance.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}
