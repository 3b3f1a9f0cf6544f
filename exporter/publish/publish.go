// Package publish publishes freshness: to Prometheus, which scrapes it
// (prometheus.go), and to services that it is sent to, each of which is a [Sink]
// in a file of its own. A [Publisher] feeds one sink.
package publish

import (
	"context"
	"time"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// Attempt is a refresh that has ended.
type Attempt = store.EndedAttempt

// Update is what there is to publish at one time.
type Update struct {
	At time.Time
	// Views are all views that somebody asked about; see [freshness.Reader].
	Views []freshness.View
	// Away says that the database could not be read: only the age of Views, which
	// grows by itself, is still known.
	Away bool
	// Attempts have ended and are not published yet.
	Attempts []Attempt
	// Final marks the last update of a run that ends by itself. Its refreshes have
	// reset the staleness that it published before them.
	Final bool
}

// Point is the values of one metric in one minute. It is kept small: an outage
// keeps many.
type Point struct {
	Metric string // as the sink calls it
	View   string // "": of no view
	At     time.Time
	Values []float64
}

// Sink is a service that freshness is published to. A publisher calls its methods
// one at a time.
type Sink interface {
	// Destination identifies what is published to, the same in all replicas.
	Destination() string
	// Points are what the sink publishes of an update.
	Points(u Update) []Point
	// Send makes one call with as many of the points as it carries, from the front,
	// and returns how many those are. An error means that none was accepted; the
	// publisher sends them again later, unless it is a [RefusedError].
	Send(ctx context.Context, points []Point) (n int, err error)
}

// RefusedError says that a service will never accept a call: to send it again would
// hold up everything behind it.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

func (e *RefusedError) Unwrap() error { return e.Err }

// Claims shares publishing to a destination among replicas; see
// [store.Publication].
type Claims interface {
	Register(ctx context.Context, destination string) error
	Claim(ctx context.Context, destination string, attemptsOnly bool) (claim *store.PublicationClaim, retryIn time.Duration, err error)
	Confirm(ctx context.Context, claim *store.PublicationClaim) error
}
