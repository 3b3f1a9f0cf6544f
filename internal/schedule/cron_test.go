package schedule

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func mustParse(tb testing.TB, s Spec) *Schedule {
	tb.Helper()
	schedule, err := Parse(s)
	if err != nil {
		tb.Fatal(err)
	}
	return schedule
}

func instant(tb testing.TB, text string) time.Time {
	tb.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		tb.Fatal(err)
	}
	return at
}

// Each line was worked out from a calendar and the zone's rules, not from the program.
func TestNext(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ zone, cron, after, want string }{
		{"", "* * * * *", "2026-02-01T10:00:00Z", "2026-02-01T10:01:00Z"},
		{"", "* * * * *", "2026-02-01T10:00:59.999999999Z", "2026-02-01T10:01:00Z"},
		{"", "* * * * *", "2026-02-01T09:59:59.999999999Z", "2026-02-01T10:00:00Z 2026-02-01T10:01:00Z"},
		{"", "59 23 31 12 *", "2026-12-31T23:58:00Z", "2026-12-31T23:59:00Z 2027-12-31T23:59:00Z"},
		{"", "5-59/15 8 * * *", "2026-02-01T08:20:00Z", "2026-02-01T08:35:00Z 2026-02-01T08:50:00Z 2026-02-02T08:05:00Z"},
		{"", "*/25 */10 * * *", "2026-02-01T10:49:00Z", "2026-02-01T10:50:00Z 2026-02-01T20:00:00Z 2026-02-01T20:25:00Z 2026-02-01T20:50:00Z 2026-02-02T00:00:00Z"},
		{"", "0 0 31 * *", "2026-02-01T00:00:00Z", "2026-03-31T00:00:00Z 2026-05-31T00:00:00Z 2026-07-31T00:00:00Z 2026-08-31T00:00:00Z"},
		{"", "0 0 29 2 *", "2026-02-01T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"},
		{"", "0 0 29 2 *", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"},
		{"", "0 0 29 2 */7", "2026-02-01T00:00:00Z", "2032-02-29T00:00:00Z 2060-02-29T00:00:00Z 2088-02-29T00:00:00Z 2128-02-29T00:00:00Z"},
		{"", "@hourly", "2026-02-28T22:30:00Z", "2026-02-28T23:00:00Z 2026-03-01T00:00:00Z"},
		{"", "@daily", "2026-02-28T22:30:00Z", "2026-03-01T00:00:00Z 2026-03-02T00:00:00Z"},
		{"", "@midnight", "2026-02-28T22:30:00Z", "2026-03-01T00:00:00Z"},
		{"", "@weekly", "2026-02-01T00:00:00Z", "2026-02-08T00:00:00Z 2026-02-15T00:00:00Z"},
		{"", "@monthly", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"", "@yearly", "2026-02-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"", "@annually", "2026-02-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"Asia/Kathmandu", "0 9 * * *", "2026-02-01T00:00:00Z", "2026-02-01T03:15:00Z 2026-02-02T03:15:00Z"},

		// Days: 1 February 2026 is a Sunday. Either of two restricted fields, else both.
		{"", "0 0 13 * 5", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z 2026-02-13T00:00:00Z 2026-02-20T00:00:00Z 2026-02-27T00:00:00Z 2026-03-06T00:00:00Z"},
		{"", "0 0 1,15 * Sun", "2026-02-08T00:00:00Z", "2026-02-15T00:00:00Z 2026-02-22T00:00:00Z 2026-03-01T00:00:00Z 2026-03-08T00:00:00Z"},
		{"", "0 0 */13 * 5", "2026-02-01T00:00:00Z", "2026-02-27T00:00:00Z 2026-03-27T00:00:00Z"},
		{"", "0 0 1-7 * */7", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z 2026-04-05T00:00:00Z"},
		{"", "0 0 30 2 mon", "2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z 2026-02-09T00:00:00Z"},
		{"", "0 0 * * 0", "2026-02-01T00:00:00Z", "2026-02-08T00:00:00Z"},
		{"", "0 0 * * 7", "2026-02-01T00:00:00Z", "2026-02-08T00:00:00Z"},
		{"", "0 0 * * 5-7", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z 2026-02-07T00:00:00Z 2026-02-08T00:00:00Z 2026-02-13T00:00:00Z"},
		{"", "0 0 1 JAN-mar/2 *", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z 2027-01-01T00:00:00Z"},

		// New York: 8 March 2:00 EST is 3:00 EDT; 1 November 2:00 EDT is 1:00 EST.
		{"America/New_York", "30 2 * * *", "2026-03-07T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:30:00-04:00"},
		{"America/New_York", "0,30 2 * * *", "2026-03-07T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:00:00-04:00"},
		{"America/New_York", "30 2,3 * * *", "2026-03-07T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-08T03:30:00-04:00 2026-03-09T02:30:00-04:00"},
		{"America/New_York", "0 2,3 * * *", "2026-03-07T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:00:00-04:00"},
		{"America/New_York", "0 3 * * *", "2026-03-07T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T03:00:00-04:00"},
		{"America/New_York", "30 2 8 3 *", "2026-03-01T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2027-03-08T02:30:00-05:00"},
		{"America/New_York", "*/30 2 * * *", "2026-03-07T12:00:00-05:00", "2026-03-09T02:00:00-04:00"},
		{"America/New_York", "15 * * * *", "2026-03-08T01:00:00-05:00", "2026-03-08T01:15:00-05:00 2026-03-08T03:15:00-04:00 2026-03-08T04:15:00-04:00"},
		{"America/New_York", "*/20 * * * *", "2026-03-08T01:40:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-08T03:20:00-04:00"},
		{"America/New_York", "30 1 * * *", "2026-10-31T12:00:00-04:00", "2026-11-01T01:30:00-04:00 2026-11-02T01:30:00-05:00"},
		{"America/New_York", "45 1 * * *", "2026-11-01T01:10:00-05:00", "2026-11-02T01:45:00-05:00"},
		{"America/New_York", "0 1,2 * * *", "2026-10-31T12:00:00-04:00", "2026-11-01T01:00:00-04:00 2026-11-01T02:00:00-05:00 2026-11-02T01:00:00-05:00"},
		{"America/New_York", "*/30 1 * * *", "2026-10-31T12:00:00-04:00", "2026-11-01T01:00:00-04:00 2026-11-01T01:30:00-04:00 2026-11-01T01:00:00-05:00 2026-11-01T01:30:00-05:00 2026-11-02T01:00:00-05:00"},
		{"America/New_York", "@hourly", "2026-11-01T00:30:00-04:00", "2026-11-01T01:00:00-04:00 2026-11-01T01:00:00-05:00 2026-11-01T02:00:00-05:00"},
		{"America/New_York", "30 2 * * *", "2060-03-13T12:00:00-05:00", "2060-03-14T03:00:00-04:00 2060-03-15T02:30:00-04:00"},

		// The last day of a leap year that the zone's table does not reach.
		{"America/New_York", "0 12 31 12 *", "2039-12-31T12:00:00-05:00", "2040-12-31T12:00:00-05:00 2041-12-31T12:00:00-05:00"},
		{"America/New_York", "30 18,19 31 12 *", "2040-12-31T12:00:00-05:00", "2040-12-31T18:30:00-05:00 2040-12-31T19:30:00-05:00 2041-12-31T18:30:00-05:00"},
		{"America/New_York", "30 2 10 3 *", "2040-12-31T12:00:00-05:00", "2041-03-10T03:00:00-04:00"},

		// Lord Howe: 5 April 2:00 (+11) is 1:30 (+10:30); 4 October 2:00 (+10:30) is 2:30 (+11).
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00+11:00", "2026-04-05T01:45:00+11:00 2026-04-06T01:45:00+10:30"},
		{"Australia/Lord_Howe", "0 2 * * *", "2026-04-04T12:00:00+11:00", "2026-04-05T02:00:00+10:30 2026-04-06T02:00:00+10:30"},
		{"Australia/Lord_Howe", "*/15 1 * * *", "2026-04-05T01:15:00+11:00", "2026-04-05T01:30:00+11:00 2026-04-05T01:45:00+11:00 2026-04-05T01:30:00+10:30 2026-04-05T01:45:00+10:30 2026-04-06T01:00:00+10:30"},
		{"Australia/Lord_Howe", "0 * * * *", "2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30 2026-04-05T03:00:00+10:30"},
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00:00+10:30", "2026-10-04T02:30:00+11:00 2026-10-05T02:15:00+11:00"},
		{"Australia/Lord_Howe", "30 2 * * *", "2026-10-03T12:00:00+10:30", "2026-10-04T02:30:00+11:00 2026-10-05T02:30:00+11:00"},
		{"Australia/Lord_Howe", "0 * * * *", "2026-10-04T01:00:00+10:30", "2026-10-04T03:00:00+11:00"},
		{"Australia/Lord_Howe", "*/15 * * * *", "2026-10-04T01:45:00+10:30", "2026-10-04T02:30:00+11:00 2026-10-04T02:45:00+11:00"},

		// Casablanca, on +01 but in Ramadan: 15 February 3:00 is 2:00 (+00); 22 March 2:00 is 3:00 (+01).
		{"Africa/Casablanca", "30 2 * * *", "2026-02-14T12:00:00+01:00", "2026-02-15T02:30:00+01:00 2026-02-16T02:30:00+00:00"},
		{"Africa/Casablanca", "0 3 * * *", "2026-02-14T12:00:00+01:00", "2026-02-15T03:00:00+00:00 2026-02-16T03:00:00+00:00"},
		{"Africa/Casablanca", "30 * * * *", "2026-02-15T02:00:00+01:00", "2026-02-15T02:30:00+01:00 2026-02-15T02:30:00+00:00 2026-02-15T03:30:00+00:00"},
		{"Africa/Casablanca", "30 2 * * *", "2026-03-21T12:00:00+00:00", "2026-03-22T03:00:00+01:00 2026-03-23T02:30:00+01:00"},
		{"Africa/Casablanca", "30 * * * *", "2026-03-22T01:00:00+00:00", "2026-03-22T01:30:00+00:00 2026-03-22T03:30:00+01:00"},

		// Cairo changes at midnight, Troll by two hours; Apia had no 30 December 2011, which is no DST.
		{"Africa/Cairo", "@daily", "2026-04-23T12:00:00+02:00", "2026-04-24T01:00:00+03:00 2026-04-25T00:00:00+03:00"},
		{"Africa/Cairo", "0 0 24 4 *", "2026-04-01T12:00:00+02:00", "2026-04-24T01:00:00+03:00"},
		{"Africa/Cairo", "30 23 29 10 *", "2026-10-01T12:00:00+03:00", "2026-10-29T23:30:00+03:00 2027-10-29T23:30:00+02:00"},
		{"Africa/Cairo", "@hourly", "2026-10-29T22:30:00+03:00", "2026-10-29T23:00:00+03:00 2026-10-29T23:00:00+02:00 2026-10-30T00:00:00+02:00"},
		{"Antarctica/Troll", "30 1,2 * * *", "2026-03-28T12:00:00Z", "2026-03-29T03:00:00+02:00 2026-03-30T01:30:00+02:00"},
		{"Antarctica/Troll", "30 1,2 * * *", "2026-10-24T12:00:00+02:00", "2026-10-25T01:30:00+02:00 2026-10-25T02:30:00+02:00 2026-10-26T01:30:00+00:00"},
		{"Pacific/Apia", "0 12 * * *", "2011-12-29T06:00:00-10:00", "2011-12-29T12:00:00-10:00 2011-12-31T12:00:00+14:00"},
		{"Pacific/Apia", "30 0 30 * *", "2011-12-01T06:00:00-10:00", "2012-01-30T00:30:00+14:00"},
	} {
		schedule := mustParse(t, Spec{Cron: test.cron, TimeZone: test.zone})
		at := instant(t, test.after)
		for want := range strings.FieldsSeq(test.want) {
			got := schedule.Next(at)
			if !got.Equal(instant(t, want)) {
				t.Errorf("%s %q after %s: got %s, want %s", test.zone, test.cron, at, got, want)
				break
			}
			at = got
		}
	}
}

func TestValidateCronMessages(t *testing.T) {
	t.Parallel()
	const fields = "fields instead of the five minute, hour, day-of-month, month and day-of-week"
	const macros = "not one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually"
	const never = "it never runs: no month that it names has such a day"
	for cron, want := range map[string]string{
		"61 * * * *":                   "minute: 61 is out of range 0-59",
		"* 24 * * *":                   "hour: 24 is out of range 0-23",
		"* * 0 * *":                    "day-of-month: 0 is out of range 1-31",
		"* * * 13 *":                   "month: 13 is out of range 1-12",
		"* * * * 8":                    "day-of-week: 8 is out of range 0-7",
		"99999999999999999999 * * * *": "minute: 99999999999999999999 is out of range 0-59",
		"-5 * * * *":                   "minute: a value is missing",
		"5- * * * *":                   "minute: a value is missing",
		"1,,2 * * * *":                 "minute: a value is missing",
		"1, * * * *":                   "minute: a value is missing",
		"+5 * * * *":                   `minute: "+5" is not a number`,
		"1.5 * * * *":                  `minute: "1.5" is not a number`,
		"** * * * *":                   `minute: "**" is not a number`,
		"*-5 * * * *":                  `minute: "*" is not a number`,
		"1-2-3 * * * *":                `minute: "2-3" is not a number`,
		"٣ * * * *":                    `minute: "٣" is not a number`,
		"? * * * *":                    `minute: "?" is not a number`,
		"H * * * *":                    `minute: "H" is not a number`,
		"* * L * *":                    `day-of-month: "L" is not a number`,
		"* * 15W * *":                  `day-of-month: "15W" is not a number`,
		"* * ? * *":                    `day-of-month: "?" is not a number`,
		"* * * January *":              `month: "January" is not a number or a name jan-dec`,
		"* * * * 5#2":                  `day-of-week: "5#2" is not a number or a name sun-sat`,
		"* * * * 5L":                   `day-of-week: "5L" is not a number or a name sun-sat`,
		"* * * * jan":                  `day-of-week: "jan" is not a number or a name sun-sat`,
		"*/0 * * * *":                  "minute: step of */0: 0 is out of range 1-59",
		"*/90 * * * *":                 "minute: step of */90: 90 is out of range 1-59",
		"*/ * * * *":                   "minute: step of */: a value is missing",
		"*/2/3 * * * *":                `minute: step of */2/3: "2/3" is not a number`,
		"*/-2 * * * *":                 `minute: step of */-2: "-2" is not a number`,
		"5/15 * * * *":                 "minute: 5/15: a step needs * or a range, such as 5-59/15",
		"50-10 * * * *":                "minute: range 50-10 runs backwards",
		"* * * nov-feb *":              "month: range nov-feb runs backwards",
		"* * * * fri-sun":              "day-of-week: range fri-sun runs backwards; a Sunday that ends a range is 7",
		"* * * *":                      "it has 4 " + fields,
		"0 * * * * *":                  "it has 6 " + fields,
		"* * * * * 2026 *":             "it has 7 " + fields,
		"* * *\n* *":                   "it has 4 " + fields,
		"":                             "it has 0 " + fields,
		"@reboot":                      macros,
		"@Daily":                       macros,
		"@":                            macros,
		"@daily 5":                     macros,
		"@every 5m":                    "@every is not supported: set every instead of cron",
		"TZ=UTC * * * * *":             "a time zone is not part of the expression: set time_zone",
		"CRON_TZ=UTC * * * * *":        "a time zone is not part of the expression: set time_zone",
		"0 0 30 2 *":                   never,
		"0 0 31 2,4,6,9,11 *":          never,
		"0 0 30-31 feb */2":            never,
	} {
		err := ValidateCron(cron)
		if err == nil {
			t.Errorf("%q is accepted", cron)
		} else if want = fmt.Sprintf("cron %q: %s", cron, want); err.Error() != want {
			t.Errorf("got  %s\nwant %s", err, want)
		}
	}
	for _, cron := range []string{"  05 4\t* * *  \n", "0 0 29 2 *", "0 0 31 1-12 *", "*,5 * * * *", "0 0 * * 0-7", "0 0 30 2 1"} {
		if err := ValidateCron(cron); err != nil {
			t.Error(err)
		}
	}
}

func TestNeverInZone(t *testing.T) {
	t.Parallel()
	// The second Sunday in March: it matches as a day, but has no such hour in New York.
	spec := Spec{Cron: "* 2 8-14 3 */7"}
	mustParse(t, spec)
	spec.TimeZone = "America/New_York"
	_, err := Parse(spec)
	const want = `cron "* 2 8-14 3 */7": it never runs in time zone "America/New_York": each wall clock time it names is skipped by daylight saving time`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// randomCron is an expression and, independently of the parser, its meaning.
type randomCron struct {
	text   string
	values [5]map[int]bool
	star   [5]bool
}

func newRandomCron(r *rand.Rand) randomCron {
	var c randomCron
	var fields []string
	for i, bounds := range [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 6}} {
		first, last := bounds[0], bounds[1]
		c.values[i] = map[int]bool{}
		add := func(from, to, step int) {
			for v := from; v <= to; v += step {
				c.values[i][v] = true
			}
		}
		pick := func() int {
			if i == 1 && r.IntN(2) == 0 {
				return r.IntN(4) // where the clocks are changed
			}
			return first + r.IntN(last-first+1)
		}
		kind := r.IntN(6)
		if i == 2 || i == 3 {
			kind = r.IntN(12) // most days match, so that most windows have runs
		}
		switch kind {
		case 0:
			v := pick()
			fields = append(fields, fmt.Sprint(v))
			add(v, v, 1)
		case 1:
			a, b := pick(), pick()
			fields = append(fields, fmt.Sprintf("%d,%d", a, b))
			add(a, a, 1)
			add(b, b, 1)
		case 2:
			a, b := pick(), pick()
			a, b = min(a, b), max(a, b)
			fields = append(fields, fmt.Sprintf("%d-%d", a, b))
			add(a, b, 1)
		case 3:
			a, step := pick(), 1+r.IntN(5)
			fields = append(fields, fmt.Sprintf("%d-%d/%d", a, last, step))
			add(a, last, step)
		case 4:
			step := 1 + r.IntN(6)
			fields = append(fields, fmt.Sprintf("*/%d", step))
			add(first, last, step)
			c.star[i] = true
		default:
			fields = append(fields, "*")
			add(first, last, 1)
			c.star[i] = true
		}
	}
	c.text = strings.Join(fields, " ")
	return c
}

func (c randomCron) matches(wall time.Time) bool {
	dayOfMonth, dayOfWeek := c.values[2][wall.Day()], c.values[4][int(wall.Weekday())]
	day := dayOfMonth && dayOfWeek
	if !c.star[2] && !c.star[4] {
		day = dayOfMonth || dayOfWeek
	}
	return day && c.values[0][wall.Minute()] && c.values[1][wall.Hour()] && c.values[3][int(wall.Month())]
}

// iscRuns is the main loop of ISC cron 4.1 (cron.c) over the minutes of an
// interval: the daemon wakes at each, compares the wall clock with the virtual
// time up to which it has run jobs, and decides which kinds of jobs are due.
func iscRuns(c randomCron, zone *time.Location, from, to time.Time) []time.Time {
	wall := func(t time.Time) time.Time {
		_, offset := t.In(zone).Zone()
		return t.UTC().Add(time.Duration(offset) * time.Second)
	}
	wild := c.star[0] || c.star[1]
	var runs []time.Time
	virtual := wall(from)
	for now := from.Add(time.Minute); !now.After(to); now = now.Add(time.Minute) {
		running := wall(now)
		run := false
		switch behind := running.Sub(virtual); {
		case behind == time.Minute || behind > 3*time.Hour || behind <= -3*time.Hour:
			virtual = running
			run = c.matches(virtual)
		case behind > 0: // wildcard jobs for now, fixed ones for each minute missed
			run = wild && c.matches(running)
			for virtual.Before(running) {
				virtual = virtual.Add(time.Minute)
				run = run || !wild && c.matches(virtual)
			}
		default: // wildcard jobs only, until the clock has caught up
			run = wild && c.matches(running)
		}
		if run {
			runs = append(runs, now)
		}
	}
	return runs
}

func TestNextIsWhatISCCronRuns(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 2026))
	for _, window := range []struct{ zone, around string }{
		{"UTC", "2028-02-28T12:00:00Z"},
		{"Asia/Kathmandu", "2026-12-31T12:00:00Z"},
		{"America/New_York", "2026-03-08T07:00:00Z"},
		{"America/New_York", "2026-11-01T06:00:00Z"},
		{"America/New_York", "2061-03-13T07:00:00Z"},
		{"Australia/Lord_Howe", "2026-04-04T15:00:00Z"},
		{"Australia/Lord_Howe", "2026-10-03T15:30:00Z"},
		{"Africa/Casablanca", "2026-02-15T02:00:00Z"},
		{"Africa/Casablanca", "2026-03-22T02:00:00Z"},
		{"Africa/Cairo", "2026-04-23T22:00:00Z"},
		{"Africa/Cairo", "2026-10-29T21:00:00Z"},
		{"Antarctica/Troll", "2026-03-29T01:00:00Z"},
		{"Antarctica/Troll", "2026-10-25T01:00:00Z"},
		{"Pacific/Apia", "2011-12-30T10:00:00Z"},
	} {
		from := instant(t, window.around).Add(-30 * time.Hour)
		to := from.Add(4 * 24 * time.Hour)
		for range 60 {
			c := newRandomCron(random)
			table, err := parseCron(c.text)
			if err != nil {
				if !strings.Contains(err.Error(), "never runs") {
					t.Error(err)
				}
				continue
			}
			zone, err := loadZone(window.zone)
			if err != nil {
				t.Fatal(err)
			}
			schedule := &Schedule{cron: &cronSchedule{cronTable: table, zone: zone}}
			at := from
			for _, want := range append(iscRuns(c, zone, from, to), time.Time{}) {
				next := schedule.Next(at)
				if want.IsZero() {
					if !next.After(to) && !next.IsZero() {
						t.Errorf("%s %q after %s: got %s, want none until %s", window.zone, c.text, at, next, to)
					}
				} else if !next.Equal(want) {
					t.Errorf("%s %q after %s: got %s, want %s", window.zone, c.text, at, next, want)
					break
				}
				at = next
			}
		}
	}
}

// Whatever the instant, the next run is later, its wall clock time is one that the
// expression names, or, where that is skipped, the first one after; and from any
// instant in between it is the same.
func TestNextIsLaterAndMatches(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 1))
	for _, zone := range []string{"UTC", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"} {
		location, err := loadZone(zone)
		if err != nil {
			t.Fatal(err)
		}
		matched, moved := 0, 0
		for range 300 {
			c := newRandomCron(random)
			schedule, err := Parse(Spec{Cron: c.text, TimeZone: zone})
			if err != nil {
				continue
			}
			after := time.Unix(random.Int64N(4e9), random.Int64N(1e9))
			next := schedule.Next(after)
			if !next.After(after) {
				t.Fatalf("%s %q after %s: %s is not later", zone, c.text, after, next)
			}
			_, offset := next.In(location).Zone()
			_, before := next.Add(-time.Minute).In(location).Zone()
			switch {
			case c.matches(next.In(location)):
				matched++
			case offset > before && !c.star[0] && !c.star[1]:
				moved++
			default:
				t.Fatalf("%s %q after %s: %s does not match", zone, c.text, after, next.In(location))
			}
			between := after.Add(time.Duration(random.Int64N(int64(next.Sub(after)))))
			if got := schedule.Next(between); !got.Equal(next) {
				t.Fatalf("%s %q: after %s comes %s, but after %s in between %s", zone, c.text, after, next, between, got)
			}
		}
		if matched == 0 || moved > matched {
			t.Errorf("%s: %d runs match, %d were moved", zone, matched, moved)
		}
	}
}

