package cloudwatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Options are what a [Publisher] needs.
type Options struct {
	Namespace  string
	Dimensions map[string]string // of every metric, beside ViewName
	// Metrics are those of [Optional] to publish too.
	Metrics []string
	// PlainJobCountOf is a view whose MatViewJobCount goes out without any
	// dimension; "" for none.
	PlainJobCountOf string

	API API  // where to, unless there is
	EMF *EMF // which replaces it

	Reader *freshness.Reader
	// Claim takes the current minute and the attempts since, as [Claims.Minute] does.
	Claim  func(ctx context.Context, destination string) (claimed *Claimed, again time.Duration, err error)
	Counts *Metrics
	// MaxBacklog bounds the datums kept through an outage; 0 is 100,000.
	MaxBacklog int
	Logger     *slog.Logger
	Now        func() time.Time // time.Now but in tests
}

// Publisher publishes freshness once a minute. Refreshes never wait for it.
type Publisher struct {
	Options
	selection   selection
	destination atomic.Pointer[destination]
	backlog     *backlog
	claimed     atomic.Pointer[batch] // the newest, not yet sent
	wake        chan struct{}
	away        bool // said once an outage
	failing     bool
	refusals    int // of the batch being sent
}

// New checks the options. Run starts the publisher.
func New(o Options) (*Publisher, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	p := &Publisher{
		Options:   o,
		selection: selection{optional: o.Metrics, plainJobsFor: o.PlainJobCountOf},
		backlog:   &backlog{metrics: o.Counts, most: cmp.Or(o.MaxBacklog, maxBacklog)},
		wake:      make(chan struct{}, 1),
	}
	if err := p.SetDimensions(o.Dimensions); err != nil {
		return nil, fmt.Errorf("--cloudwatch.dimension: %w", err)
	}
	return p, nil
}

// SetDimensions changes the dimensions of what is published from now on.
func (p *Publisher) SetDimensions(dimensions map[string]string) error {
	if err := ValidateDimensions(dimensions); err != nil {
		return err
	}
	p.destination.Store(newDestination(p.API, p.Namespace, dimensions))
	return nil
}

// Destination is what tells where this publishes to from other places.
func (p *Publisher) Destination() string { return p.destination.Load().name() }

var printable = regexp.MustCompile(`^[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*$`)

// maxDimensions is one less than CloudWatch takes: ViewName is one.
const maxDimensions = 29

func (o Options) validate() error {
	var problems []error
	if len(o.Namespace) > 255 || !regexp.MustCompile(`^[0-9A-Za-z.\-_/#: ]+$`).MatchString(o.Namespace) || strings.HasPrefix(o.Namespace, ":") {
		problems = append(problems, fmt.Errorf("--cloudwatch.namespace: %q is no namespace: up to 255 letters, digits and any of .-_/#: among them", o.Namespace))
	}
	if strings.HasPrefix(o.Namespace, "AWS/") {
		problems = append(problems, errors.New("--cloudwatch.namespace: those that start with AWS/ belong to AWS"))
	}
	for _, metric := range o.Metrics {
		if !slices.Contains(Optional, metric) {
			problems = append(problems, fmt.Errorf("--cloudwatch.metrics: there is no optional metric %q: it is one of %s", metric, strings.Join(Optional, ", ")))
		}
	}
	return errors.Join(problems...)
}

// ValidateDimensions says what CloudWatch would not take.
func ValidateDimensions(dimensions map[string]string) error {
	var problems []error
	if len(dimensions) > maxDimensions {
		problems = append(problems, fmt.Errorf("%d dimensions, where CloudWatch takes %d beside ViewName", len(dimensions), maxDimensions))
	}
	for _, name := range slices.Sorted(maps.Keys(dimensions)) {
		value := dimensions[name]
		if len(name) > 255 || !printable.MatchString(name) || strings.HasPrefix(name, ":") || name == viewDimension || name == "_aws" || units[name] != "" {
			problems = append(problems, fmt.Errorf("a dimension cannot be called %q", name))
		}
		if len(value) > 1024 || !printable.MatchString(value) {
			problems = append(problems, fmt.Errorf("%q cannot be the value of %s: up to 1024 characters of ASCII, not only spaces", value, name))
		}
	}
	return errors.Join(problems...)
}

const (
	interval = time.Minute
	// collectTimeout bounds what is asked of the database each minute.
	collectTimeout = 20 * time.Second
	// lastFlush is for what is left when the process ends.
	lastFlush = 3 * time.Second
)

// Run publishes until ctx ends. What is collected never waits for what is sent.
func (p *Publisher) Run(ctx context.Context) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for {
			select {
			case <-ctx.Done():
				p.flushLast(ctx)
				return
			case <-p.wake:
				p.Flush(ctx)
			}
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			<-sent
			return
		case <-timer.C:
		}
		wait := interval - time.Duration(p.Now().UnixNano())%interval + time.Second
		if again := p.Collect(ctx); again > 0 {
			wait = min(wait, again)
		}
		select {
		case p.wake <- struct{}{}:
		default: // it is at it
		}
		timer.Reset(wait)
	}
}

func (p *Publisher) flushLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer cancel()
	p.Flush(ctx)
}

