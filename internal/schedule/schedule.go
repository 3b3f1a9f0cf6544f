// Package schedule says when the refresh of a materialized view is due.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // images without a zoneinfo directory know every zone too
)

// Spec is when a view is to be refreshed: exactly one of Cron, Every and TargetStaleness is set.
type Spec struct {
	Cron            string
	Every           time.Duration
	TargetStaleness time.Duration
	TimeZone        string        // IANA name, "" means UTC; applies to Cron
	Jitter          time.Duration // 0: none
}

// Validate returns an error that a person can act on.
func (s Spec) Validate() error {
	_, err := Parse(s)
	return err
}

// Parse compiles a spec.
func Parse(s Spec) (*Schedule, error) {
	if err := s.validateKind(); err != nil {
		return nil, err
	}
	if s.Jitter < 0 {
		return nil, fmt.Errorf("jitter %s is negative", s.Jitter)
	}
	if s.Every > 0 && s.Every < shortestEvery {
		return nil, fmt.Errorf("every %s is shorter than %s", s.Every, shortestEvery)
	}
	zone, err := loadZone(s.TimeZone)
	if err != nil {
		return nil, err
	}
	compiled := &Schedule{spec: s}
	if s.Cron == "" {
		return compiled, nil
	}
	table, err := parseCron(s.Cron)
	if err != nil {
		return nil, err
	}
	compiled.cron = &cronSchedule{cronTable: table, zone: zone}
	// Such as every minute from 2:00 to 2:59 of the Sunday on which that hour is skipped.
	if _, ok := compiled.cron.next(reference.Unix()); !ok {
		return nil, fmt.Errorf("cron %q: it never runs in time zone %q: each wall clock time it names is skipped by daylight saving time", s.Cron, s.TimeZone)
	}
	return compiled, nil
}

// shortestEvery is that of the provider: a row that was written by hand, with an
// interval of microseconds, would fill the history with hundreds of attempts a second.
const shortestEvery = time.Second

func (s Spec) validateKind() error {
	var set []string
	if s.Cron != "" {
		set = append(set, "cron")
	}
	for _, kind := range []struct {
		name  string
		value time.Duration
	}{{"every", s.Every}, {"target_staleness", s.TargetStaleness}} {
		if kind.value < 0 {
			return fmt.Errorf("%s %s is not positive", kind.name, kind.value)
		}
		if kind.value > 0 {
			set = append(set, kind.name)
		}
	}
	switch len(set) {
	case 0:
		return errors.New("none of cron, every and target_staleness is set: set exactly one")
	case 1:
		return nil
	}
	return fmt.Errorf("%s are set: set exactly one of cron, every and target_staleness", strings.Join(set, " and "))
}

// ValidateCron checks a cron expression on its own.
func ValidateCron(expression string) error {
	_, err := parseCron(expression)
	return err
}

// ValidateTimeZone checks the name of a time zone on its own; "" is UTC.
func ValidateTimeZone(name string) error {
	_, err := loadZone(name)
	return err
}

// zones holds each *time.Location by its name: loading one reads a file, and
// thousands of schedules share a few.
var zones sync.Map

func loadZone(name string) (*time.Location, error) {
	known, _ := zones.Load(name)
	if zone, ok := known.(*time.Location); ok {
		return zone, nil
	}
	// What these mean depends on the machine: its own zone, or a second copy of
	// the database (with leap seconds, in right/) that the embedded one lacks.
	machine := name == "Local" || name == "localtime" || name == "posixrules" ||
		strings.HasPrefix(name, "posix/") || strings.HasPrefix(name, "right/")
	zone, err := time.LoadLocation(name)
	if err != nil || machine {
		return nil, fmt.Errorf("time zone %q: not a name of the IANA time zone database, such as \"America/New_York\" or \"UTC\"", name)
	}
	zones.Store(name, zone)
	return zone, nil
}

// Schedule is a compiled [Spec]. It is safe for concurrent use.
type Schedule struct {
	spec Spec
	cron *cronSchedule // nil for Every and TargetStaleness
}

// Next is the first run strictly after the given time, in UTC, without jitter;
// the zero time if there is none within a century. For Every and TargetStaleness
// it counts from the given time.
//
// At a change of the zone's offset by up to three hours cron runs as ISC cron
// does. An expression whose minute or hour starts with * follows the wall
// clock: it has no runs in a skipped hour, and those of a repeated hour twice.
// Any other has its runs of a skipped hour once, at the change, and
// those of a repeated hour once, the first time.
func (s *Schedule) Next(after time.Time) time.Time {
	if s.cron == nil {
		return after.UTC().Add(s.interval())
	}
	next, ok := s.cron.next(after.Unix())
	if !ok {
		return time.Time{}
	}
	return time.Unix(next, 0).UTC()
}

// NextRun is when the view is to be refreshed next, in UTC, strictly later
// than after; however many runs were missed before that, it is one. The zero
// time means never.
//
// Cron depends on after alone: each nominal run is late by the view's jitter,
// and passing the result as after yields the following run, none twice, none left out.
//
// Every counts from lastStart, or from after if lastStart is zero. Pass the time
// at which the last run was due: the result then stays in phase, however late
// that run really began. With jitter its runs are whole multiples of the interval
// since 1970 instead, each late by the view's jitter: views created at the same
// time would otherwise always run at the same time.
//
// TargetStaleness depends on the arguments of [Goal.NextStart]; here the result is
// the latest time that makes sense, for a view of which no more is known.
func (s *Schedule) NextRun(viewName string, after, lastStart time.Time) time.Time {
	offset := jitterOffset(viewName, s.spec.Jitter)
	switch {
	case s.spec.TargetStaleness > 0:
		return after.UTC().Add(s.spec.TargetStaleness)
	case s.cron == nil && s.spec.Jitter > 0:
		return nextEvery(s.spec.Every, after.UTC(), time.UnixMicro(0).UTC().Add(offset%s.spec.Every))
	case s.cron == nil:
		return nextEvery(s.spec.Every, after.UTC(), lastStart.UTC())
	}
	next := s.Next(after.Add(-offset))
	if next.IsZero() {
		return next
	}
	return next.Add(offset)
}

// interval is the one that is set, without cron.
func (s *Schedule) interval() time.Duration { return max(s.spec.Every, s.spec.TargetStaleness) }