func FuzzParseCron(f *testing.F) {
	for _, seed := range []string{
		"* * * * *", "*/5 9-17 * * mon-fri", "0 0 29 2 *", "0 0 30 2 *", "5-59/15 1,2 1-7 JAN,dec 5-7", "@hourly",
		"@every 1s", "TZ=UTC * * * * *", "61 * * * *", "0 0 L * 5#2", "H/5 ? * * *", "0 0 29 2 */7", "00000000000000000007 * * * *",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parseCron(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), fmt.Sprintf("cron %q: ", text)) {
				t.Errorf("the error does not begin with the expression: %s", err)
			}
			return
		}
		// All that the grammar allows; anything else must have been refused.
		if strings.Trim(strings.TrimSpace(text), "0123456789*/-, \tabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ@") != "" {
			t.Errorf("%q is accepted", text)
		}
		if strings.Contains(text, "@") != strings.HasPrefix(strings.TrimSpace(text), "@") {
			t.Errorf("%q is accepted", text)
		}
		schedule := &Schedule{cron: &cronSchedule{cronTable: table, zone: time.UTC}}
		at := reference
		for range 3 {
			next := schedule.Next(at)
			if !next.After(at) || next.Second() != 0 || !table.matchesDay(next) ||
				table.minutes>>next.Minute()&1 == 0 || table.hours>>next.Hour()&1 == 0 || table.months>>next.Month()&1 == 0 {
				t.Fatalf("%q after %s: %s", text, at, next)
			}
			if gap := next.Sub(at); at != reference && gap > schedule.LongestGap() {
				t.Fatalf("%q: from %s to %s is longer than the longest gap %s", text, at, next, schedule.LongestGap())
			}
			at = next
		}
	})
}

func BenchmarkNext(b *testing.B) {
	for _, spec := range []Spec{
		{Cron: "* * * * *"},
		{Cron: "* 9-17 * * 1-5", TimeZone: "America/New_York"},
		{Cron: "30 2 * * *", TimeZone: "Australia/Lord_Howe"},
		{Cron: "0 0 29 2 *", TimeZone: "Africa/Casablanca"},
		{Cron: "0 0 29 2 */7", TimeZone: "America/New_York"},
	} {
		b.Run(spec.Cron+" "+spec.TimeZone, func(b *testing.B) {
			schedule := mustParse(b, spec)
			at := reference
			for b.Loop() {
				if at = schedule.Next(at); at.Year() > 2100 {
					at = reference
				}
			}
		})
	}
}
