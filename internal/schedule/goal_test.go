package schedule

import (
	"testing"
	"time"
)

func TestGoalNextStart(t *testing.T) {
	t.Parallel()
	asOf := reference
	for _, test := range []struct {
		name                string
		target, lead, ended time.Duration // ended after the as-of
		jitter, want        time.Duration // start after the as-of
	}{
		{"duration and margin before the target", 10 * time.Minute, time.Minute, time.Minute, 0, 8*time.Minute + 30*time.Second},
		{"duration unknown", 10 * time.Minute, 0, 0, 0, 9*time.Minute + 30*time.Second},
		{"short target", 4 * time.Second, 100 * time.Millisecond, 100 * time.Millisecond, 0, 3400 * time.Millisecond},
		{"out of reach: a rest after each", 10 * time.Minute, 12 * time.Minute, 12 * time.Minute, 0, 12*time.Minute + 30*time.Second},
		{"an upstream's as-of does not move", 10 * time.Minute, time.Second, 24 * time.Hour, 0, 24*time.Hour + 30*time.Second},
	} {
		target := Goal{Staleness: test.target, Lead: test.lead}
		if got := target.NextStart("v", asOf, asOf.Add(test.ended), test.jitter).Sub(asOf); got != test.want {
			t.Errorf("%s: starts %s after the as-of, want %s", test.name, got, test.want)
		}
	}
}

// Started when it says, a refresh that takes as long as expected commits before
// the data is older than the target, whatever the jitter.
func TestGoalIsMet(t *testing.T) {
	t.Parallel()
	for staleness := 3 * time.Second; staleness < 48*time.Hour; staleness = staleness * 7 / 5 {
		for _, share := range []time.Duration{0, 100, 10, 4, 3} {
			target := Goal{Staleness: staleness}
			if share > 0 {
				target.Lead = staleness / share
			}
			if !target.Reachable() {
				t.Errorf("%+v is out of reach", target)
			}
			asOf, ended := reference, reference.Add(target.Lead)
			for _, jitter := range []time.Duration{0, staleness / 10, 10 * staleness} {
				start := target.NextStart("view", asOf, ended, jitter)
				if age := start.Add(target.Lead).Sub(asOf); age > staleness {
					t.Errorf("%+v, jitter %s: data is %s old when the next is committed", target, jitter, age)
				}
				if !start.After(ended) {
					t.Errorf("%+v, jitter %s: starts at %s, before the last has ended at %s", target, jitter, start, ended)
				}
			}
		}
		if target := (Goal{Staleness: staleness, Lead: staleness/2 + 1}); target.Reachable() {
			t.Errorf("%+v is within reach although two refreshes take longer", target)
		}
	}
}
