// Package scheduler refreshes each scheduled view when it is due. Any number of
// exporters run it side by side: they share the work through PostgreSQL alone,
// by database time, and none of them leads.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// Observer is told of every attempt of this process.
type Observer interface {
	// Init is called with all scheduled views whenever they change.
	Init(views []string)
	// Observe is called once an attempt; outcome is "succeeded", "skipped" or "failed".
	Observe(view, method, outcome string, duration time.Duration)
}

// Options are what a [Scheduler] needs.
type Options struct {
	Pool      *pgxpool.Pool
	Refresher *refresh.Refresher
	Schema    string // of the tables of matview
	// AttemptedBy names this process in the history.
	AttemptedBy   string
	MaxConcurrent int
	// ShutdownTimeout is how long refreshes may go on after Run's context ends.
	ShutdownTimeout time.Duration
	// UpstreamWait is how long a view that is due waits for those that it reads;
	// 0 means [DefaultUpstreamWait].
	UpstreamWait time.Duration
	Observer     Observer
	Logger       *slog.Logger
	// Hint adds to an error of the tables what to do about it.
	Hint func(error) error
}

// Scheduler claims due refreshes and runs them.
type Scheduler struct {
	Options
	wake    chan struct{}
	workers chan struct{} // a token for each refresh under way
	running sync.WaitGroup
	ignored map[string]bool // second schedules of one view, said once
	standby bool            // what the server was last seen to be
	greeted bool            // whether the log has said what is scheduled
	upstreams
	*listener
	comparedAt time.Time // when schedules were last looked through for changes
	// since is when the loop began to schedule, or to do so again; zero without one.
	since time.Time
}

// New makes a scheduler; [Scheduler.Run] starts it.
func New(o Options) *Scheduler {
	if o.UpstreamWait == 0 {
		o.UpstreamWait = DefaultUpstreamWait
	}
	s := &Scheduler{Options: o, wake: make(chan struct{}, 1), workers: make(chan struct{}, o.MaxConcurrent), ignored: map[string]bool{}}
	s.unreachable = map[string]bool{}
	s.listener = &listener{} // nobody's yet
	return s
}

func (s *Scheduler) hint(err error) error {
	if s.Hint == nil {
		return err
	}
	return s.Hint(err)
}

const (
	// pollInterval finds what a lost notification would have told, and attempts of
	// other exporters, to be there when their heartbeat stops.
	pollInterval = 4 * time.Second
	// pollWithoutNotify is for as long as notifications do not arrive at all, so
	// that a changed schedule still takes effect within a second.
	pollWithoutNotify = 900 * time.Millisecond
	// tickTimeout bounds one round of statements, none of which waits for a refresh.
	tickTimeout = 30 * time.Second
	maxRetry    = 10 * time.Second
	// shortestWait keeps the loop from spinning on what another exporter holds.
	shortestWait = 50 * time.Millisecond
	// waitingPoll is for as long as a view waits for another that it reads, which
	// another exporter may be refreshing.
	waitingPoll = 250 * time.Millisecond
)

// Run schedules until ctx ends. It then claims nothing more, waits for running
// refreshes up to ShutdownTimeout and cancels and records the rest.
func (s *Scheduler) Run(ctx context.Context) {
	work, cancelWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelWork(nil)
	s.listener = s.listen(ctx)
	s.loop(ctx, work)

	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	timeout := time.NewTimer(s.ShutdownTimeout)
	defer timeout.Stop()
	select {
	case <-done:
		return
	case <-timeout.C:
		s.Logger.Warn("refreshes still running at the shutdown timeout are cancelled", "timeout", s.ShutdownTimeout)
		cancelWork(fmt.Errorf("cancelled: the exporter was stopped, and this went on for longer than --shutdown-timeout, which is %s", s.ShutdownTimeout))
		<-done
	}
}

