package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
	"github.com/prometheus/common/expfmt"
)

// Pushgateway is the sink that pushes to a Pushgateway when a run is over.
//
// Each view is a group of its own, {job, view}: a run about one view never touches
// another. The gateway exposes a group as it is until the next push, so only what
// stays true is pushed: timestamps, not ages. Prometheus knows the age from
// matview_data_as_of_timestamp_seconds.
type Pushgateway struct {
	url  string // without the credentials, which errors would show
	job  string
	user *url.Userinfo
}

// NewPushgateway checks the address, which may have a name and a password, as in
// https://user:password@host.
func NewPushgateway(address, job string) (*Pushgateway, error) {
	if job == "" {
		return nil, errors.New("--push.job must not be empty")
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	to, err := url.Parse(address)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, errors.New("--push.gateway-url is not the URL of a Pushgateway, such as http://localhost:9091 (in a password, percent-encode %, /, ?, # and @)")
	}
	p := &Pushgateway{job: job, user: to.User}
	to.User = nil
	p.url = to.String()
	return p, nil
}

// Destination implements [Sink].
func (p *Pushgateway) Destination() string { return "pushgateway " + p.url }

// Points implements [Sink]. Freshness has the last success also after a failure,
// so replacing a group erases none. Without a database no view is pushed.
func (p *Pushgateway) Points(u Update) []Point {
	if !u.Final {
		return nil
	}
	up := Point{Metric: upName, At: u.At, Values: []float64{number(!u.Away)}}
	if u.Away {
		return []Point{up}
	}
	var points []Point
	for _, v := range u.Views {
		for _, g := range gauges {
			if value := g.value(&v); value != nil && !g.momentary {
				points = append(points, Point{Metric: g.name, View: v.Name, At: u.At, Values: []float64{*value}})
			}
		}
	}
	return append(points, up)
}

// Send implements [Sink]: it makes one call for each view, of the newest update
// alone. A view that the gateway refuses does not keep the others back, but a
// gateway that does not answer is asked only once.
func (p *Pushgateway) Send(ctx context.Context, points []Point) (n int, err error) {
	newest := points[len(points)-1].At
	groups := map[string][]Point{}
	var views []string // in order, that of the whole run last
	for _, pt := range points {
		if !pt.At.Equal(newest) {
			continue
		}
		if groups[pt.View] == nil {
			views = append(views, pt.View)
		}
		groups[pt.View] = append(groups[pt.View], pt)
	}
	var failed []string
	for i, view := range views {
		pushErr := p.push(ctx, view, groups[view])
		if pushErr != nil {
			err = cmp.Or(err, pushErr)
			failed = append(failed, view)
		}
		if transport := (*url.Error)(nil); errors.As(pushErr, &transport) {
			failed = append(failed, views[i+1:]...)
			break
		}
	}
	if err != nil {
		failed = slices.DeleteFunc(failed, func(view string) bool { return view == "" })
		return 0, fmt.Errorf("push to the Pushgateway: %d of %d views are not pushed: %w", len(failed), len(views)-1, err)
	}
	return len(points), nil
}

// push replaces the group of a view. What is about the run as a whole is added to
// the group of the job, whose other metrics stay.
func (p *Pushgateway) push(ctx context.Context, view string, points []Point) error {
	to := push.New(p.url, p.job).Client(boundedClient{}).Format(expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, pt := range points {
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: pt.Metric, Help: help(pt.Metric)})
		gauge.Set(pt.Values[0])
		to.Collector(gauge)
	}
	if p.user != nil {
		password, _ := p.user.Password()
		to.BasicAuth(p.user.Username(), password)
	}
	if view != "" {
		return to.Grouping("view", labelValue(view)).PushContext(ctx)
	}
	return to.AddContext(ctx)
}

func help(metric string) string {
	for _, g := range gauges {
		if g.name == metric {
			return g.help
		}
	}
	return upHelp
}

// boundedClient reads no more than maxAnswer bytes of an answer: an error page may
// have any length and becomes part of our error message.
type boundedClient struct{}

const maxAnswer = 512

// Do implements [push.HTTPDoer].
func (boundedClient) Do(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	return resp, err //nolint:wrapcheck // push wraps it
}