// Collect adds what there is to say about this minute. While the database is
// away every replica tells the age of what was known; else one does, and of the
// refreshes too. Where another has claimed the minute, again is when to see
// whether it has published it.
func (p *Publisher) Collect(ctx context.Context) (again time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	claimed, again, claimErr := p.Claim(ctx, p.Destination())
	// Also if another replica publishes: what we know must not fall behind.
	views, err := p.Reader.Read(ctx)
	switch failed := errors.Join(claimErr, err); {
	case failed == nil && p.away:
		p.Logger.Info("sharing and reading freshness again")
	case failed != nil && !p.away:
		p.Logger.Error("cannot share publishing or read freshness; CloudWatch gets what is known, from every exporter", "err", postgres.Message(failed))
	}
	p.away = claimErr != nil || err != nil
	switch {
	case claimed != nil:
		p.addClaimed(claimed, views, err != nil)
	case p.away: // who can read and not claim, as on a read-only replica, too
		p.Add(views, err != nil)
	}
	return again
}

// Add queues how the views are now. away says that the database is.
func (p *Publisher) Add(views []freshness.View, away bool) {
	p.backlog.add(p.now(nil, views, away))
}

func (p *Publisher) now(attempts []Attempt, views []freshness.View, away bool) []datum {
	at := p.Now().Truncate(time.Minute).UTC()
	data := newMinutes(len(attempts) + 2*len(views) + 1)
	p.selection.ofAttempts(data, attempts)
	p.selection.ofViews(data, views, at, away)
	beat := 1.0
	if away {
		beat = 0
	}
	data.add(Heartbeat, "", at, beat)
	return data.data
}

// AddRefreshed queues what refreshes of this process came to, and what those
// views, as they are now, have counted.
func (p *Publisher) AddRefreshed(attempts []Attempt, views []freshness.View) {
	p.backlog.add(p.refreshed(attempts, views))
}

// WantsCounts reports whether AddRefreshed has a use for views.
func (p *Publisher) WantsCounts() bool {
	return p.selection.has(JobCount) || p.selection.has(ObjectCount) || p.selection.plainJobsFor != ""
}

// AddClaimed is AddRefreshed for attempts that were claimed.
func (p *Publisher) AddClaimed(c *Claimed, views []freshness.View) {
	p.replace(&batch{Claimed: c, data: p.refreshed(c.Attempts, views), gauges: p.refreshed(nil, views)})
}

func (p *Publisher) refreshed(attempts []Attempt, views []freshness.View) []datum {
	data := newMinutes(len(attempts) + len(views))
	p.selection.ofAttempts(data, attempts)
	for _, v := range views {
		p.selection.ofCounts(data, v, p.Now().Truncate(time.Minute).UTC())
	}
	return data.data
}

// Flush sends what waits, the oldest first. What fails is kept for later.
func (p *Publisher) Flush(ctx context.Context) {
	claimed := p.claimed.Swap(nil)
	kept := p.flushBacklog(ctx)
	if claimed != nil {
		p.flushClaimed(ctx, claimed, kept)
	}
}

// flushBacklog reports whether all of it is sent.
func (p *Publisher) flushBacklog(ctx context.Context) bool {
	for {
		data := p.backlog.take(maxDatums, p.Now())
		if len(data) == 0 {
			return true
		}
		unsent, err := p.sendSome(ctx, data)
		p.backlog.putBack(unsent)
		if err != nil {
			return false
		}
	}
}

// sendSome is one call of as many of the data as it takes.
func (p *Publisher) sendSome(ctx context.Context, data []datum) (unsent []datum, err error) {
	to := p.destination.Load()
	if p.EMF != nil {
		if err := p.EMF.write(to, data); err != nil {
			p.Logger.Error("cannot publish", "err", err)
			return nil, err
		}
		return nil, nil
	}
	n := to.fit(data)
	if p.failing {
		n = min(n, probe) // a call that fails again should be a small one
	}
	p.refusals = 0
	unsent, err = p.send(ctx, to, data[:n])
	unsent = slices.Concat(unsent, data[n:])
	switch {
	case err != nil:
		p.Counts.failed.Inc()
		if !p.failing {
			p.failing = true
			p.Logger.Error("cannot publish to CloudWatch; will try again", "err", err)
		}
	case p.failing:
		p.failing = false
		p.Logger.Info("publishing to CloudWatch again")
	}
	return unsent, err
}

// probe is how many datums are risked on a service that failed before.
const probe = 20

// maxRefusals is how many calls are spent on finding what CloudWatch refuses:
// enough for two datums of a thousand.
const maxRefusals = 40

// send is one call, or more where CloudWatch refuses it: halves of it find the
// datum that it will never take, which is given up alone.
func (p *Publisher) send(ctx context.Context, to *destination, data []datum) (unsent []datum, err error) {
	err = to.put(ctx, data)
	if err == nil {
		p.Counts.published.Inc()
		return nil, nil
	}
	if !refused(err) {
		return data, err
	}
	if p.refusals++; len(data) == 1 || p.refusals > maxRefusals {
		p.Counts.dropped.Add(float64(len(data)))
		p.Logger.Error("CloudWatch refuses data, which are given up", "datums", len(data), "metric", data[0].metric, "view", data[0].view, "err", err)
		return nil, nil
	}
	half := len(data) / 2
	if unsent, err = p.send(ctx, to, data[:half]); err != nil {
		return slices.Concat(unsent, data[half:]), err
	}
	return p.send(ctx, to, data[half:])
}
