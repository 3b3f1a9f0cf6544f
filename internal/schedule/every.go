package schedule

import "time"

// nextEvery is lastStart plus the smallest positive multiple of every that is later than after.
func nextEvery(every time.Duration, after, lastStart time.Time) time.Time {
	if lastStart.IsZero() {
		return after.Add(every)
	}
	since := after.Sub(lastStart)
	if since < 0 {
		return lastStart.Add(every)
	}
	return after.Add(every - since%every)
}
