package publish

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

const (
	interval = time.Minute
	// collectTimeout and flushTimeout together stay below the interval: a service
	// that hangs delays no later minute.
	collectTimeout = 20 * time.Second
	flushTimeout   = 35 * time.Second
	// lastFlushTimeout is for what still waits when the process ends.
	lastFlushTimeout = 3 * time.Second
	// claimTimeout bounds claiming at the end of a run, and confirming.
	claimTimeout = 5 * time.Second
)

const (
	// defaultMaxWaiting is half an hour of a thousand views, and months of one.
	defaultMaxWaiting = 100_000
	// maxAge is what CloudWatch accepts, two weeks, less the time that the call may
	// need.
	maxAge = 14*24*time.Hour - time.Hour
)

// Options are what a [Publisher] needs.
type Options struct {
	Sink    Sink
	Reader  *freshness.Reader
	Claims  Claims // nil: the sink has no use for attempts
	Metrics *Metrics
	// MaxWaiting bounds the points kept through an outage; 0 is 100,000.
	MaxWaiting int
	Logger     *slog.Logger
	Now        func() time.Time // time.Now except in tests
}

// Publisher publishes to one sink, and keeps what it cannot send. Refreshes never
// wait for it. Its methods must not be called at the same time.
type Publisher struct {
	Options
	waiting []Point       // the oldest first
	claimed *claimed      // the minute that is next, nil if it is not ours
	begun   chan struct{} // closed when what Begin sends is sent or has failed
	away    bool          // logged once an outage
	failing bool          // logged once an outage
}

// claimed is a minute that this process has claimed.
type claimed struct {
	*store.PublicationClaim
	points []Point
	// gauges are the points without the attempts. Those stay in the database until
	// they are confirmed, but nobody could read the gauges again.
	gauges []Point
}

// New makes a publisher. [Publisher.Run] starts it.
func New(o Options) *Publisher {
	o.MaxWaiting = cmp.Or(o.MaxWaiting, defaultMaxWaiting)
	return &Publisher{Options: o}
}

// Run publishes once a minute until ctx ends.
func (p *Publisher) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			p.flushWithin(context.WithoutCancel(ctx), lastFlushTimeout)
			return
		case <-timer.C:
		}
		retryIn := p.Collect(ctx)
		p.flushWithin(ctx, flushTimeout)
		wait := interval - time.Duration(p.Now().UnixNano())%interval + time.Second
		if retryIn > 0 {
			wait = min(wait, retryIn)
		}
		timer.Reset(wait)
	}
}

func (p *Publisher) flushWithin(ctx context.Context, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p.Flush(ctx)
}

// Collect adds an update about this minute. While the database is away every
// replica publishes the age of what it knew; otherwise one of them publishes, the
// attempts too. If another replica has claimed the minute, retryIn is when to look
// whether it has published it.
func (p *Publisher) Collect(ctx context.Context) (retryIn time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	claim, retryIn, claimErr := p.Claims.Claim(ctx, p.Sink.Destination(), false)
	// Also if another replica publishes: what we know must not fall behind.
	views, err := p.Reader.Read(ctx)
	failed := errors.Join(claimErr, err)
	switch {
	case failed == nil && p.away:
		p.Logger.Info("can claim and read freshness again", "destination", p.Sink.Destination())
	case failed != nil && !p.away:
		p.Logger.Error("cannot claim or read freshness; every exporter publishes the staleness that it knows of",
			"destination", p.Sink.Destination(), "err", postgres.Message(failed))
	}
	p.away = failed != nil
	u := Update{At: p.Now(), Views: views, Away: err != nil}
	switch {
	case claim != nil:
		p.addClaimed(claim, u)
	case p.away: // also if we can read but not claim, as on a read-only replica
		p.Add(u)
	}
	return retryIn
}

// Begin registers the destination, so that attempts that end from here on wait for
// it, and publishes an update about the time before the refreshes of a run. It does
// not wait for the service; sending is the context of what it leaves behind, which
// [Publisher.Wait] waits for.
func (p *Publisher) Begin(ctx, sending context.Context, u Update) {
	p.Add(u)
	if p.Claims != nil {
		if err := p.Claims.Register(ctx, p.Sink.Destination()); err != nil {
			p.Logger.Debug("cannot register; this run publishes the attempts that it knows of", "err", postgres.Message(err))
		}
	}
	p.begun = make(chan struct{})
	go func() {
		defer close(p.begun)
		p.Flush(sending)
	}()
}

// Wait waits for what [Publisher.Begin] sends.
func (p *Publisher) Wait() { <-p.begun }

