package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// Loop claims due refreshes and makes them, until it is stopped.
type Loop struct {
	*worker
	wake    chan struct{}
	workers chan struct{} // a token for each refresh under way
	running sync.WaitGroup

	listener   *listener
	comparedAt time.Time // when schedules were last compared with their plans
	standby    bool      // what the server was last seen to be
	announced  bool      // whether the log says what is scheduled
	// since is when the loop began to schedule, or to do so again.
	since time.Time
}

// NewLoop makes a loop; [Loop.Run] starts it.
func NewLoop(o Options) *Loop {
	return &Loop{worker: newWorker(o), wake: make(chan struct{}, 1), workers: make(chan struct{}, o.MaxConcurrent)}
}

const (
	// pollInterval finds changes whose notification was lost, and attempts of other
	// exporters, to be there when their heartbeat stops.
	pollInterval = 4 * time.Second
	// pollWithoutNotify is the interval as long as notifications do not arrive at all,
	// so that a changed schedule still takes effect within a second.
	pollWithoutNotify = 900 * time.Millisecond
	// tickTimeout bounds one round of statements, none of which waits for a refresh.
	tickTimeout = 30 * time.Second
	// shortestWait keeps the loop from spinning on what another exporter has locked.
	shortestWait = 50 * time.Millisecond
)

// Run schedules until ctx ends. It then claims nothing more, waits for running
// refreshes up to ShutdownTimeout and cancels and records the rest.
func (l *Loop) Run(ctx context.Context) {
	work, cancelWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelWork(nil)
	l.listener = l.listen(ctx)
	l.loop(ctx, work)

	done := make(chan struct{})
	go func() { l.running.Wait(); close(done) }()
	timeout := time.NewTimer(l.ShutdownTimeout)
	defer timeout.Stop()
	select {
	case <-done:
		return
	case <-timeout.C:
		l.Logger.Warn("refreshes still running at the shutdown timeout are cancelled", "timeout", l.ShutdownTimeout)
		cancelWork(fmt.Errorf("cancelled: the exporter was stopped, and this went on for longer than --shutdown-timeout, which is %s", l.ShutdownTimeout))
		<-done
	}
}

func (l *Loop) loop(ctx, work context.Context) {
	var failures int
	var nextPrune time.Time
	l.since = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-l.wake:
		}
		wait, err := l.tick(ctx, work)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failures++
			if failures == 1 || failures%10 == 0 {
				l.Logger.Error("cannot schedule; will try again", "err", postgres.Message(l.hint(err)), "failures", failures)
			}
			timer.Reset(min(time.Second<<min(failures-1, 10), maxRetry))
			continue
		}
		if failures > 0 {
			l.since = time.Now()
			l.Logger.Info("scheduling again", "after_failures", failures)
			failures = 0
		}
		l.announce(ctx)
		if time.Now().After(nextPrune) {
			l.prune(ctx)
			nextPrune = time.Now().Add(time.Hour)
		}
		timer.Reset(max(min(wait, l.untilCompare()), shortestWait))
	}
}

// announce logs once which database this is and how many schedules it has: until a
// view is due, nothing else shows that they were found.
func (l *Loop) announce(ctx context.Context) {
	if l.announced || l.standby {
		return
	}
	schedules, err := l.store.CountSchedules(ctx, l.Pool)
	if err != nil {
		return // the next round tries again, and logs what is wrong
	}
	l.announced = true
	at := l.Pool.Config().ConnConfig
	l.Logger.Info("scheduling", "host", at.Host, "database", at.Database, "user", at.User, "schedules", schedules.Enabled, "paused", schedules.Paused)
}

// untilCompare is how long until all schedules are compared with their plans again.
// That is too expensive for each round while hundreds of views a second are refreshed.
func (l *Loop) untilCompare() time.Duration {
	return time.Until(l.comparedAt.Add(l.listener.pollInterval()))
}

