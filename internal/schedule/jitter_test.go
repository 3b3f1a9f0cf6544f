package schedule

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestJitterOffset(t *testing.T) {
	t.Parallel()
	// Written down once: a new release must not move every view's runs.
	for view, want := range map[string]time.Duration{
		"job_progress":       3_262_753_011 * time.Microsecond,
		`app."Job Progress"`: 1_379_771_107 * time.Microsecond,
	} {
		if got := jitterOffset(view, time.Hour); got != want {
			t.Errorf("%s: got %s, want %s", view, got, want)
		}
	}

	const views, jitter = 10_000, 10 * time.Minute
	var tenths [10]int
	for i := range views {
		offset := jitterOffset(fmt.Sprintf("view_%d", i), jitter)
		if offset < 0 || offset >= jitter || offset%time.Microsecond != 0 {
			t.Fatalf("view_%d: %s", i, offset)
		}
		tenths[offset*10/jitter]++
	}
	for i, n := range tenths {
		if n < 900 || n > 1100 {
			t.Errorf("%d of %d views are in tenth %d", n, views, i)
		}
	}
	for _, jitter := range []time.Duration{0, 1, time.Microsecond} {
		if got := jitterOffset("view", jitter); got != 0 {
			t.Errorf("jitter %s: got %s", jitter, got)
		}
	}
}

// Claiming each run when it is due, or late, goes through the nominal times one
// by one: none twice, none left out.
func TestNextRunWithJitter(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(4, 4))
	for _, jitter := range []time.Duration{0, 1, 59 * time.Second, 10*time.Minute + 333, 3 * time.Hour, 40 * 24 * time.Hour} {
		for i, zone := range []string{"UTC", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"} {
			for j := range 20 {
				c := newRandomCron(random)
				schedule, err := Parse(Spec{Cron: c.text, TimeZone: zone, Jitter: jitter})
				if err != nil {
					continue
				}
				view := fmt.Sprintf("view_%d_%d", i, j)
				offset := jitterOffset(view, jitter)
				nominal := reference.AddDate(1, 0, random.IntN(365))
				run := nominal.Add(offset)
				for range 50 {
					nominal = schedule.Next(nominal)
					claimed := run.Truncate(time.Microsecond) // as the table gives it back
					run = schedule.NextRun(view, claimed, claimed)
					if !run.Equal(nominal.Add(offset)) {
						t.Fatalf("%s %q jitter %s after %s: got %s, want %s + %s", zone, c.text, jitter, claimed, run, nominal, offset)
					}
					// Anything before it is due does not change it.
					late := claimed.Add(time.Duration(random.Int64N(int64(run.Sub(claimed)))))
					if again := schedule.NextRun(view, late, claimed); !again.Equal(run) {
						t.Fatalf("%s %q jitter %s: after %s %s, but after %s %s", zone, c.text, jitter, claimed, run, late, again)
					}
				}
			}
		}
	}
}
