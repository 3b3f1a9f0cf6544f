package schedule

import (
	"math/bits"
	"time"
)

// reference is where questions about a schedule as a whole start, so that
// their answers do not change from day to day. The calendar repeats after 28
// years (not across 2100, which is no leap year: 29 February then takes 8 years).
var reference = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

const cycleYears = 28

// LongestGap is the longest time between two consecutive runs, without jitter,
// or the target of one that has a TargetStaleness;
// changes of the zone's offset in the 28 years from 2025 are included.
func (s *Schedule) LongestGap() time.Duration {
	if s.cron == nil {
		return s.interval()
	}
	return time.Duration(s.cron.longestGap()) * time.Second
}

// longestGap is the longest distance on the wall clock, unless one that spans a
// change of the clock is longer.
func (c *cronSchedule) longestGap() int64 {
	wall := c.longestWallGap()
	longest := wall
	end := reference.AddDate(cycleYears, 0, 0).Unix()
	var measured int64 // where the last gap that was looked at ends
	for p := c.periodAt(reference.Unix()); p.end < end; {
		p = c.periodAt(p.end)
		// Forward, a gap is shorter unless runs in it are lost; back, it is longer by the change at most.
		longer := p.change() < 0 && wall-p.change() > longest ||
			p.change() > 0 && c.wildcard && c.skips(p)
		if !longer || p.start <= measured {
			continue
		}
		last, ok := c.lastBefore(p.start)
		if !ok {
			continue
		}
		if next, ok := c.next(last); ok {
			longest = max(longest, next-last)
			measured = next
		}
	}
	return longest
}

func (c *cronTable) longestWallGap() int64 {
	var between int // consecutive minutes of one day
	first, _ := c.nextMinute(0)
	last := first
	for {
		minute, ok := c.nextMinute(last + 1)
		if !ok {
			break
		}
		between = max(between, minute-last)
		last = minute
	}
	return 60 * int64(max(between, c.longestDayGap()*minutesPerDay-last+first))
}

// longestDayGap is the most days from one matching day to the next, around the 28 years.
func (c *cronTable) longestDayGap() int {
	firstDay, lastDay, longest := -1, -1, 0
	day := 0 // days before the month
	year := reference.Year()
	weekday := int(reference.Weekday())
	for month := range cycleYears * 12 {
		length := daysIn(year+month/12, time.Month(month%12+1))
		days := c.daysOfMonth(time.Month(month%12+1), length, (weekday+day)%7)
		for ; days != 0; days &= days - 1 {
			match := day + bits.TrailingZeros64(days)
			if firstDay < 0 {
				firstDay, lastDay = match, match
			}
			longest = max(longest, match-lastDay)
			lastDay = match
		}
		day += length
	}
	return max(longest, firstDay+day-lastDay)
}

// lastBefore is the last run before an instant, false if there is none in a century.
func (c *cronSchedule) lastBefore(instant int64) (int64, bool) {
	found, none := int64(0), instant // no run in [none, instant)
	for step := int64(60); ; step *= 2 {
		if step > horizonYears*366*secondsPerDay {
			return 0, false
		}
		next, ok := c.next(instant - step - 1)
		if ok && next < instant {
			found = next
			break
		}
		none = instant - step
	}
	for none-found > 1 {
		middle := found + (none-found)/2
		if next, ok := c.next(middle); ok && next < instant {
			found = next
		} else {
			none = middle
		}
	}
	return found, true
}
