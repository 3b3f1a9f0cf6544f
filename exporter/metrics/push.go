package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

// Pusher pushes what a run that is over leaves behind to a Pushgateway.
//
// Each view is a group of its own, {job, view}: a run about one never touches
// another. What the gateway shows stays as it is until the next push, so only
// what stays true is pushed: timestamps and not ages. Prometheus knows the age
// from matview_data_as_of_timestamp_seconds.
type Pusher struct {
	URL string
	Job string
	// Client is nil for http.DefaultClient.
	Client *http.Client
}

// frozen are the gauges that would be wrong a moment after they were pushed.
var frozen = map[string]bool{"matview_staleness_seconds": true, "matview_stale": true, "matview_refresh_in_progress": true}

// Push replaces the groups of the views by what freshness says of them, which
// has the last success also after a failure.
func (p *Pusher) Push(ctx context.Context, views []freshness.View) error {
	var problems []error
	for _, v := range views {
		if ctx.Err() != nil {
			return errors.Join(append(problems, fmt.Errorf("push to the Pushgateway: %w", context.Cause(ctx)))...)
		}
		view := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return pushed(v), nil })
		name := strings.ToValidUTF8(v.Name, "\uFFFD")
		if err := p.pusher(view).Grouping("view", name).PushContext(ctx); err != nil {
			problems = append(problems, pushError(err))
		}
	}
	return errors.Join(append(problems, p.run(ctx, true))...)
}

// Away tells that the run could not read the database. It adds to what was
// pushed before and replaces none of it.
func (p *Pusher) Away(ctx context.Context) error { return p.run(ctx, false) }

// run is about the run as a whole, in the group {job}.
func (p *Pusher) run(ctx context.Context, up bool) error {
	reg := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "matview_up", Help: upHelp})
	gauge.Set(*flag(up))
	reg.MustRegister(gauge)
	return pushError(p.pusher(reg).AddContext(ctx)) // POST: other families of the group stay
}

func (p *Pusher) pusher(g prometheus.Gatherer) *push.Pusher {
	client := p.Client
	if client == nil {
		client = http.DefaultClient
	}
	return push.New(p.URL, p.Job).Gatherer(g).Client(bounded{client}).Format(expfmt.NewFormat(expfmt.TypeTextPlain))
}

// pushed are the gauges of one view, without the label that its group has.
func pushed(v freshness.View) []*dto.MetricFamily {
	var families []*dto.MetricFamily
	for _, g := range gauges {
		if family := g.family([]freshness.View{v}, [][]*dto.LabelPair{nil}); !frozen[g.name] && len(family.Metric) > 0 {
			families = append(families, family)
		}
	}
	return families
}

func pushError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("push to the Pushgateway: %w", err)
}

// bounded is a client whose answers end: an error page may be of any length and
// goes into our error message.
type bounded struct{ *http.Client }

const longestAnswer = 512

func (b bounded) Do(req *http.Request) (*http.Response, error) {
	resp, err := b.Client.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, longestAnswer), resp.Body}
	return resp, nil
}

// PushTimeout bounds the pushing of a whole run.
const PushTimeout = 10 * time.Second
