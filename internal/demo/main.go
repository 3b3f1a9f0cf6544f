// demo shows matview on a PostgreSQL server of its own: a view declared in Terraform
// and refreshed by the exporter, which logs in with few rights; and its freshness,
// read in every way there is. Each step asserts what it shows.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Getenv("KEEP") == "1")
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nDEMO FAILED: %v\n", err)
		os.Exit(1)
	}
}

// step is one thing that the demo shows.
type step struct {
	title string
	show  func(context.Context) error
}

func run(ctx context.Context, keep bool) (err error) {
	began := time.Now()
	d := &demo{}
	defer func() { err = errors.Join(err, d.cleanUp()) }()
	steps := []step{
		{"Build both programs from this checkout.", d.build},
		{"Start a PostgreSQL server, with 150 jobs and 1,250,000 objects.", d.startDatabase},
		{"terraform init and apply: the refresh log, the view job_progress, its schedule.", d.apply},
		{"Run the exporter with a login of its own, which is not a superuser.", d.startExporter},
		{"A cached answer says when it was cached and how long that took.", d.showCached},
		{"With ?real_time=true, the answer comes from the tables themselves.", d.showRealTime},
		{"/cache/status: how fresh each view is.", d.showStatus},
		{"The metrics say the same to Prometheus.", d.showMetrics},
		{"matview-exporter check, for scripts: exit 0 while everything is fresh.", d.showCheck},
		{"Staleness grows, and falls with each refresh.", d.showStaleness},
		{"A second plan is empty, even while the exporter refreshes.", d.showEmptyPlan},
		{"The data source reads last_refreshed_at back into Terraform.", d.showDataSource},
	}
	for i, s := range steps {
		fmt.Printf("\n%2d. %s\n", i+1, s.title)
		start := time.Now()
		if err := s.show(ctx); err != nil {
			if ctx.Err() != nil {
				err = errors.New("interrupted")
			}
			return fmt.Errorf("step %d (%s): %w", i+1, s.title, err)
		}
		fmt.Printf("    ok, %s\n", time.Since(start).Round(10*time.Millisecond))
	}
	fmt.Printf("\nAll %d steps passed in %s.\n", len(steps), time.Since(began).Round(100*time.Millisecond))
	if keep {
		d.sayWhere()
		<-ctx.Done()
	}
	return nil
}

// say prints what a step shows, indented below its title.
func say(format string, args ...any) {
	fmt.Printf("    "+format+"\n", args...)
}
