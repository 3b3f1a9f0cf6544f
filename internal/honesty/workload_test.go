package honesty

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// kind is a kind of event. To add one, write its function and a line in one of the
// lists of kinds.
type kind struct {
	name   string
	weight int // relative to the sum of all weights
	run    func(context.Context, *harness, *event) error
	on     func(*view) bool // selects the views that it applies to; nil for all
}

// kinds are all kinds of events. Many events fail under this workload; each kind must
// succeed now and then.
var kinds = slices.Concat(refreshKinds, skipKinds, externalKinds, lockKinds, ddlKinds, faultKinds)

// event is one event of a workload. It has a random source of its own, so that what it
// does depends only on the seed and its number.
type event struct {
	*rand.Rand
	number int
	kind   kind
	view   *view
}

func newEvent(seed uint64, number int, kinds []kind, views []*view) *event {
	e := &event{Rand: rand.New(rand.NewPCG(seed, uint64(number))), number: number}
	// Some kinds apply only to views that this server's version does not have.
	kinds = slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return k.on != nil && !slices.ContainsFunc(views, k.on) })
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	at := e.IntN(sum)
	for _, k := range kinds {
		if at -= k.weight; at < 0 {
			e.kind = k
			break
		}
	}
	if e.kind.on != nil {
		views = slices.DeleteFunc(slices.Clone(views), func(v *view) bool { return !e.kind.on(v) })
	}
	e.view = views[e.IntN(len(views))]
	return e
}

// upTo returns a random duration in [0, d).
func (e *event) upTo(d time.Duration) time.Duration { return time.Duration(e.Int64N(int64(d))) }

// chance returns true with this probability.
func (e *event) chance(percent int) bool { return e.IntN(100) < percent }

// oneOf returns a random argument.
func oneOf[T any](e *event, of ...T) T { return of[e.IntN(len(of))] }

// workload is a sequence of random events.
type workload struct {
	seed   uint64
	events int           // how many; 0 for no limit
	lasts  time.Duration // how long; 0 for no limit
	kinds  []kind
}

// workers is the number of events that run concurrently.
const workers = 6

// eventTimeout bounds one event. A process is frozen for up to ten seconds.
const eventTimeout = 30 * time.Second

// run runs the events on the harness and returns how many there were. It ends early at
// the first violation.
func (s workload) run(ctx context.Context, h *harness) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.lasts > 0 {
		ctx, cancel = context.WithTimeout(ctx, s.lasts)
		defer cancel()
	}
	var last atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				number := int(last.Add(1))
				if s.events > 0 && number > s.events {
					last.Add(-1)
					return
				}
				h.awaitServer()
				e := newEvent(s.seed, number, s.kinds, h.views)
				h.runEvent(ctx, e)
			}
		})
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-h.checker.violated:
		cancel()
		<-ended
	}
	return int(last.Load())
}

func (h *harness) runEvent(ctx context.Context, e *event) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	began := time.Now()
	err := e.kind.run(ctx, h, e)
	h.journal.add(entry{event: e, began: began, ended: time.Now(), err: err})
}

// journal records the events that ended.
type journal struct {
	mu      sync.Mutex
	entries []entry
}

type entry struct {
	event        *event
	began, ended time.Time
	err          error
}

func (j *journal) add(e entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, e)
}

// counts says how often a kind of event was tried and how often it succeeded, with an
// example of an error.
type counts struct {
	tried, succeeded int
	failure          error
}

func (j *journal) counts() map[string]counts {
	j.mu.Lock()
	defer j.mu.Unlock()
	by := map[string]counts{}
	for _, e := range j.entries {
		c := by[e.event.kind.name]
		c.tried++
		if e.err == nil {
			c.succeeded++
		} else if c.failure == nil {
			c.failure = e.err
		}
		by[e.event.kind.name] = c
	}
	return by
}

// latest describes the last n events, to investigate a violation.
func (j *journal) latest(n int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, e := range j.entries[max(0, len(j.entries)-n):] {
		fmt.Fprintf(&b, "%s to %s #%d %s of %s: %v\n", stamp(&e.began), stamp(&e.ended), e.event.number, e.event.kind.name, e.event.view.name, e.err)
	}
	return b.String()
}
