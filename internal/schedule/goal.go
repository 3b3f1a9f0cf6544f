package schedule

import "time"

// Goal is a target_staleness at work. Data is oldest just before a refresh
// commits: by then as much time has passed since its as-of as lies between the
// starts of two refreshes, and the whole of the second.
type Goal struct {
	Staleness time.Duration
	// Lead is the duration of a refresh, including those of the upstreams that are
	// refreshed before it; 0 if unknown.
	Lead time.Duration
}

// shortestRest is the least time between a refresh's end and the next one's start.
const shortestRest = time.Second

// margin covers what no record shows: the delay until a refresh is dispatched, and
// a refresh that is a little slower than usual.
func (g Goal) margin() time.Duration {
	return min(max(g.Staleness/20, 500*time.Millisecond), g.Staleness/4)
}

// rest keeps a view whose target is out of reach, or whose as-of does not move,
// from being refreshed without a pause.
func (g Goal) rest() time.Duration { return max(g.Staleness/20, shortestRest) }

// Reachable is whether refreshes one after the other would meet the target: the
// data is then as old as two of them and the rest between take.
func (g Goal) Reachable() bool { return 2*g.Lead+max(g.margin(), g.rest()) <= g.Staleness }

// YoungEnough is whether data of this age in a view that another one reads will
// do for that one's refresh. Older than half of the target it would have to be
// refreshed again at once.
func (g Goal) YoungEnough(age time.Duration) bool { return age <= g.Staleness/2 }

// NextStart is when the next refresh must start so that the data, as of asOf,
// grows no older than the target. ended is when the last one did, the zero time if
// that is not known. jitter, at most a quarter of the target, makes it
// earlier, since later would miss the target.
func (g Goal) NextStart(view string, asOf, ended time.Time, jitter time.Duration) time.Time {
	early := g.Lead + g.margin() + jitterOffset(view, min(jitter, g.Staleness/4))
	start := asOf.Add(g.Staleness - early)
	if earliest := ended.Add(g.rest()); !ended.IsZero() && start.Before(earliest) {
		start = earliest
	}
	return start.UTC().Truncate(time.Microsecond)
}
