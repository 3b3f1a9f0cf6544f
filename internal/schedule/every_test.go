package schedule

import (
	"fmt"
	"testing"
	"time"
)

func TestNextRunEvery(t *testing.T) {
	t.Parallel()
	const start = "2026-03-08T06:50:00Z"
	for _, test := range []struct {
		name                   string
		every                  time.Duration
		after, lastStart, want string
	}{
		{"on time", 5 * time.Minute, start, start, "2026-03-08T06:55:00Z"},
		{"after a refresh of three minutes", 5 * time.Minute, "2026-03-08T06:53:00Z", start, "2026-03-08T06:55:00Z"},
		{"exactly when the next is due", 5 * time.Minute, "2026-03-08T06:55:00Z", start, "2026-03-08T07:00:00Z"},
		{"missed ones are one", 5 * time.Minute, "2026-03-08T08:01:00Z", start, "2026-03-08T08:05:00Z"},
		{"much missed", time.Second, "2027-03-08T06:50:00.25Z", start, "2027-03-08T06:50:01Z"},
		{"the clock is behind the start", 5 * time.Minute, "2026-03-08T06:20:00Z", start, "2026-03-08T06:55:00Z"},
		{"never started", 5 * time.Minute, "2026-03-08T08:01:00Z", "0001-01-01T00:00:00Z", "2026-03-08T08:06:00Z"},
		{"another zone's clock changes", 24 * time.Hour, "2026-03-07T12:00:00-05:00", "2026-03-07T12:00:00-05:00", "2026-03-08T13:00:00-04:00"},
	} {
		schedule := mustParse(t, Spec{Every: test.every})
		got := schedule.NextRun("view", instant(t, test.after), instant(t, test.lastStart))
		if !got.Equal(instant(t, test.want)) {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// A time.Duration does not reach back to some starts; the run is still neither past nor far.
func TestNextRunEveryLongAgo(t *testing.T) {
	t.Parallel()
	schedule := mustParse(t, Spec{Every: 5 * time.Minute})
	next := schedule.NextRun("view", reference, time.Time{}.Add(time.Second))
	if wait := next.Sub(reference); wait <= 0 || wait > 5*time.Minute {
		t.Errorf("got %s", next)
	}
}

// Each run begins some time after it is due; the runs stay in phase.
func TestEveryDoesNotDrift(t *testing.T) {
	t.Parallel()
	schedule := mustParse(t, Spec{Every: time.Minute})
	first := schedule.NextRun("view", reference, reference.Add(-7*time.Second))
	if want := reference.Add(53 * time.Second); !first.Equal(want) {
		t.Errorf("the first run is at %s, want %s", first, want)
	}
	due := first
	for i := range 1000 {
		began := due.Add(time.Duration(i) * 10 * time.Millisecond)
		due = schedule.NextRun("view", began, due)
	}
	if want := first.Add(1000 * time.Minute); !due.Equal(want) {
		t.Errorf("after 1000 runs: got %s, want %s", due, want)
	}
}

// Views that were made together do not run together: wherever the last run was,
// the next ones have their own place in the minute.
func TestJitterShiftsEvery(t *testing.T) {
	t.Parallel()
	schedule := mustParse(t, Spec{Every: time.Minute, Jitter: 30 * time.Second})
	places := map[time.Duration]bool{}
	for i := range 100 {
		view := fmt.Sprintf("view_%d", i)
		run := schedule.NextRun(view, reference, reference)
		place := run.Sub(reference)
		if place != jitterOffset(view, 30*time.Second) {
			t.Errorf("%s: %s after the full minute, want its jitter", view, place)
		}
		places[place] = true
		for range 10 {
			next := schedule.NextRun(view, run.Add(3*time.Second), run)
			if next.Sub(run) != time.Minute {
				t.Errorf("%s: %s between two runs", view, next.Sub(run))
			}
			run = next
		}
		if again := schedule.NextRun(view, run.Add(-time.Microsecond), reference.Add(17*time.Second)); !again.Equal(run) {
			t.Errorf("%s: %s, but %s after another last run", view, run, again)
		}
	}
	if len(places) < 90 {
		t.Errorf("100 views run at %d places", len(places))
	}
	// Longer than the interval, it is a place in the interval all the same.
	long := mustParse(t, Spec{Every: time.Minute, Jitter: time.Hour})
	if wait := long.NextRun("view", reference, time.Time{}).Sub(reference); wait <= 0 || wait > time.Minute {
		t.Errorf("waits %s", wait)
	}
}
