package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// EMF is the sink that writes Embedded Metric Format: one line for each view and
// minute, which CloudWatch Logs turns into metrics. It needs neither calls nor
// credentials.
type EMF struct {
	*CloudWatchMetrics
	Writer io.Writer
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

// Send implements [Sink]: it writes one line.
func (e *EMF) Send(_ context.Context, points []Point) (n int, err error) {
	first := points[0]
	directive := emfDirective{Namespace: e.namespace, Dimensions: [][]string{{}}}
	event := map[string]any{}
	dimensions := e.dimensionsOf(first)
	for _, d := range dimensions {
		event[*d.Name] = *d.Value
		directive.Dimensions[0] = append(directive.Dimensions[0], *d.Name)
	}
	for _, p := range points {
		_, twice := event[p.Metric]
		if twice || p.View != first.View || !p.At.Equal(first.At) || len(e.dimensionsOf(p)) != len(dimensions) {
			break
		}
		if event[p.Metric] = any(p.Values); len(p.Values) == 1 {
			event[p.Metric] = p.Values[0]
		}
		directive.Metrics = append(directive.Metrics, emfMetric{p.Metric, string(units[p.Metric])})
		n++
	}
	event["_aws"] = map[string]any{"Timestamp": first.At.UnixMilli(), "CloudWatchMetrics": []emfDirective{directive}}
	line, err := json.Marshal(event)
	if err == nil {
		_, err = e.Writer.Write(append(line, '\n'))
	}
	if err != nil {
		return 0, fmt.Errorf("write an embedded metric: %w", err)
	}
	return n, nil
}
