package api

import (
	"fmt"
	"slices"
	"time"
)

// plot is the durations of attempts as bars, the latest on the right.
type plot struct {
	Width, Height, Base int
	Bars                []bar
	Label               string // says it in words
}

type bar struct {
	X, Y, W, H   string
	Class, Title string
}

const plotHeight = 28

// newPlot takes attempts as the history has them, the latest first.
func newPlot(attempts []Attempt, width int) plot {
	p := plot{Width: width, Height: plotHeight, Base: plotHeight}
	var longest int64 = 1
	failed := 0
	for _, a := range attempts {
		if a.DurationMS != nil {
			longest = max(longest, *a.DurationMS)
		}
		if a.Outcome == "failed" || a.Outcome == "abandoned" {
			failed++
		}
	}
	step := min(float64(width)/float64(max(len(attempts), 1)), max(10, float64(width)/40))
	for i, a := range slices.Backward(attempts) {
		height := 2.0 // also what took no time can be seen
		if a.DurationMS != nil {
			height = max(height, float64(*a.DurationMS)/float64(longest)*(plotHeight-2))
		}
		class := a.Outcome
		if class == "abandoned" {
			class = "failed"
		}
		p.Bars = append(p.Bars, bar{
			X: fmt.Sprintf("%.1f", float64(width)-float64(i+1)*step+1), W: fmt.Sprintf("%.1f", max(step-2, 1)),
			Y: fmt.Sprintf("%.1f", plotHeight-height), H: fmt.Sprintf("%.1f", height),
			Class: class, Title: fmt.Sprintf("%s, %s, %s", a.StartedAt, a.Outcome, took(a.DurationMS)),
		})
	}
	switch {
	case len(attempts) == 1:
		p.Label = fmt.Sprintf("The one attempt on record: %s, %s.", attempts[0].Outcome, took(attempts[0].DurationMS))
	case len(attempts) > 1:
		p.Label = fmt.Sprintf("The last %d attempts, %d of which failed. The longest took %s, the latest %s.",
			len(attempts), failed, inWords(time.Duration(longest)*time.Millisecond), took(attempts[0].DurationMS))
	}
	return p
}

func took(ms *int64) string {
	if ms == nil {
		return "an unknown time"
	}
	return inWords(time.Duration(*ms) * time.Millisecond)
}

// inWords is a duration for people: its two largest units, rounded up, since
// data must not look younger than it is.
func inWords(d time.Duration) string {
	if d < 0 {
		return "−" + inWords(-d)
	}
	if d < time.Second {
		return fmt.Sprintf("%d ms", (d+time.Millisecond-1)/time.Millisecond)
	}
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", float64((d+100*time.Millisecond-1)/(100*time.Millisecond))/10)
	}
	for _, unit := range []struct {
		below, large, small time.Duration
		names               [2]string
	}{
		{time.Hour, time.Minute, time.Second, [2]string{"min", "s"}},
		{24 * time.Hour, time.Hour, time.Minute, [2]string{"h", "min"}},
		{1<<63 - 1, 24 * time.Hour, time.Hour, [2]string{"d", "h"}},
	} {
		up := (d + unit.small - 1).Truncate(unit.small)
		switch large, rest := up/unit.large, up%unit.large/unit.small; {
		case up >= unit.below:
		case large == 0:
			return fmt.Sprintf("%d %s", rest, unit.names[1])
		case rest == 0:
			return fmt.Sprintf("%d %s", large, unit.names[0])
		default:
			return fmt.Sprintf("%d %s %d %s", large, unit.names[0], rest, unit.names[1])
		}
	}
	return "for ever"
}
