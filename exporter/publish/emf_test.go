package publish_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/publish"
)

// emfEvent is an event as the specification of the Embedded Metric Format defines it.
type emfEvent struct {
	AWS *struct {
		Timestamp         *int64
		CloudWatchMetrics []struct {
			Namespace  string
			Dimensions [][]string
			Metrics    []struct{ Name, Unit string }
		}
	} `json:"_aws"`
}

// validEMF checks one line against the specification and returns its members.
func validEMF(t *testing.T, line string) map[string]any {
	t.Helper()
	var event emfEvent
	var members map[string]any
	if err := json.Unmarshal([]byte(line), &event); err != nil || json.Unmarshal([]byte(line), &members) != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if event.AWS == nil || event.AWS.Timestamp == nil || len(event.AWS.CloudWatchMetrics) != 1 || len(line) > 1<<20 {
		t.Fatalf("no metadata: %s", line)
	}
	d := event.AWS.CloudWatchMetrics[0]
	if d.Namespace == "" || len(d.Dimensions) != 1 || len(d.Metrics) == 0 || len(d.Metrics) > 100 || len(d.Dimensions[0]) > 30 {
		t.Errorf("directive: %s", line)
	}
	for _, name := range d.Dimensions[0] {
		if value, ok := members[name].(string); !ok || value == "" || len(value) > 1024 {
			t.Errorf("dimension %s is no member: %s", name, line)
		}
	}
	for _, m := range d.Metrics {
		values, many := members[m.Name].([]any)
		if !many {
			values = []any{members[m.Name]}
		}
		if len(values) == 0 || len(values) > 100 {
			t.Errorf("%d values of %s", len(values), m.Name)
		}
		for _, v := range values {
			if _, ok := v.(float64); !ok {
				t.Errorf("%s is %v", m.Name, v)
			}
		}
	}
	return members
}

func TestEMF(t *testing.T) {
	var out bytes.Buffer
	p := newPublisher(t, options{
		dimensions: map[string]string{"Database": "app"}, optional: publish.OptionalCloudWatchMetrics, plainJobsFor: "v", emf: &out,
	})
	for range 250 {
		p.db.attempts = append(p.db.attempts, publish.Attempt{View: "v", Outcome: "succeeded", FinishedAt: p.clock.Now(), Duration: 920 * time.Millisecond})
	}
	p.minute(t)
	durations, plain, beats := 0, 0, 0
	for line := range strings.Lines(out.String()) {
		event := validEMF(t, line)
		switch d := event["MatViewRefreshDuration"].(type) {
		case []any:
			durations += len(d)
		case float64:
			durations++
		}
		if _, found := event["MatViewExporterHeartbeat"]; found {
			beats++
		}
		if _, found := event["MatViewJobCount"]; found && event["ViewName"] == nil && event["Database"] == nil {
			plain++
		}
	}
	if durations != 250 || plain != 1 || beats != 1 || len(p.service.Calls()) != 0 {
		t.Errorf("%d durations, %d plain, %d heartbeats, %d calls:\n%s", durations, plain, beats, len(p.service.Calls()), out.String())
	}
}