// Finish publishes the last update of a run, and every recorded attempt that waits,
// those of runs that were killed too. u.Attempts are those of this run, published
// if the database cannot be asked.
func (p *Publisher) Finish(ctx context.Context, u Update) {
	select {
	case <-p.begun:
	case <-ctx.Done():
		p.Logger.Error("no answer; the refreshes of this run are not published yet", "destination", p.Sink.Destination())
		return
	}
	if p.Claims != nil {
		claimCtx, cancel := context.WithTimeout(ctx, claimTimeout) // leaves time for sending
		defer cancel()
		claim, _, err := p.Claims.Claim(claimCtx, p.Sink.Destination(), true)
		if claim != nil {
			p.addClaimed(claim, u)
			p.Flush(ctx)
			return
		}
		if err == nil { // another exporter publishes the attempts
			u.Attempts = nil
		}
	}
	p.Add(u)
	p.Flush(ctx)
}

// Add queues an update.
func (p *Publisher) Add(u Update) { p.wait(p.Sink.Points(u)) }

func (p *Publisher) addClaimed(claim *store.PublicationClaim, u Update) {
	if p.claimed != nil { // never sent
		p.wait(p.claimed.gauges)
	}
	u.Attempts = nil
	gauges := p.Sink.Points(u)
	u.Attempts = claim.Attempts
	p.claimed = &claimed{PublicationClaim: claim, points: p.Sink.Points(u), gauges: gauges}
}

// wait queues points, and drops the oldest of too many.
func (p *Publisher) wait(points []Point) {
	p.waiting = append(p.waiting, points...)
	if over := len(p.waiting) - p.MaxWaiting; over > 0 {
		p.Metrics.dropped.Add(float64(over))
		p.waiting = slices.Delete(p.waiting, 0, over)
	}
	p.Metrics.waiting.Set(float64(len(p.waiting)))
}

// Flush sends what waits, the oldest first, and then the minute that is claimed.
// It keeps what fails for later.
func (p *Publisher) Flush(ctx context.Context) {
	var sent bool
	p.waiting, sent = p.send(ctx, p.waiting)
	p.Metrics.waiting.Set(float64(len(p.waiting)))
	if p.claimed != nil {
		p.flushClaimed(ctx, p.claimed, sent)
		p.claimed = nil
	}
}

// flushClaimed sends a claimed minute and confirms it, unless older points could
// not be sent. Once the claim has expired another process may have the attempts:
// they are not sent after that.
func (p *Publisher) flushClaimed(ctx context.Context, c *claimed, send bool) {
	until, cancel := context.WithDeadline(ctx, c.Until)
	defer cancel()
	if send && until.Err() == nil {
		_, send = p.send(until, c.points)
	} else {
		send = false
	}
	if !send {
		p.wait(c.gauges) // perhaps some of them again, which changes no maximum
		return
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	if err := p.Claims.Confirm(ctx, c.PublicationClaim); err != nil {
		p.Logger.Warn("cannot confirm what is published, which may be published again", "err", postgres.Message(err))
	}
}

// send sends points until a call fails, and returns those to be sent again.
func (p *Publisher) send(ctx context.Context, points []Point) (unsent []Point, sent bool) {
	total := len(points)
	points = slices.DeleteFunc(points, func(pt Point) bool { return p.Now().Sub(pt.At) > maxAge })
	p.Metrics.dropped.Add(float64(total - len(points)))
	for len(points) > 0 {
		budget := maxRefusals
		done, err := p.call(ctx, points, &budget)
		points = points[done:]
		switch {
		case err != nil:
			p.Metrics.failed.Inc()
			if !p.failing {
				p.Logger.Error("cannot publish; will try again", "destination", p.Sink.Destination(), "err", err)
			}
			p.failing = true
			return points, false
		case p.failing:
			p.failing = false
			p.Logger.Info("publishing again", "destination", p.Sink.Destination())
		}
	}
	return nil, true
}

// maxRefusals is how many calls are spent on finding the points that a service
// refuses: enough for two of a thousand.
const maxRefusals = 40

// call makes one call, and returns how many points are done with. If the service
// refuses it, calls with halves of the points find the one that it refuses, which
// is dropped alone.
func (p *Publisher) call(ctx context.Context, points []Point, budget *int) (done int, err error) {
	n, err := p.Sink.Send(ctx, points)
	if err == nil {
		p.Metrics.published.Inc()
		return n, nil
	}
	if refused := (*RefusedError)(nil); !errors.As(err, &refused) {
		return 0, err
	}
	if n == 1 || *budget == 0 {
		p.Metrics.dropped.Add(float64(n))
		p.Logger.Error("points are refused and dropped", "destination", p.Sink.Destination(), "points", n,
			"metric", points[0].Metric, "view", points[0].View, "err", err)
		return n, nil
	}
	*budget--
	for _, half := range [][]Point{points[:n/2], points[n/2 : n]} {
		sent, err := p.call(ctx, half, budget)
		if done += sent; err != nil {
			return done, err
		}
	}
	return done, nil
}
