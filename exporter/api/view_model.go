package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// viewModel is a view in the words of the page. The read model decides; this does not.
type viewModel struct {
	Name, Path         string
	State, Class, Why  string
	Age, Limit         string
	Share              int // of the limit, in percent
	Refreshed          timeModel
	Took, Next, Failed string
	LastError          string
	Plot               plot
	Facts              []fact
	Attempts           []attemptModel
}

type timeModel struct {
	At, Text string // for machines and for people
	Ago      string
	Full     bool // show both
}

type fact struct {
	Name, Text string
	Time       timeModel
}

type attemptModel struct {
	Started        timeModel
	Outcome, Class string
	Took, How      string
	Error, Remark  string
}

// rank sorts views that need attention first.
func (m viewModel) rank() int {
	switch {
	case m.Class == "stale":
		return 0
	case m.Failed != "":
		return 1
	case m.Class == "fresh":
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
	"unverified":               "its record cannot be verified",
	"missing":                  "there is no such view",
}

func newViewModel(v View, now time.Time) viewModel {
	m := viewModel{Name: v.Name, Path: pathOf(v.Name), Age: "unknown", Refreshed: timeModel{Ago: "never"}, Plot: newPlot(firstOf(v.History, plottedOfEach), plotWidth)}
	m.setState(v)
	m.setAge(v)
	m.setSchedule(v, now)
	if v.LastRefreshedAt != nil {
		m.Refreshed = ago(v.LastRefreshedAt, now)
	}
	if v.RefreshDurationMS != nil {
		m.Took = "in " + took(v.RefreshDurationMS)
		if v.PerformanceRating != nil {
			m.Took += " (" + *v.PerformanceRating + ")"
		}
	}
	if v.LastError != nil {
		m.LastError = *v.LastError
	}
	if n := v.ConsecutiveFailures; n > 0 {
		m.Failed = "failed once"
		if n > 1 {
			m.Failed = fmt.Sprintf("failed %d times in a row", n)
		}
		if m.LastError != "" {
			m.Failed += ": " + m.LastError
		}
	}
	return m
}

func (m *viewModel) setState(v View) {
	switch {
	case v.IsStale == nil:
		m.State, m.Class, m.Why = "not watched", "other", "no schedule and no log row"
		if v.IsPopulated != nil && !*v.IsPopulated {
			m.Why += "; it holds no data"
		}
	case *v.IsStale:
		m.State, m.Class, m.Why = "stale", "stale", "for an unknown reason"
		if v.StaleReason != nil {
			if m.Why = reasons[*v.StaleReason]; m.Why == "" {
				m.Why = *v.StaleReason
			}
		}
	default:
		m.State, m.Class = "fresh", "fresh"
	}
	if v.RefreshInProgress {
		m.Why = strings.TrimPrefix(m.Why+"; being refreshed now", "; ")
	}
}

// setAge sets the age of the data and its limit.
func (m *viewModel) setAge(v View) {
	if v.StalenessSeconds != nil {
		m.Age = inWords(duration(*v.StalenessSeconds))
	}
	if v.MaxStalenessSeconds == nil {
		return
	}
	limit := duration(*v.MaxStalenessSeconds)
	if limit > 10*time.Second {
		limit = limit.Truncate(time.Second) // inWords rounds up
	}
	if limit > time.Hour {
		limit = limit.Truncate(time.Minute)
	}
	m.Limit = inWords(limit)
	m.Share = 100
	if v.StalenessSeconds != nil && *v.MaxStalenessSeconds > 0 {
		m.Share = int(math.Min(*v.StalenessSeconds / *v.MaxStalenessSeconds * 100, 100))
	}
}

func (m *viewModel) setSchedule(v View, now time.Time) {
	switch {
	case v.IsScheduled && v.Enabled != nil && !*v.Enabled:
		m.Next = "schedule disabled"
	case v.NextRunAt != nil && time.Time(*v.NextRunAt).After(now):
		m.Next = "in " + inWords(time.Time(*v.NextRunAt).Sub(now))
	case v.IsScheduled:
		m.Next = "due"
	default:
		m.Next = "not scheduled"
	}
}

func firstOf(attempts []Attempt, n int) []Attempt { return attempts[:min(n, len(attempts))] }

// duration is seconds as the read model has them, within what a duration holds.
func duration(seconds float64) time.Duration {
	return time.Duration(math.Max(math.Min(seconds*1e9, math.MaxInt64/2), math.MinInt64/2))
}

func ago(t *Timestamp, now time.Time) timeModel {
	s := timeModel{At: t.String(), Text: time.Time(*t).UTC().Format("2006-01-02 15:04:05") + " UTC"}
	if since := now.Sub(time.Time(*t)); since < 0 {
		s.Ago = "in " + inWords(-since)
	} else {
		s.Ago = inWords(since) + " ago"
	}
	return s
}

func newViewDetail(v View, now time.Time) viewModel {
	s := newViewModel(v, now)
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
		s.Attempts = append(s.Attempts, newAttemptModel(a, now))
	}
	return s
}

func newAttemptModel(a Attempt, now time.Time) attemptModel {
	s := attemptModel{Started: ago(a.StartedAt, now), Outcome: a.Outcome, Took: "–", How: a.Trigger}
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
