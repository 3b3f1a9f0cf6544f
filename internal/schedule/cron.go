package schedule

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// cronTable is a parsed cron expression; bit n of a set is the value n.
type cronTable struct {
	minutes uint64
	hours   uint64
	months  uint64
	days    [7]uint64 // matching days of a month, by the weekday of its first day

	// wildcard: the minute or the hour starts with *. ISC cron (cron.c, MIN_STAR
	// and HR_STAR) tells by this which jobs catch up after a change of the clock.
	wildcard bool
}

var cronMacros = map[string]string{
	"@hourly":   "0 * * * *",
	"@daily":    "0 0 * * *",
	"@midnight": "0 0 * * *",
	"@weekly":   "0 0 * * 0",
	"@monthly":  "0 0 1 * *",
	"@yearly":   "0 0 1 1 *",
	"@annually": "0 0 1 1 *",
}

type cronField struct {
	name     string
	min, max int
	names    []string // of the values from min on
}

var (
	minuteField     = cronField{name: "minute", max: 59}
	hourField       = cronField{name: "hour", max: 23}
	dayOfMonthField = cronField{name: "day-of-month", min: 1, max: 31}
	monthField      = cronField{name: "month", min: 1, max: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}}
	dayOfWeekField  = cronField{name: "day-of-week", max: 7, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}}
)

func parseCron(expression string) (*cronTable, error) {
	table, err := parseCronFields(strings.TrimSpace(expression))
	if err != nil {
		return nil, fmt.Errorf("cron %q: %w", expression, err)
	}
	return table, nil
}

