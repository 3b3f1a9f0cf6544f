package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// shownView is a view as the page words it. It decides nothing: that is done by
// the read model.
type shownView struct {
	Name, Path         string
	State, Class, Why  string
	Age, Limit         string
	Share              int // of the limit, in percent
	Refreshed          shownTime
	Took, Next, Failed string
	LastError          string
	Plot               plot
	Facts              []fact
	Attempts           []shownAttempt
}

type shownTime struct {
	At, Text string // for machines and for people
	Ago      string
	Full     bool // show both
}

type fact struct {
	Name, Text string
	Time       shownTime
}

type shownAttempt struct {
	Started        shownTime
	Outcome, Class string
	Took, How      string
	Error, Remark  string
}

// rank puts first what wants looking at.
func (v shownView) rank() int {
	switch {
	case v.Class == "stale":
		return 0
	case v.Failed != "":
		return 1
	case v.Class == "fresh":
		return 2
	}
	return 3
}

var reasons = map[string]string{
	"never_refreshed":          "never refreshed on record",
	"not_populated":            "holds no data yet",
	"older_than_max_staleness": "older than its limit",
	"recreated":                "recreated since its last refresh on record",
	"changed_outside":          "refreshed or changed by somebody unrecorded",
	"unverified":               "its log row cannot be believed",
	"missing":                  "there is no such view",
}

func show(v View, now time.Time) shownView {
	s := shownView{Name: v.Name, Path: pathOf(v.Name), Age: "unknown", Next: "not scheduled", Plot: newPlot(firstOf(v.History, plottedOfEach), plotWidth)}
	switch {
	case v.IsStale == nil:
		s.State, s.Class, s.Why = "not watched", "other", "no schedule and no log row"
		if v.IsPopulated != nil && !*v.IsPopulated {
			s.Why += "; it holds no data"
		}
	case *v.IsStale:
		s.State, s.Class, s.Why = "stale", "stale", "for an unknown reason"
		if v.StaleReason != nil {
			if s.Why = reasons[*v.StaleReason]; s.Why == "" {
				s.Why = *v.StaleReason
			}
		}
	default:
		s.State, s.Class = "fresh", "fresh"
	}
	if v.RefreshInProgress {
		s.Why = strings.TrimPrefix(s.Why+"; being refreshed now", "; ")
	}
	if v.StalenessSeconds != nil {
		s.Age = inWords(duration(*v.StalenessSeconds))
	}
	if v.MaxStalenessSeconds != nil {
		limit := duration(*v.MaxStalenessSeconds)
		if limit > 10*time.Second {
			limit = limit.Truncate(time.Second) // inWords rounds up
		}
		if limit > time.Hour {
			limit = limit.Truncate(time.Minute)
		}
		s.Limit = inWords(limit)
		s.Share = 100
		if v.StalenessSeconds != nil && *v.MaxStalenessSeconds > 0 {
			s.Share = int(math.Min(*v.StalenessSeconds / *v.MaxStalenessSeconds * 100, 100))
		}
	}
	s.Refreshed = shownTime{Ago: "never"}
	if v.LastRefreshedAt != nil {
		s.Refreshed = ago(v.LastRefreshedAt, now)
	}
	if v.RefreshDurationMS != nil {
		s.Took = "in " + took(v.RefreshDurationMS)
		if v.PerformanceRating != nil {
			s.Took += " (" + *v.PerformanceRating + ")"
		}
	}
	switch {
	case v.IsScheduled && v.Enabled != nil && !*v.Enabled:
		s.Next = "schedule disabled"
	case v.NextRunAt != nil && time.Time(*v.NextRunAt).After(now):
		s.Next = "in " + inWords(time.Time(*v.NextRunAt).Sub(now))
	case v.IsScheduled:
		s.Next = "due"
	}
	if v.LastError != nil {
		s.LastError = *v.LastError
	}
	if n := v.ConsecutiveFailures; n > 0 {
		s.Failed = "failed once"
		if n > 1 {
			s.Failed = fmt.Sprintf("failed %d times in a row", n)
		}
		if s.LastError != "" {
			s.Failed += ": " + s.LastError
		}
	}
	return s
}

