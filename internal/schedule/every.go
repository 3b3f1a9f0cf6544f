package schedule

import "time"

// nextEvery is lastStart plus the smallest positive multiple of every that is later than after.
func nextEvery(every, offset time.Duration, after, lastStart time.Time) time.Time {
	if lastStart.IsZero() {
		return after.Add(every + offset)
	}
	runs := max(0, after.Sub(lastStart)/every) + 1
	next := lastStart.Add(runs * every)
	if !next.After(after) { // a lastStart so long ago (-infinity in the table) that the arithmetic overflowed
		return after.Add(every)
	}
	return next
}
