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

// kind is a sort of event. To add one, write its function and a line in kinds.
type kind struct {
	name   string
	weight int // of the sum of all
	run    func(context.Context, *world, *event) error
	on     func(*view) bool // the views that it may happen to; nil: any
}

// kinds are all that happens. An event may fail, and in a storm many do; each
// kind must succeed now and then.
var kinds = slices.Concat(refreshKinds, skipKinds, handKinds, lockKinds, shapeKinds, weatherKinds)

// event is one of a storm. It draws from a source of its own, so that what it
// does depends on the seed and its number only.
type event struct {
	*rand.Rand
	number int
	kind   kind
	view   *view
}

func newEvent(seed uint64, number int, kinds []kind, views []*view) *event {
	e := &event{Rand: rand.New(rand.NewPCG(seed, uint64(number))), number: number}
	// Some happen to views only that this server cannot have.
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

// upTo is a time between nothing and d.
func (e *event) upTo(d time.Duration) time.Duration { return time.Duration(e.Int64N(int64(d))) }

// chance is true that often.
func (e *event) chance(percent int) bool { return e.IntN(100) < percent }

// oneOf draws one.
func oneOf[T any](e *event, of ...T) T { return of[e.IntN(len(of))] }

// storm is a run of events.
type storm struct {
	seed   uint64
	events int           // how many; 0: no end
	lasts  time.Duration // how long; 0: to the last event
	kinds  []kind
}

// workers is how many events go on at a time.
const workers = 6

// eventTimeout bounds one event. The longest freezes take ten seconds.
const eventTimeout = 30 * time.Second

// rage lets the events loose on the world and returns how many there were. It
// ends early at the first lie.
func (s storm) rage(ctx context.Context, w *world) int {
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
				w.awaitServer()
				e := newEvent(s.seed, number, s.kinds, w.views)
				w.happen(ctx, e)
			}
		})
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-w.checker.lied:
		cancel()
		<-ended
	}
	return int(last.Load())
}

func (w *world) happen(ctx context.Context, e *event) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	began := time.Now()
	err := e.kind.run(ctx, w, e)
	w.journal.add(entry{event: e, began: began, ended: time.Now(), err: err})
}

// journal is what happened.
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

// counts is how often a kind was tried, how often it did what it was to do, and
// an example of why it did not.
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

// latest is what happened at the end, for whoever looks into a lie.
func (j *journal) latest(n int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, e := range j.entries[max(0, len(j.entries)-n):] {
		fmt.Fprintf(&b, "%s to %s #%d %s of %s: %v\n", stamp(&e.began), stamp(&e.ended), e.event.number, e.event.kind.name, e.event.view.name, e.err)
	}
	return b.String()
}
