package publish_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/cloudwatchtest"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/store"
)

func of(data []cloudwatchtest.Datum, metric, view string) []cloudwatchtest.Datum {
	return slices.DeleteFunc(slices.Clone(data), func(d cloudwatchtest.Datum) bool { return d.Metric != metric || d.Dimensions["ViewName"] != view })
}

func TestDefaultMetrics(t *testing.T) {
	p := newPublisher(t, options{dimensions: map[string]string{"Database": "app"}})
	p.db.Exec(t, "UPDATE materialized_view_refresh_log SET last_refreshed_at = now()") // the database is a copy of an older one
	before := 75.0
	p.db.attempts = []publish.Attempt{
		{View: "v", Outcome: "succeeded", FinishedAt: p.clock.Now(), Duration: 920 * time.Millisecond, StalenessBefore: &before},
		{View: "v", Outcome: "failed", FinishedAt: p.clock.Now()},
		{View: "never", Outcome: "abandoned", FinishedAt: p.clock.Now()},
		{View: "v", Outcome: "skipped", FinishedAt: p.clock.Now()},
	}
	p.minute(t)
	var got []string
	for _, d := range p.service.Taken() {
		if d.Namespace != "S3Scanner" || d.Dimensions["Database"] != "app" {
			t.Errorf("%v", d)
		}
		if d.Metric == publish.Staleness { // before the refresh, and now
			if len(d.Values) != 2 || d.Values[0] < 1 || d.Values[0] > 70 || d.Values[1] != 75 {
				t.Errorf("%v", d)
			}
			d.Values = nil
		}
		got = append(got, short(d))
	}
	want := []string{
		"12:00 MatViewRefreshDuration{v}=[920] Milliseconds", "12:00 MatViewStaleness{v}=[] Seconds",
		"12:00 MatViewRefreshFailure{v}=[0 1] Count", "12:00 MatViewRefreshFailure{never}=[0 1] Count",
		"12:00 MatViewExporterHeartbeat{}=[1] Count",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	if calls := p.service.Calls(); len(calls) != 1 || calls[0].Refused != "" {
		t.Errorf("%+v", calls)
	}
}

// TestFailingView: a 0 between two failed attempts would mean that all is well.
func TestFailingView(t *testing.T) {
	p := newPublisher(t, options{})
	p.db.Exec(t, `INSERT INTO materialized_view_refresh_state (view_name, consecutive_failures) VALUES ('v', 3)
ON CONFLICT (view_name) DO UPDATE SET consecutive_failures = 3`)
	p.minute(t)
	taken := p.service.Taken()
	if failing, fine := of(taken, publish.RefreshFailure, "v"), of(taken, publish.RefreshFailure, "never"); len(failing) != 0 || len(fine) != 1 {
		t.Errorf("while it fails: %v; of another: %v", failing, fine)
	}
	p.db.Exec(t, `UPDATE materialized_view_refresh_state SET consecutive_failures = 0`)
	p.minute(t)
	if mended := of(p.service.Taken(), publish.RefreshFailure, "v"); len(mended) != 1 || mended[0].Values[0] != 0 {
		t.Errorf("after a success: %v", mended)
	}
}

func TestOptionalMetrics(t *testing.T) {
	p := newPublisher(t, options{optional: publish.OptionalCloudWatchMetrics, plainJobsFor: "v"})
	p.db.attempts = []publish.Attempt{{View: "v", Outcome: "succeeded", FinishedAt: p.clock.Now(), Duration: time.Second}}
	p.minute(t)
	taken := p.service.Taken()
	for name, value := range map[string]float64{"MatViewJobCount/v": 150, "MatViewObjectCount/v": 1250000, "MatViewRefreshSuccess/v": 1, "MatViewJobCount/": 150} {
		metric, view, _ := strings.Cut(name, "/")
		found := of(taken, metric, view)
		if len(found) == 0 || slices.Max(found[0].Values) != value {
			t.Errorf("%s: %v", name, found)
		}
	}
	for _, d := range of(taken, "MatViewJobCount", "") {
		if len(d.Dimensions) != 0 {
			t.Errorf("the document's count has no dimension, this has %v", d.Dimensions)
		}
	}
}

// TestTwelveHoursWithoutCloudWatch: when the outage is over all of its data arrive
// once, in order and with their own times.
func TestTwelveHoursWithoutCloudWatch(t *testing.T) {
	for name, mood := range map[string]cloudwatchtest.Mood{"throttles": cloudwatchtest.Throttling, "fails": cloudwatchtest.Failing} {
		t.Run(name, func(t *testing.T) {
			outage(t, mood)
		})
	}
}

func outage(t *testing.T, mood cloudwatchtest.Mood) {
	t.Helper()
	p := quick(t)
	start := p.clock.Now().Truncate(time.Minute)
	p.minute(t)
	p.service.Set(mood)
	for range 12 * 60 {
		p.minute(t)
	}
	if got := p.counter(t, "publish_failures_total"); got != 12*60 {
		t.Errorf("%v failures", got)
	}
	p.service.Set(cloudwatchtest.Taking)
	p.minute(t)
	beats := of(p.service.Taken(), publish.Heartbeat, "")
	ages := of(p.service.Taken(), publish.Staleness, "v")
	if len(beats) != 12*60+2 || len(ages) != len(beats) {
		t.Fatalf("%d heartbeats, %d ages", len(beats), len(ages))
	}
	for i := range beats {
		if want := start.Add(time.Duration(i) * time.Minute); !beats[i].At.Equal(want) || !ages[i].At.Equal(want) {
			t.Fatalf("datum %d is of %s and %s, want %s", i, beats[i].At, ages[i].At, want)
		}
	}
	if p.counter(t, "backlog_datums") != 0 || p.counter(t, "dropped_datums_total") != 0 {
		t.Error("something is left or lost")
	}
}

// quick is a publisher whose SDK does not retry.
func quick(t *testing.T) *published {
	t.Helper()
	return newPublisher(t, options{withoutRetries: true})
}

// TestTwelveHoursWithoutDatabase: the age of what was known keeps growing, and nothing
// else is published of any view.
func TestTwelveHoursWithoutDatabase(t *testing.T) {
	p := newPublisher(t, options{})
	p.minute(t)
	known := of(p.service.Taken(), publish.Staleness, "v")[0]
	p.service.Reset()
	p.db.away = true
	for range 12 * 60 {
		p.minute(t)
	}
	taken := p.service.Taken()
	ages := of(taken, publish.Staleness, "v")
	if len(ages) != 12*60 || len(taken) != 2*len(ages) {
		t.Fatalf("%d ages among %d data", len(ages), len(taken))
	}
	for i, d := range ages {
		passed := d.At.Sub(known.At).Seconds()
		if grown := d.Values[0] - known.Values[0]; math.Abs(grown-passed) > 1 || d.At.Sub(known.At) != time.Duration(i+1)*time.Minute {
			t.Fatalf("after %vs the data is %vs older", passed, grown)
		}
	}
	for _, d := range of(taken, publish.Heartbeat, "") {
		if d.Values[0] != 0 {
			t.Fatal("a heartbeat of 1 without a database")
		}
	}
	p.db.away = false
	p.service.Reset()
	p.minute(t)
	if beat := of(p.service.Taken(), publish.Heartbeat, ""); len(beat) != 1 || beat[0].Values[0] != 1 {
		t.Errorf("%v", beat)
	}
}

func TestNothingOlderThanAllowed(t *testing.T) {
	p := quick(t)
	p.service.Set(cloudwatchtest.Failing)
	p.minute(t)
	p.clock.pass(15 * 24 * time.Hour)
	p.service.Set(cloudwatchtest.Taking)
	p.minute(t)
	for _, d := range p.service.Taken() {
		if p.clock.Now().Sub(d.At) > time.Hour {
			t.Errorf("%s", short(d))
		}
	}
	if p.counter(t, "dropped_datums_total") == 0 || p.counter(t, "backlog_datums") != 0 {
		t.Error("the old data are not given up")
	}
}

func TestBacklogIsBounded(t *testing.T) {
	const most = 5000
	p := newPublisher(t, options{maxWaiting: most})
	views := make([]freshness.View, 1000)
	for i := range views {
		age := float64(i)
		views[i] = freshness.View{Name: fmt.Sprintf("v%d", i), StalenessSeconds: &age}
	}
	for range 10 {
		p.add(views)
		p.clock.pass(time.Minute)
	}
	if got := p.counter(t, "backlog_datums"); got != most {
		t.Errorf("%v data are kept", got)
	}
	p.Flush(t.Context())
	taken := p.service.Taken()
	if len(taken) != most || p.clock.Now().Sub(taken[len(taken)-1].At) > 2*time.Minute {
		t.Errorf("the newest must stay: %d", len(taken))
	}
}

// TestHangingService: the minute of a call that is abandoned is not lost.
func TestHangingService(t *testing.T) {
	p := newPublisher(t, options{})
	p.service.Set(cloudwatchtest.Hanging)
	p.Collect(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	p.Flush(ctx)
	if ctx.Err() == nil {
		t.Fatal("the service does not hang")
	}
	p.clock.pass(time.Minute)
	p.Collect(t.Context())
	p.service.Set(cloudwatchtest.Taking)
	p.Flush(t.Context())
	if beats := of(p.service.Taken(), publish.Heartbeat, ""); len(beats) != 2 || !beats[0].At.Before(beats[1].At) {
		t.Errorf("%v", beats)
	}
}

func TestOneReplicaPublishes(t *testing.T) {
	p := newPublisher(t, options{})
	p.db.taken = true
	p.minute(t)
	if taken := p.service.Taken(); len(taken) != 0 {
		t.Errorf("%v", taken)
	}
	p.db.away = true // it has read all the same
	p.minute(t)
	if ages := of(p.service.Taken(), publish.Staleness, "v"); len(ages) != 1 {
		t.Errorf("%v", ages)
	}
}

// TestReadOnly: an exporter that can read but not write publishes what it reads.
func TestReadOnly(t *testing.T) {
	p := newPublisher(t, options{claims: claimFunc(func() (*store.PublicationClaim, time.Duration, error) { return nil, 0, errAway })})
	p.minute(t)
	beats := of(p.service.Taken(), publish.Heartbeat, "")
	if ages := of(p.service.Taken(), publish.Staleness, "v"); len(ages) != 1 || len(beats) != 1 || beats[0].Values[0] != 1 {
		t.Errorf("%v %v", ages, beats)
	}
}

func TestLimits(t *testing.T) {
	dimensions := map[string]string{}
	for i := range 29 {
		dimensions[fmt.Sprintf("%0255d", i)] = strings.Repeat("x", 1024)
	}
	p := newPublisher(t, options{dimensions: dimensions})
	var attempts []publish.Attempt
	for i := range 1234 {
		attempts = append(attempts, publish.Attempt{View: "v", Outcome: "succeeded", FinishedAt: p.clock.Now(), Duration: time.Duration(i%500) * time.Millisecond})
	}
	views := []freshness.View{}
	for i, age := range []float64{1, math.NaN(), math.Inf(1), math.Inf(-1), 1e300} {
		views = append(views, freshness.View{Name: fmt.Sprintf("\"ä%d%%\x01\"", i), StalenessSeconds: &age})
	}
	for range 20 {
		p.add(views)
		p.addAttempts(attempts)
	}
	p.Flush(t.Context())
	total := 0.0
	for _, d := range of(p.service.Taken(), publish.RefreshDuration, "v") {
		for _, c := range d.Counts {
			total += c
		}
	}
	if total != 20*1234 {
		t.Errorf("%v refreshes", total)
	}
	for _, c := range p.service.Calls() {
		if c.Refused != "" || c.Bytes > 10240 && !c.Compressed {
			t.Errorf("%+v", c)
		}
	}
	if ages := of(p.service.Taken(), publish.Staleness, `"%C3%A40%25%01"`); len(ages) != 20 {
		t.Errorf("%d ages", len(ages))
	}
}

// TestRefusedDatum: a datum that CloudWatch refuses does not keep back any other.
func TestRefusedDatum(t *testing.T) {
	p := newPublisher(t, options{})
	future := p.clock.Now().Add(3 * time.Hour)
	p.add(nil)
	p.addAttempts([]publish.Attempt{{View: "v", Outcome: "failed", FinishedAt: future}})
	p.Flush(t.Context())
	if taken := p.service.Taken(); len(taken) != 1 || taken[0].Metric != publish.Heartbeat || p.counter(t, "dropped_datums_total") != 1 {
		t.Errorf("%v", taken)
	}
}

func TestInvalidCloudWatchMetrics(t *testing.T) {
	for message, o := range map[string]struct {
		namespace  string
		optional   []string
		dimensions map[string]string
	}{
		`"" is not a namespace`:                     {},
		`belong to AWS`:                             {namespace: "AWS/RDS"},
		`"a*b" is not a namespace`:                  {namespace: "a*b"},
		`there is no optional metric "MatViewJobs"`: {namespace: "n", optional: []string{"MatViewJobs"}},
		`a dimension cannot be called "ViewName"`:   {namespace: "n", dimensions: map[string]string{"ViewName": "x"}},
		`"" cannot be the value of Database`:        {namespace: "n", dimensions: map[string]string{"Database": ""}},
		`a dimension cannot be called ":a"`:         {namespace: "n", dimensions: map[string]string{":a": "x"}},
	} {
		if _, err := publish.NewCloudWatchMetrics(o.namespace, o.dimensions, o.optional, ""); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%v, want %s", err, message)
		}
	}
}

// TestAttemptsThroughOutage: the attempts of an outage are published once when it is
// over, with the times at which they ended.
func TestAttemptsThroughOutage(t *testing.T) {
	p := quick(t)
	var want []time.Time
	for i := range 30 {
		if i == 5 {
			p.service.Set(cloudwatchtest.Failing)
		}
		if i == 25 {
			p.service.Set(cloudwatchtest.Taking)
		}
		p.db.attempts = append(p.db.attempts, publish.Attempt{View: "v", Outcome: "failed", FinishedAt: p.clock.Now()})
		want = append(want, p.clock.Now().Truncate(time.Minute))
		p.minute(t)
	}
	var got []time.Time
	for _, d := range of(p.service.Taken(), publish.RefreshFailure, "v") {
		for i, v := range d.Values {
			for range int(v * d.Counts[i]) {
				got = append(got, d.At)
			}
		}
	}
	slices.SortFunc(got, time.Time.Compare)
	if !slices.EqualFunc(got, want, time.Time.Equal) {
		t.Errorf("failures of %v, want %v", got, want)
	}
}

// TestLateClaim: once a claim has expired its attempts are not sent, since another
// exporter may have claimed them; the gauges are.
func TestLateClaim(t *testing.T) {
	p := newPublisher(t, options{claims: claimFunc(func() (*store.PublicationClaim, time.Duration, error) {
		return &store.PublicationClaim{
			Attempts: []publish.Attempt{{View: "v", Outcome: "succeeded", FinishedAt: time.Now(), Duration: time.Second}}, Until: time.Now().Add(-time.Second),
		}, 0, nil
	})})
	p.minute(t)
	p.minute(t)
	taken := p.service.Taken()
	if len(of(taken, publish.RefreshDuration, "v")) != 0 || len(of(taken, publish.Heartbeat, "")) == 0 {
		t.Errorf("%v", taken)
	}
}

func TestSetDimensions(t *testing.T) {
	p := newPublisher(t, options{dimensions: map[string]string{"Database": "app"}})
	if got := p.metrics.Destination(); got != "cloudwatch S3Scanner Database=app" {
		t.Error(got)
	}
	p.minute(t)
	if err := p.metrics.SetDimensions(map[string]string{"Database": "other", "Stage": "test"}); err != nil {
		t.Fatal(err)
	}
	if err := p.metrics.SetDimensions(map[string]string{"ViewName": "x"}); err == nil {
		t.Error("ViewName is taken")
	}
	p.minute(t)
	var got []string
	for _, d := range p.service.Taken() {
		if d.Metric == publish.Heartbeat {
			got = append(got, d.Dimensions["Database"]+d.Dimensions["Stage"])
		}
	}
	if !slices.Equal(got, []string{"app", "othertest"}) {
		t.Errorf("%v", got)
	}
}