func parseCronFields(expression string) (*cronTable, error) {
	text, err := expandMacro(expression)
	if err != nil {
		return nil, err
	}
	parts := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(parts) != 5 {
		return nil, fmt.Errorf("it has %d fields instead of the five minute, hour, day-of-month, month and day-of-week", len(parts))
	}
	var sets [5]uint64
	for i, field := range []cronField{minuteField, hourField, dayOfMonthField, monthField, dayOfWeekField} {
		if sets[i], err = field.parse(parts[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", field.name, err)
		}
	}
	star := func(i int) bool { return strings.HasPrefix(parts[i], "*") }
	table := &cronTable{minutes: sets[0], hours: sets[1], months: sets[3], wildcard: star(0) || star(1)}
	table.setDays(sets[2], sets[4], !star(2) && !star(4))
	if !table.possible() {
		return nil, errors.New("it never runs: no month that it names has such a day")
	}
	return table, nil
}

func expandMacro(expression string) (string, error) {
	switch {
	case strings.HasPrefix(expression, "@every"):
		return "", errors.New("@every is not supported: set every instead of cron")
	case strings.HasPrefix(expression, "TZ="), strings.HasPrefix(expression, "CRON_TZ="):
		return "", errors.New("a time zone is not part of the expression: set time_zone")
	case !strings.HasPrefix(expression, "@"):
		return expression, nil
	}
	text, ok := cronMacros[expression]
	if !ok {
		return "", errors.New("not one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually")
	}
	return text, nil
}

func (f cronField) parse(text string) (uint64, error) {
	var set uint64
	for item := range strings.SplitSeq(text, ",") {
		values, err := f.parseItem(item)
		if err != nil {
			return 0, err
		}
		set |= values
	}
	return set, nil
}

// parseItem reads one of *, 5, 5-9, */2 and 5-9/2.
func (f cronField) parseItem(item string) (uint64, error) {
	span, stepText, stepped := strings.Cut(item, "/")
	first, last, step := f.min, f.max, 1
	var err error
	if span != "*" {
		if first, last, err = f.parseRange(span); err != nil {
			return 0, err
		}
		if stepped && !strings.Contains(span, "-") {
			return 0, fmt.Errorf("%s: a step needs * or a range, such as %s-%d/%s", item, span, f.max, stepText)
		}
	}
	if stepped {
		if step, err = f.number(stepText, 1); err != nil {
			return 0, fmt.Errorf("step of %s: %w", item, err)
		}
	}
	var set uint64
	for v := first; v <= last; v += step {
		set |= 1 << v
	}
	return set, nil
}

func (f cronField) parseRange(span string) (first, last int, err error) {
	from, to, isRange := strings.Cut(span, "-")
	if first, err = f.value(from); err != nil || !isRange {
		return first, first, err
	}
	if last, err = f.value(to); err != nil {
		return 0, 0, err
	}
	if last < first {
		hint := ""
		if f.name == dayOfWeekField.name && last == 0 {
			hint = "; a Sunday that ends a range is 7"
		}
		return 0, 0, fmt.Errorf("range %s runs backwards%s", span, hint)
	}
	return first, last, nil
}

func (f cronField) value(text string) (int, error) {
	for i, name := range f.names {
		if strings.EqualFold(text, name) {
			return f.min + i, nil
		}
	}
	return f.number(text, f.min)
}

func (f cronField) number(text string, least int) (int, error) {
	if text == "" {
		return 0, errors.New("a value is missing")
	}
	if strings.Trim(text, "0123456789") != "" {
		if len(f.names) > 0 {
			return 0, fmt.Errorf("%q is not a number or a name %s-%s", text, f.names[0], f.names[len(f.names)-1])
		}
		return 0, fmt.Errorf("%q is not a number", text)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > f.max {
		return 0, fmt.Errorf("%s is out of range %d-%d", text, least, f.max)
	}
	return n, nil
}

// setDays precomputes the rule of cron that a day matches if it matches both
// fields, but either of them when both are restricted.
func (c *cronTable) setDays(ofMonth, ofWeek uint64, either bool) {
	ofWeek |= ofWeek >> 7 // 7 is Sunday, too
	for first := range c.days {
		var weekdays uint64
		for day := 1; day <= 31; day++ {
			weekdays |= ofWeek >> ((first + day - 1) % 7) & 1 << day
		}
		if either {
			c.days[first] = ofMonth | weekdays
		} else {
			c.days[first] = ofMonth & weekdays
		}
	}
}

// possible: a day of some month matches. A leap February begins on every
// weekday within 400 years, so one that matches by its number comes.
func (c *cronTable) possible() bool {
	for month := time.January; month <= time.December; month++ {
		for weekday := range c.days {
			if c.daysOfMonth(month, daysIn(2000, month), weekday) != 0 {
				return true
			}
		}
	}
	return false
}

func (c *cronTable) daysOfMonth(month time.Month, length, weekday int) uint64 {
	if c.months>>month&1 == 0 {
		return 0
	}
	return c.days[weekday] & (1<<(length+1) - 1)
}

func daysIn(year int, month time.Month) int {
	return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

const (
	secondsPerDay = 24 * 60 * 60
	minutesPerDay = 24 * 60

	// horizonYears ends a search. A 29 February on a given weekday may take 40.
	horizonYears = 100
)

// nextWall is the first matching minute at or after a wall clock time, both in
// seconds since 1970 as that clock shows them; false beyond the horizon.
func (c *cronTable) nextWall(wall int64) (int64, bool) {
	from := time.Unix(wall, 0).UTC()
	midnight := from.Truncate(secondsPerDay * time.Second)
	if minute, ok := c.nextMinute(int(wall-midnight.Unix()+59) / 60); ok && c.matchesDay(from) {
		return midnight.Unix() + int64(minute)*60, true
	}

	first, _ := c.nextMinute(0)
	year, month, day := from.Date()
	candidates := ^uint64(0) << (day + 1)
	for last := year + horizonYears; year <= last; candidates = ^uint64(0) {
		if c.months>>month&1 != 0 {
			start := time.Date(year, month, 1, 0, first, 0, 0, time.UTC)
			days := candidates & c.daysOfMonth(month, daysIn(year, month), int(start.Weekday()))
			if days != 0 {
				return start.Unix() + int64(bits.TrailingZeros64(days)-1)*secondsPerDay, true
			}
		}
		if month++; month > time.December {
			year, month = year+1, time.January
		}
	}
	return 0, false
}

func (c *cronTable) matchesDay(t time.Time) bool {
	year, month, day := t.Date()
	weekday := (int(t.Weekday()) + 5*7 - (day - 1)) % 7
	return c.daysOfMonth(month, daysIn(year, month), weekday)>>day&1 != 0
}

// nextMinute is the first matching minute of a day from the given one on.
func (c *cronTable) nextMinute(minute int) (int, bool) {
	hour := minute / 60
	if c.hours>>hour&1 != 0 {
		if rest := c.minutes >> (minute % 60); rest != 0 {
			return minute + bits.TrailingZeros64(rest), true
		}
	}
	later := c.hours >> (hour + 1)
	if later == 0 {
		return 0, false
	}
	return (hour+1+bits.TrailingZeros64(later))*60 + bits.TrailingZeros64(c.minutes), true
}

// cronSchedule is a table in a time zone.
type cronSchedule struct {
	*cronTable
	zone *time.Location
}

// maxDST is the largest change of the clock that ISC cron treats as daylight
// saving time; a larger one (a country that crosses the date line) is
// a new calendar, with nothing to catch up on or to suppress.
const maxDST = 3 * 60 * 60

// period is a time of one offset from UTC, all in Unix time and seconds.
type period struct {
	start, end     int64 // end is not in it
	offset         int64
	previousOffset int64
}

func (c *cronSchedule) periodAt(instant int64) period {
	t := time.Unix(instant, 0).In(c.zone)
	_, offset := t.Zone()
	p := period{start: -1 << 62, end: 1 << 62, offset: int64(offset), previousOffset: int64(offset)}
	start, end := t.ZoneBounds()
	if !start.IsZero() {
		p.start = start.Unix()
		_, previous := start.Add(-time.Second).Zone()
		p.previousOffset = int64(previous)
	}
	if !end.IsZero() {
		p.end = end.Unix()
	}
	if p.end <= instant {
		// Where a rule continues the zone's table (after 2037), package time ends each
		// year after 365 days (zoneinfo.go, tzset): this is a 31 December.
		p.end = instant - instant%secondsPerDay + secondsPerDay
	}
	return p
}

func (p period) change() int64 { return p.offset - p.previousOffset }

// skips: the clock jumped forward over a matching minute when the period began.
func (c *cronSchedule) skips(p period) bool {
	if p.change() <= 0 || p.change() > maxDST {
		return false
	}
	wall, ok := c.nextWall(p.start + p.previousOffset)
	return ok && wall < p.start+p.offset
}

// next is the first run strictly after a second of Unix time.
func (c *cronSchedule) next(after int64) (int64, bool) {
	from := after + 1
	horizon := from + horizonYears*366*secondsPerDay
	for from < horizon {
		p := c.periodAt(from)
		wall := from + p.offset
		if !c.wildcard {
			if from == p.start && c.skips(p) {
				return from, true
			}
			if p.change() < 0 && p.change() >= -maxDST {
				wall = max(wall, p.start+p.previousOffset) // earlier ones ran before the clock was set back
			}
		}
		wall, ok := c.nextWall(wall)
		if !ok {
			return 0, false
		}
		if wall-p.offset < p.end {
			return wall - p.offset, true
		}
		// No clock will show anything that matches until shortly before wall,
		// unless one is set back to before from.
		const slack = 2 * secondsPerDay
		if p.end-from > slack {
			from = max(p.end, wall-p.offset-slack)
		} else {
			from = p.end
		}
	}
	return 0, false
}
