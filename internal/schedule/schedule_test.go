package schedule

import (
	"testing"
	"time"
)

func TestSpecValidate(t *testing.T) {
	t.Parallel()
	const zone = `: not a name of the IANA time zone database, such as "America/New_York" or "UTC"`
	for _, test := range []struct {
		spec Spec
		want string // "" is valid
	}{
		{Spec{Cron: "@daily"}, ""},
		{Spec{Cron: "@daily", TimeZone: "UTC", Jitter: time.Minute}, ""},
		{Spec{Every: time.Second, TimeZone: "Europe/Berlin", Jitter: time.Minute}, ""},
		{Spec{TargetStaleness: time.Minute}, ""},
		{Spec{}, "none of cron, every and target_staleness is set: set exactly one"},
		{Spec{Cron: "@daily", Every: time.Second}, "cron and every are set: set exactly one of cron, every and target_staleness"},
		{Spec{Cron: "@daily", TargetStaleness: time.Second}, "cron and target_staleness are set: set exactly one of cron, every and target_staleness"},
		{Spec{Cron: "@daily", Every: time.Second, TargetStaleness: 1}, "cron and every and target_staleness are set: set exactly one of cron, every and target_staleness"},
		{Spec{Every: -time.Second}, "every -1s is not positive"},
		{Spec{Every: time.Microsecond}, "every 1µs is shorter than 1s"},
		{Spec{TargetStaleness: -time.Second}, "target_staleness -1s is not positive"},
		{Spec{Every: time.Second, Jitter: -time.Second}, "jitter -1s is negative"},
		{Spec{Cron: " "}, `cron " ": it has 0 fields instead of the five minute, hour, day-of-month, month and day-of-week`},
		{Spec{Cron: "@daily", TimeZone: "Mars/Olympus"}, `time zone "Mars/Olympus"` + zone},
		{Spec{Every: time.Second, TimeZone: "+02:00"}, `time zone "+02:00"` + zone},
		{Spec{Cron: "@daily", TimeZone: "Local"}, `time zone "Local"` + zone},
		{Spec{Cron: "@daily", TimeZone: "right/UTC"}, `time zone "right/UTC"` + zone},
		{Spec{Cron: "@daily", TimeZone: "../UTC"}, `time zone "../UTC"` + zone},
		{Spec{Cron: "@daily", TimeZone: "America"}, `time zone "America"` + zone},
	} {
		got := ""
		if err := test.spec.Validate(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%+v:\ngot  %s\nwant %s", test.spec, got, test.want)
		}
		if _, err := Parse(test.spec); test.want != "" && (err == nil || err.Error() != test.want) {
			t.Errorf("Parse(%+v): %v", test.spec, err)
		}
	}
}

func TestValidateTimeZone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "UTC", "Etc/GMT+5", "America/Argentina/Buenos_Aires", "EST5EDT"} {
		if err := ValidateTimeZone(name); err != nil {
			t.Error(err)
		}
	}
	if ValidateTimeZone("posixrules") == nil {
		t.Error("posixrules is accepted")
	}
}

func TestTargetStalenessParses(t *testing.T) {
	t.Parallel()
	schedule := mustParse(t, Spec{TargetStaleness: 5 * time.Minute})
	if gap := schedule.LongestGap(); gap != 5*time.Minute {
		t.Errorf("longest gap %s", gap)
	}
	if next := schedule.NextRun("view", reference, reference); !next.Equal(reference.Add(5 * time.Minute)) {
		t.Errorf("without more knowledge: %s", next)
	}
}

func TestNextEvery(t *testing.T) {
	t.Parallel()
	if got := mustParse(t, Spec{Every: time.Minute}).Next(reference); !got.Equal(reference.Add(time.Minute)) {
		t.Errorf("got %s", got)
	}
}