func firstOf(attempts []Attempt, n int) []Attempt { return attempts[:min(n, len(attempts))] }

// duration is seconds as the read model has them, within what a duration holds.
func duration(seconds float64) time.Duration {
	return time.Duration(math.Max(math.Min(seconds*1e9, math.MaxInt64/2), math.MinInt64/2))
}

func ago(t *Timestamp, now time.Time) shownTime {
	s := shownTime{At: t.String(), Text: time.Time(*t).UTC().Format("2006-01-02 15:04:05") + " UTC"}
	if since := now.Sub(time.Time(*t)); since < 0 {
		s.Ago = "in " + inWords(-since)
	} else {
		s.Ago = inWords(since) + " ago"
	}
	return s
}

func showDetail(v View, now time.Time) shownView {
	s := show(v, now)
	s.Plot = newPlot(v.History, 600)
	text := func(name, value string) {
		if value != "" {
			s.Facts = append(s.Facts, fact{Name: name, Text: value})
		}
	}
	at := func(name string, t *Timestamp, otherwise string) {
		f := fact{Name: name, Text: otherwise}
		if t != nil {
			f.Time = ago(t, now)
			f.Time.Full = true
		}
		s.Facts = append(s.Facts, f)
	}
	age := s.Age
	if s.Limit != "" {
		age += ", of " + s.Limit + " allowed"
	}
	text("Age of the data", age)
	at("Data as of", v.DataAsOf, "unknown")
	at("Last refresh", v.LastRefreshedAt, "never")
	text("It took", strings.TrimPrefix(s.Took, "in "))
	switch {
	case v.NextRunAt != nil && s.Next == "due":
		at("Due since", v.NextRunAt, "")
	case v.NextRunAt != nil:
		at("Next run", v.NextRunAt, "")
	default:
		text("Next run", s.Next)
	}
	text("Failures in a row", strconv.FormatInt(v.ConsecutiveFailures, 10))
	at("Last attempt", v.LastAttemptAt, "none on record")
	if v.TotalJobs != nil {
		text("Jobs", strconv.FormatInt(*v.TotalJobs, 10))
	}
	if v.TotalObjects != nil {
		text("Objects", strconv.FormatInt(*v.TotalObjects, 10))
	}
	if v.SizeBytes != nil {
		text("Size with indexes", bytesInWords(*v.SizeBytes))
	}
	for _, a := range firstOf(v.History, tabledAttempts) {
		s.Attempts = append(s.Attempts, showAttempt(a, now))
	}
	return s
}

func showAttempt(a Attempt, now time.Time) shownAttempt {
	s := shownAttempt{Started: ago(a.StartedAt, now), Outcome: a.Outcome, Took: "–", How: a.Trigger}
	s.Started.Full = true
	switch a.Outcome {
	case "succeeded":
		s.Class = "fresh"
	case "failed", "abandoned":
		s.Class = "stale"
	}
	if a.DurationMS != nil {
		s.Took = took(a.DurationMS)
	}
	if a.LockWaitMS != nil && *a.LockWaitMS > 0 {
		s.Took += ", waited " + took(a.LockWaitMS)
	}
	if a.Method != nil {
		s.How = *a.Method + ", " + s.How
	}
	if a.Error != nil {
		s.Error = *a.Error
	}
	var remarks []string
	for _, remark := range []*string{a.Reason, a.Warning} {
		if remark != nil {
			remarks = append(remarks, *remark)
		}
	}
	s.Remark = strings.Join(remarks, "; ")
	return s
}

func bytesInWords(n int64) string {
	value, unit := float64(n), "B"
	for _, larger := range []string{"kB", "MB", "GB", "TB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, larger
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + " " + unit
}
