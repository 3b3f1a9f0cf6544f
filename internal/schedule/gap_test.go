package schedule

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestLongestGap(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, test := range []struct {
		zone, cron string
		want       time.Duration
	}{
		{"", "* * * * *", time.Minute},
		{"", "*/15 * * * *", 15 * time.Minute},
		{"", "*/7 * * * *", 7 * time.Minute},
		{"", "0,10 * * * *", 50 * time.Minute},
		{"", "@hourly", time.Hour},
		{"", "@daily", day},
		{"", "@weekly", 7 * day},
		{"", "@monthly", 31 * day},
		{"", "@yearly", 366 * day},
		{"", "0 0 31 * *", 61 * day},
		{"", "0 0 13 * 5", 7 * day},
		{"", "0 12 * * 1-5", 3 * day},
		{"", "* 9-17 * * 1-5", 63*time.Hour + time.Minute}, // Friday 17:59 to Monday 9:00
		{"", "0 0 29 2 *", 1461 * day},
		{"", "0 0 29 2 */7", 28 * 1461 / 4 * day},
		{"America/New_York", "* * * * *", time.Minute},
		{"America/New_York", "@hourly", time.Hour},
		{"America/New_York", "@daily", 25 * time.Hour},
		{"America/New_York", "30 1 * * *", 25 * time.Hour},
		{"America/New_York", "30 2 * * *", 25 * time.Hour},
		{"America/New_York", "0 12 * * 1-5", 73 * time.Hour},
		{"America/New_York", "* 9-17 * * 1-5", 64*time.Hour + time.Minute},
		{"America/New_York", "*/30 2 * * *", 46*time.Hour + 30*time.Minute}, // Saturday 2:30 EST to Monday 2:00 EDT
		{"America/New_York", "* 2 8 3 *", 731*day - 59*time.Minute},         // of 2048 there is none
		{"Australia/Lord_Howe", "@hourly", 90 * time.Minute},                // 1:00 (+11) to 2:00 (+10:30)
		{"Australia/Lord_Howe", "@daily", 24*time.Hour + 30*time.Minute},
		{"Africa/Casablanca", "30 2 * * *", 25 * time.Hour}, // into Ramadan
		{"Antarctica/Troll", "30 2 * * *", 26 * time.Hour},
		{"Asia/Kathmandu", "30 2 * * *", day}, // no DST
		{"Pacific/Apia", "30 2 * * *", day},   // none since 2021
	} {
		if got := mustParse(t, Spec{Cron: test.cron, TimeZone: test.zone}).LongestGap(); got != test.want {
			t.Errorf("%s %q: got %s, want %s", test.zone, test.cron, got, test.want)
		}
	}
	if got := mustParse(t, Spec{Every: 5 * time.Minute}).LongestGap(); got != 5*time.Minute {
		t.Errorf("every 5m: got %s", got)
	}
}

func TestNoGapIsLonger(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 3))
	for _, zone := range []string{"UTC", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Antarctica/Troll"} {
		for range 40 {
			c := newRandomCron(random)
			schedule, err := Parse(Spec{Cron: c.text, TimeZone: zone})
			if err != nil {
				continue
			}
			longest := schedule.LongestGap()
			at := schedule.Next(reference.AddDate(0, 0, random.IntN(3650)))
			for range 2000 {
				next := schedule.Next(at)
				if next.After(reference.AddDate(cycleYears, 0, 0)) {
					break // Ramadan comes at other times then
				}
				if next.Sub(at) > longest {
					t.Errorf("%s %q: from %s to %s is longer than %s", zone, c.text, at, next, longest)
					break
				}
				at = next
			}
		}
	}
}

func BenchmarkLongestGap(b *testing.B) {
	for _, spec := range []Spec{
		{Cron: "* * * * *", TimeZone: "America/New_York"},
		{Cron: "* 9-17 * * 1-5", TimeZone: "America/New_York"},
		{Cron: "*/30 2 * * *", TimeZone: "Africa/Casablanca"},
		{Cron: "@daily", TimeZone: "America/New_York"},
		{Cron: "0 0 29 2 *", TimeZone: "Australia/Lord_Howe"},
		{Cron: "* 2 29 2 */7", TimeZone: "America/New_York"},
	} {
		b.Run(spec.Cron+" "+spec.TimeZone, func(b *testing.B) {
			schedule := mustParse(b, spec)
			for b.Loop() {
				schedule.LongestGap()
			}
		})
	}
}
