package cloudwatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
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
	// Claim takes the current minute and the attempts since the one before.
	Claim  func(ctx context.Context) (attempts []Attempt, ours bool, err error)
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
	destination *destination
	backlog     *backlog
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
	return &Publisher{
		Options:     o,
		selection:   selection{optional: o.Metrics, plainJobsFor: o.PlainJobCountOf},
		destination: newDestination(o.API, o.Namespace, o.Dimensions),
		backlog:     &backlog{metrics: o.Counts, most: cmp.Or(o.MaxBacklog, maxBacklog)},
		wake:        make(chan struct{}, 1),
	}, nil
}

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
	if len(o.Dimensions) > maxDimensions {
		problems = append(problems, fmt.Errorf("--cloudwatch.dimension: %d dimensions, where CloudWatch takes %d beside ViewName", len(o.Dimensions), maxDimensions))
	}
	for name, value := range o.Dimensions {
		if len(name) > 255 || !printable.MatchString(name) || strings.HasPrefix(name, ":") || name == viewDimension || name == "_aws" || units[name] != "" {
			problems = append(problems, fmt.Errorf("--cloudwatch.dimension: a dimension cannot be called %q", name))
		}
		if len(value) > 1024 || !printable.MatchString(value) {
			problems = append(problems, fmt.Errorf("--cloudwatch.dimension: %q cannot be the value of %s: up to 1024 characters of ASCII", value, name))
		}
	}
	return errors.Join(problems...)
}

// DestinationName tells the destinations of one database apart.
func (o Options) DestinationName() string {
	name := "cloudwatch " + o.Namespace
	for _, d := range newDestination(nil, "", o.Dimensions).dimensions {
		name += fmt.Sprintf(" %s=%s", *d.Name, *d.Value)
	}
	return name
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
		p.Collect(ctx)
		select {
		case p.wake <- struct{}{}:
		default: // it is at it
		}
		timer.Reset(interval - time.Duration(p.Now().UnixNano())%interval + time.Second)
	}
}

func (p *Publisher) flushLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer cancel()
	p.Flush(ctx)
}

// Collect adds what there is to say about this minute. While the database is
// away every replica tells the age of what was known; else one does, and of the
// refreshes too.
func (p *Publisher) Collect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	attempts, ours, claimErr := p.Claim(ctx)
	// Also if another replica publishes: what we know must not fall behind.
	views, err := p.Reader.Read(ctx)
	switch failed := errors.Join(claimErr, err); {
	case failed == nil && p.away:
		p.Logger.Info("sharing and reading freshness again")
	case failed != nil && !p.away:
		p.Logger.Error("cannot share publishing or read freshness; CloudWatch gets what is known, from every exporter", "err", postgres.Message(failed))
	}
	p.away = claimErr != nil || err != nil
	// Who can read and not claim, as on a read-only replica, publishes too.
	if ours || p.away {
		p.Add(attempts, views, err != nil)
	}
}

// Add queues refreshes that have ended and how the views are now. away says that
// the database is.
func (p *Publisher) Add(attempts []Attempt, views []freshness.View, away bool) {
	at := p.Now().Truncate(time.Minute).UTC()
	data := newMinutes(len(attempts) + 2*len(views) + 1)
	p.selection.ofAttempts(data, attempts)
	p.selection.ofViews(data, views, at, away)
	beat := 1.0
	if away {
		beat = 0
	}
	data.add(Heartbeat, "", at, beat)
	p.backlog.add(data.data)
}

// AddRefreshed queues what refreshes of this process came to, after [Publisher.Add]
// told how the views were before.
func (p *Publisher) AddRefreshed(attempts []Attempt) {
	data := newMinutes(len(attempts))
	p.selection.ofAttempts(data, attempts)
	p.backlog.add(data.data)
}

// Flush sends what waits, the oldest first. What fails is kept for later.
func (p *Publisher) Flush(ctx context.Context) {
	for {
		data := p.backlog.take(maxDatums, p.Now())
		if len(data) == 0 {
			return
		}
		if p.EMF != nil {
			if err := p.EMF.write(data); err != nil {
				p.Logger.Error("cannot publish", "err", err)
			}
			continue
		}
		n := p.destination.fit(data)
		if p.failing {
			n = min(n, probe) // a call that fails again should be a small one
		}
		p.backlog.putBack(data[n:])
		p.refusals = 0
		unsent, err := p.send(ctx, data[:n])
		p.backlog.putBack(unsent)
		if err != nil {
			p.Counts.failed.Inc()
			if !p.failing {
				p.failing = true
				p.Logger.Error("cannot publish to CloudWatch; will try again", "err", err)
			}
			return
		}
		if p.failing {
			p.failing = false
			p.Logger.Info("publishing to CloudWatch again")
		}
	}
}

// probe is how many datums are risked on a service that failed before.
const probe = 20

// maxRefusals is how many calls are spent on finding what CloudWatch refuses:
// enough for two datums of a thousand.
const maxRefusals = 40

// send is one call, or more where CloudWatch refuses it: halves of it find the
// datum that it will never take, which is given up alone.
func (p *Publisher) send(ctx context.Context, data []datum) (unsent []datum, err error) {
	err = p.destination.put(ctx, data)
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
	if unsent, err = p.send(ctx, data[:half]); err != nil {
		return slices.Concat(unsent, data[half:]), err
	}
	return p.send(ctx, data[half:])
}
