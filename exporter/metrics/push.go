package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
	url  string // without the credentials, which errors would show
	job  string
	user *url.Userinfo
}

// NewPusher checks where to push to: an address may have a name and a password,
// as in https://user:password@host.
func NewPusher(address, job string) (*Pusher, error) {
	if job == "" {
		return nil, errors.New("--push.job must not be empty")
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	to, err := url.Parse(address)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, errors.New("--push.gateway-url is no URL of a Pushgateway, such as http://localhost:9091 (what a password has of %, /, ?, # or @ must be percent-encoded)")
	}
	p := &Pusher{job: job, user: to.User}
	to.User = nil
	p.url = to.String()
	return p, nil
}

// frozen are the gauges that would be wrong a moment after they were pushed.
var frozen = map[string]bool{"matview_staleness_seconds": true, "matview_stale": true, "matview_refresh_in_progress": true}

// Push replaces the groups of the views by what freshness says of them, which
// has the last success also after a failure. A view that the gateway refuses does
// not keep the others back; a gateway that does not answer is asked only once.
func (p *Pusher) Push(ctx context.Context, views []freshness.View) error {
	var first error
	refused := 0
	for i, v := range views {
		view := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return pushed(v), nil })
		err := p.pusher(view).Grouping("view", label(v.Name)).PushContext(ctx)
		if transport := (*url.Error)(nil); errors.As(err, &transport) {
			return fmt.Errorf("push to the Pushgateway: %d of %d views are not pushed: %w", len(views)-i+refused, len(views), err)
		}
		if err != nil {
			refused++
			first = cmp.Or(first, err)
		}
	}
	if first != nil {
		first = fmt.Errorf("push to the Pushgateway: %d of %d views are not pushed: %w", refused, len(views), first)
	}
	return errors.Join(first, p.run(ctx, true))
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
	if err := p.pusher(reg).AddContext(ctx); err != nil { // POST: other families of the group stay
		return fmt.Errorf("push to the Pushgateway: %w", err)
	}
	return nil
}

func (p *Pusher) pusher(g prometheus.Gatherer) *push.Pusher {
	to := push.New(p.url, p.job).Gatherer(g).Client(bounded{http.DefaultClient}).Format(expfmt.NewFormat(expfmt.TypeTextPlain))
	if p.user != nil {
		password, _ := p.user.Password()
		to.BasicAuth(p.user.Username(), password)
	}
	return to
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