// tick does one round and returns how long until the next view is due. An idle
// round is a single statement.
func (l *Loop) tick(ctx, work context.Context) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, tickTimeout)
	defer cancel()
	began := time.Now()
	compare := l.listener.changed.Swap(false) || l.untilCompare() <= 0
	defer func() {
		if err != nil {
			l.comparedAt = time.Time{} // schedules found changed may not be planned
		} else if compare {
			l.comparedAt = began
		}
	}()
	outlook, err := l.outlook(ctx, compare)
	if err != nil {
		return 0, err
	}
	if l.isStandby(outlook) {
		return pollInterval, nil
	}
	if outlook, err = l.prepare(ctx, outlook); err != nil {
		return 0, err
	}
	for outlook.UntilDue <= 0 {
		free := cap(l.workers) - len(l.workers)
		if free == 0 {
			outlook.UntilDue = maxRetry // the next refresh that ends wakes the loop
			break
		}
		claims, missed, err := l.claim(ctx, l.waiting(), free, "")
		if err != nil {
			return 0, err
		}
		if missed {
			l.listener.changed.Store(true) // a changed schedule is planned in the next round
		}
		for _, c := range claims {
			l.start(work, c)
		}
		if len(claims) == 0 { // another exporter is claiming them
			return 0, nil
		}
		if outlook, err = l.outlook(ctx, false); err != nil {
			return 0, err
		}
	}
	return untilNext(outlook), nil
}

// prepare plans changed schedules, records abandoned attempts and reads which view
// reads which, each only if there is a need.
func (l *Loop) prepare(ctx context.Context, outlook store.Outlook) (store.Outlook, error) {
	abandoned := outlook.UntilDead <= 0
	if outlook.HasUnplanned {
		if err := l.planner.plan(ctx); err != nil {
			return outlook, err
		}
		l.dependencies.invalidate()
	}
	if abandoned {
		if err := l.reap(ctx); err != nil {
			return outlook, err
		}
	}
	var err error
	if outlook.HasUnplanned || abandoned {
		if outlook, err = l.outlook(ctx, false); err != nil {
			return outlook, err
		}
	}
	if outlook.UntilDue > 0 {
		return outlook, nil
	}
	if read, err := l.dependencies.refresh(ctx); err != nil || !read {
		return outlook, err
	}
	return l.outlook(ctx, false)
}

func untilNext(outlook store.Outlook) time.Duration {
	wait := outlook.UntilDue
	if outlook.HasWaiting {
		wait = min(wait, waitingPoll)
	}
	if outlook.UntilDead > 0 { // else it could not be recorded now: a later round does it
		wait = min(wait, outlook.UntilDead)
	}
	return wait
}

func (l *Loop) outlook(ctx context.Context, compare bool) (store.Outlook, error) {
	return l.store.Outlook(ctx, l.Pool, l.waiting(), compare, l.planner.ignoredNow())
}

const endless = 100 * 365 * 24 * time.Hour

// waiting says which view waits for which. UpstreamWait counts from when a view fell
// due, but what fell due while nobody could refresh it has not waited yet.
func (l *Loop) waiting() store.Waiting {
	if time.Since(l.since) < l.UpstreamWait {
		return l.dependencies.waiting(endless)
	}
	return l.dependencies.waiting(l.UpstreamWait)
}

// isStandby is whether there is nothing to do because the server is a standby, or
// was demoted to one. It logs once that it is, and once that it no longer is.
func (l *Loop) isStandby(outlook store.Outlook) bool {
	if outlook.IsStandby != l.standby {
		l.standby = outlook.IsStandby
		if l.standby {
			l.Logger.Warn("the database is a standby, which cannot be refreshed; idle until it is promoted, or another of the hosts is the primary")
		} else {
			l.since = time.Now()
			l.Logger.Info("the database takes writes; scheduling again")
		}
	}
	if l.standby {
		// Of several hosts, another one may be the primary by now: only a new connection
		// finds out.
		l.Pool.Reset()
	}
	return l.standby
}

// start makes one claimed refresh in a goroutine of its own.
func (l *Loop) start(ctx context.Context, c claim) {
	l.workers <- struct{}{} // free: only the loop adds
	l.running.Go(func() {
		defer func() {
			<-l.workers
			l.wakeUp()
		}()
		began := time.Now()
		result, err := l.attempt(ctx, c)
		l.report(c, began, result, err)
	})
}

func (l *Loop) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default: // a wake-up is pending
	}
}