func (s *Scheduler) loop(ctx, work context.Context) {
	var failures int
	var nextPrune time.Time
	s.since = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.wake:
		}
		wait, err := s.tick(ctx, work)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			wait = min(time.Second<<min(failures-1, 10), maxRetry)
			if failures == 1 || failures%10 == 0 {
				s.Logger.Error("cannot schedule; will try again", "err", postgres.Message(s.hint(err)), "failures", failures)
			}
		default:
			if failures > 0 {
				s.since = time.Now()
				s.Logger.Info("scheduling again", "after_failures", failures)
			}
			if failures = 0; !s.greeted && !s.standby {
				s.greet(ctx)
			}
			wait = max(min(wait, s.untilCompare()), shortestWait)
		}
		if err == nil && time.Now().After(nextPrune) {
			s.prune(ctx)
			nextPrune = time.Now().Add(time.Hour)
		}
		timer.Reset(wait)
	}
}

// greet logs once which database this is and how many schedules it holds: nothing
// else would tell, until a view is due, that they were found.
func (s *Scheduler) greet(ctx context.Context) {
	var enabled, paused int
	err := s.Pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE enabled), count(*) FILTER (WHERE NOT enabled) FROM `+s.table("schedule")).Scan(&enabled, &paused)
	if err != nil {
		return // the next round tries again, and says what is wrong if it is
	}
	s.greeted = true
	at := s.Pool.Config().ConnConfig
	s.Logger.Info("scheduling", "host", at.Host, "database", at.Database, "user", at.User, "schedules", enabled, "paused", paused)
}

// compares is whether it is time to look through all schedules for changed ones:
// that is too dear for each round while hundreds of views a second are refreshed.
func (s *Scheduler) compares() bool {
	return s.told.Swap(false) || s.untilCompare() <= 0
}

func (s *Scheduler) untilCompare() time.Duration {
	return time.Until(s.comparedAt.Add(s.pollInterval()))
}

// tick does one round and returns how long until the next view is due. An idle
// round is a single statement.
func (s *Scheduler) tick(ctx, work context.Context) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, tickTimeout)
	defer cancel()
	began, compares := time.Now(), s.compares()
	defer func() {
		if err != nil {
			s.comparedAt = time.Time{} // what was found changed may not be planned
		} else if compares {
			s.comparedAt = began
		}
	}()
	outlook, err := s.look(ctx, compares)
	if err != nil {
		return 0, err
	}
	if s.idles(outlook.standby) {
		return pollInterval, nil
	}
	if outlook.changed {
		if err := s.reconcile(ctx); err != nil {
			return 0, err
		}
		s.forgetUpstreams()
	}
	abandoned := outlook.untilDead <= 0
	if abandoned {
		if err := s.reap(ctx); err != nil {
			return 0, err
		}
	}
	if outlook.changed || abandoned {
		if outlook, err = s.look(ctx, false); err != nil {
			return 0, err
		}
	}
	if outlook.untilDue <= 0 {
		fresh, err := s.readUpstreams(ctx)
		if err != nil {
			return 0, err
		}
		if fresh {
			if outlook, err = s.look(ctx, false); err != nil {
				return 0, err
			}
		}
	}
	for outlook.untilDue <= 0 {
		free := cap(s.workers) - len(s.workers)
		if free == 0 {
			outlook.untilDue = maxRetry // whoever finishes wakes the loop
			break
		}
		claims, err := s.claim(ctx, free, "")
		if err != nil {
			return 0, err
		}
		for _, c := range claims {
			s.start(work, c)
		}
		if len(claims) == 0 { // another exporter is taking them
			return 0, nil
		}
		if outlook, err = s.look(ctx, false); err != nil {
			return 0, err
		}
	}
	wait = outlook.untilDue
	if outlook.waiting {
		wait = min(wait, waitingPoll)
	}
	if outlook.untilDead > 0 { // else it could not be recorded now: in a later round
		wait = min(wait, outlook.untilDead)
	}
	return wait, nil
}

// idles is whether there is nothing to do because the server is a standby, or was
// made one. It is said once, and once when that is over.
func (s *Scheduler) idles(standby bool) bool {
	if standby != s.standby {
		s.standby = standby
		if standby {
			s.Logger.Warn("the database is a standby, which cannot be refreshed; idle until it is promoted, or another of the hosts is the primary")
		} else {
			s.since = time.Now()
			s.Logger.Info("the database takes writes; scheduling again")
		}
	}
	if standby {
		// Of several hosts, another one may be the primary by now: that is found
		// out by connecting.
		s.Pool.Reset()
	}
	return standby
}

// start runs one claimed refresh in a goroutine of its own.
func (s *Scheduler) start(ctx context.Context, c claim) {
	s.workers <- struct{}{} // free: only the loop adds
	s.running.Add(1)
	go func() {
		defer func() {
			<-s.workers
			s.running.Done()
			s.wakeUp()
		}()
		s.refresh(ctx, c)
	}()
}

func (s *Scheduler) refresh(ctx context.Context, c claim) {
	began := time.Now()
	result, err := s.attempt(ctx, c)
	s.report(c, began, result, err)
}

// report tells the observer and the log what came of an attempt.
func (s *Scheduler) report(c claim, began time.Time, result refresh.Result, err error, more ...any) {
	log := s.Logger.With("view", c.view, "trigger", refresh.TriggerSchedule).With(more...)
	if err != nil {
		s.observe(c.view, c.row.Method, "failed", time.Since(began))
		if errors.Is(err, refresh.ErrTakenOver) {
			log.Warn("another exporter has taken this refresh over", "err", postgres.Message(err))
			return
		}
		log.Error("refresh failed", "method", c.row.Method, "duration", time.Since(began).Round(time.Millisecond), "err", postgres.Message(err))
		return
	}
	if result.Skipped {
		s.observe(c.view, c.row.Method, "skipped", result.Duration)
		log.Info("skipped", "reason", result.Reason, "data_as_of", result.AsOf, "duration", result.Duration.Round(time.Millisecond))
		return
	}
	s.observe(c.view, string(result.Method), "succeeded", result.Duration)
	log = log.With("method", string(result.Method), "duration", result.Duration.Round(time.Millisecond),
		"lock_wait", result.LockWait.Round(time.Millisecond), "reason", result.Reason)
	if result.Warning != "" {
		log.Warn("refreshed with a warning", "warning", result.Warning)
		return
	}
	log.Info("refreshed")
}

func (s *Scheduler) observe(view, method, outcome string, duration time.Duration) {
	if s.Observer != nil {
		s.Observer.Observe(view, method, outcome, duration)
	}
}

// attempt makes the claimed refresh, or records why it is not made, and settles
// when the next one is.
func (s *Scheduler) attempt(ctx context.Context, c claim) (result refresh.Result, err error) {
	if c.row.TargetStaleness > 0 && c.upstream == nil {
		c.upstream = s.pull(ctx, c)
	}
	if c.upstream != nil {
		err = s.Refresher.RecordUpstream(ctx, c.request(), c.upstream)
	} else {
		result, err = s.Refresher.Refresh(ctx, c.request())
	}
	switch {
	case errors.Is(err, refresh.ErrTakenOver):
	case err != nil:
		s.backOff(ctx, c)
	default:
		if err := s.planNextStart(context.WithoutCancel(ctx), c); err != nil {
			s.Logger.Error("cannot plan the next refresh; it is tried when the target has passed", "view", c.view, "err", postgres.Message(err))
		}
	}
	return result, err
}

func (s *Scheduler) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // a wake-up is pending
	}
}

// Validate says why a schedule row cannot be run by this version, or nil.
func Validate(row schedule.Row) error {
	_, err := schedule.Parse(row.Spec)
	if err != nil {
		return err
	}
	if _, err := refresh.ParseMethod(row.Method); err != nil {
		return fmt.Errorf("%w: this version knows no other", err)
	}
	if row.Jitter < 0 {
		return errors.New("jitter is negative")
	}
	return nil
}
