package cloudwatch

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxEMFValues is how many values the format lets a metric have.
const maxEMFValues = 100

// EMF writes Embedded Metric Format: one line for each view and minute, which
// CloudWatch Logs turns into metrics. Neither calls nor credentials are needed.
type EMF struct {
	Writer     io.Writer
	Namespace  string
	Dimensions map[string]string

	mu sync.Mutex
}

type emfMetric struct {
	Name string `json:"Name"`
	Unit string `json:"Unit"`
}

type emfDirective struct {
	Namespace  string      `json:"Namespace"`
	Dimensions [][]string  `json:"Dimensions"`
	Metrics    []emfMetric `json:"Metrics"`
}

func (e *EMF) write(data []datum) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(data) > 0 {
		event, rest := e.event(data)
		line, err := json.Marshal(event)
		if err != nil {
			return fmt.Errorf("write an embedded metric: %w", err)
		}
		if _, err := e.Writer.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("write an embedded metric: %w", err)
		}
		data = rest
	}
	return nil
}

// event is one line: the data at the front that are of one view and minute.
func (e *EMF) event(data []datum) (event map[string]any, rest []datum) {
	first := data[0]
	directive := emfDirective{Namespace: e.Namespace, Dimensions: [][]string{{}}, Metrics: []emfMetric{}}
	event = map[string]any{}
	plain := first.view == "" && first.metric == JobCount
	if !plain {
		for _, name := range slices.Sorted(maps.Keys(e.Dimensions)) {
			event[name] = e.Dimensions[name]
			directive.Dimensions[0] = append(directive.Dimensions[0], name)
		}
	}
	if first.view != "" {
		event[viewDimension] = DimensionValue(first.view)
		directive.Dimensions[0] = append(directive.Dimensions[0], viewDimension)
	}
	for len(data) > 0 {
		d := data[0]
		_, twice := event[d.metric]
		if twice || d.view != first.view || !d.at.Equal(first.at) || (d.view == "" && d.metric == JobCount) != plain {
			break
		}
		n := min(len(d.values), maxEMFValues)
		if event[d.metric] = any(d.values[:n]); n == 1 {
			event[d.metric] = d.values[0]
		}
		directive.Metrics = append(directive.Metrics, emfMetric{d.metric, string(units[d.metric])})
		if data = data[1:]; n < len(d.values) {
			d.values = d.values[n:]
			data = append([]datum{d}, data...)
			break
		}
	}
	event["_aws"] = map[string]any{"Timestamp": first.at.UnixNano() / int64(time.Millisecond), "CloudWatchMetrics": []emfDirective{directive}}
	return event, data
}
