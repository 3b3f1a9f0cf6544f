package cloudwatch

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// maxEMFValues is how many values the format lets a metric have.
const maxEMFValues = 100

// EMF writes Embedded Metric Format: one line for each view and minute, which
// CloudWatch Logs turns into metrics. Neither calls nor credentials are needed.
type EMF struct {
	Writer io.Writer

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

func (e *EMF) write(to *destination, data []datum) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(data) > 0 {
		event, rest := to.event(data)
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
func (d *destination) event(data []datum) (event map[string]any, rest []datum) {
	first := data[0]
	directive := emfDirective{Namespace: d.namespace, Dimensions: [][]string{{}}, Metrics: []emfMetric{}}
	event = map[string]any{}
	plain := first.view == "" && first.metric == JobCount
	if !plain {
		for _, dim := range d.dimensions {
			event[*dim.Name] = *dim.Value
			directive.Dimensions[0] = append(directive.Dimensions[0], *dim.Name)
		}
	}
	if first.view != "" {
		event[viewDimension] = DimensionValue(first.view)
		directive.Dimensions[0] = append(directive.Dimensions[0], viewDimension)
	}
	for len(data) > 0 {
		of := data[0]
		_, twice := event[of.metric]
		if twice || of.view != first.view || !of.at.Equal(first.at) || (of.view == "" && of.metric == JobCount) != plain {
			break
		}
		n := min(len(of.values), maxEMFValues)
		if event[of.metric] = any(of.values[:n]); n == 1 {
			event[of.metric] = of.values[0]
		}
		directive.Metrics = append(directive.Metrics, emfMetric{of.metric, string(units[of.metric])})
		if data = data[1:]; n < len(of.values) {
			of.values = of.values[n:]
			data = append([]datum{of}, data...)
			break
		}
	}
	event["_aws"] = map[string]any{"Timestamp": first.at.UnixNano() / int64(time.Millisecond), "CloudWatchMetrics": []emfDirective{directive}}
	return event, data
}
