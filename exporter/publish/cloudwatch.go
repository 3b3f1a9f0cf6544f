package publish

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

// Names of the metrics in CloudWatch.
const (
	Staleness       = "MatViewStaleness"
	RefreshDuration = "MatViewRefreshDuration"
	RefreshFailure  = "MatViewRefreshFailure"
	RefreshSuccess  = "MatViewRefreshSuccess"
	JobCount        = "MatViewJobCount"
	ObjectCount     = "MatViewObjectCount"
	Heartbeat       = "MatViewExporterHeartbeat"
)

// OptionalCloudWatchMetrics are published only on request.
var OptionalCloudWatchMetrics = []string{JobCount, ObjectCount, RefreshSuccess}

var units = map[string]types.StandardUnit{
	Staleness: types.StandardUnitSeconds, RefreshDuration: types.StandardUnitMilliseconds,
	RefreshFailure: types.StandardUnitCount, RefreshSuccess: types.StandardUnitCount,
	JobCount: types.StandardUnitCount, ObjectCount: types.StandardUnitCount, Heartbeat: types.StandardUnitCount,
}

// viewDimension is the dimension of all metrics about a view.
const viewDimension = "ViewName"

// CloudWatchMetrics are the metrics of a namespace, however they get there.
type CloudWatchMetrics struct {
	namespace    string
	optional     []string
	plainJobsFor string
	dimensions   atomic.Pointer[[]types.Dimension] // of every metric, by name
}

// NewCloudWatchMetrics checks the namespace, the dimensions of every metric beside
// ViewName, and which metrics of [OptionalCloudWatchMetrics] to publish too. The
// job count of the view plainJobsFor goes out without any dimension; "" is none.
func NewCloudWatchMetrics(namespace string, dimensions map[string]string, optional []string, plainJobsFor string) (*CloudWatchMetrics, error) {
	var problems []error
	if len(namespace) > 255 || !regexp.MustCompile(`^[0-9A-Za-z.\-_/#: ]+$`).MatchString(namespace) || strings.HasPrefix(namespace, ":") {
		problems = append(problems, fmt.Errorf("--cloudwatch.namespace: %q is not a namespace: it must be 1 to 255 letters, digits or any of .-_/#: and spaces", namespace))
	}
	if strings.HasPrefix(namespace, "AWS/") {
		problems = append(problems, errors.New("--cloudwatch.namespace: namespaces that start with AWS/ belong to AWS"))
	}
	for _, metric := range optional {
		if !slices.Contains(OptionalCloudWatchMetrics, metric) {
			problems = append(problems, fmt.Errorf("--cloudwatch.metrics: there is no optional metric %q: it must be one of %s", metric, strings.Join(OptionalCloudWatchMetrics, ", ")))
		}
	}
	m := &CloudWatchMetrics{namespace: namespace, optional: optional, plainJobsFor: plainJobsFor}
	if err := m.SetDimensions(dimensions); err != nil {
		problems = append(problems, fmt.Errorf("--cloudwatch.dimension: %w", err))
	}
	return m, errors.Join(problems...)
}

// SetDimensions changes the dimensions of what is published from now on, and with
// them the destination.
func (m *CloudWatchMetrics) SetDimensions(dimensions map[string]string) error {
	if err := ValidateDimensions(dimensions); err != nil {
		return err
	}
	var all []types.Dimension
	for _, name := range slices.Sorted(maps.Keys(dimensions)) {
		all = append(all, types.Dimension{Name: aws.String(name), Value: aws.String(dimensions[name])})
	}
	m.dimensions.Store(&all)
	return nil
}

var printable = regexp.MustCompile(`^[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*$`)

// maxDimensions is one less than CloudWatch accepts: ViewName is one.
const maxDimensions = 29

// ValidateDimensions says what CloudWatch would refuse.
func ValidateDimensions(dimensions map[string]string) error {
	var problems []error
	if len(dimensions) > maxDimensions {
		problems = append(problems, fmt.Errorf("%d dimensions, where CloudWatch accepts %d beside ViewName", len(dimensions), maxDimensions))
	}
	for _, name := range slices.Sorted(maps.Keys(dimensions)) {
		value := dimensions[name]
		if len(name) > 255 || !printable.MatchString(name) || strings.HasPrefix(name, ":") || name == viewDimension || name == "_aws" || units[name] != "" {
			problems = append(problems, fmt.Errorf("a dimension cannot be called %q", name))
		}
		if len(value) > 1024 || !printable.MatchString(value) {
			problems = append(problems, fmt.Errorf("%q cannot be the value of %s: it must be 1 to 1024 characters of ASCII, not only spaces", value, name))
		}
	}
	return errors.Join(problems...)
}

// Destination implements [Sink].
func (m *CloudWatchMetrics) Destination() string {
	name := "cloudwatch " + m.namespace
	for _, d := range *m.dimensions.Load() {
		name += fmt.Sprintf(" %s=%s", *d.Name, *d.Value)
	}
	return name
}

// dimensionsOf are the dimensions of a point.
func (m *CloudWatchMetrics) dimensionsOf(p Point) []types.Dimension {
	all := *m.dimensions.Load()
	switch {
	case p.View != "":
		return append(slices.Clip(all), types.Dimension{Name: aws.String(viewDimension), Value: aws.String(DimensionValue(p.View))})
	case p.Metric == JobCount: // the plain one
		return nil
	}
	return all
}

// DimensionValue is a view's name as CloudWatch accepts it, in ASCII: everything
// else, and %, is percent-encoded as in URLs.
func DimensionValue(view string) string {
	var b strings.Builder
	for i := range len(view) {
		if c := view[i]; c < 0x20 || c > 0x7e || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Points implements [Sink].
func (m *CloudWatchMetrics) Points(u Update) []Point {
	minute := u.At.Truncate(time.Minute).UTC()
	b := newMinutes(len(u.Attempts) + 2*len(u.Views) + 1)
	m.addAttempts(b, u.Attempts)
	if u.Final {
		for _, v := range u.Views {
			refreshed := func(a Attempt) bool { return a.View == v.Name && a.Outcome == "succeeded" }
			if !u.Away && slices.ContainsFunc(u.Attempts, refreshed) {
				m.addCounts(b, v, minute)
			}
		}
		return b.points
	}
	for _, v := range u.Views {
		if v.StalenessSeconds != nil {
			b.add(Staleness, v.Name, minute, *v.StalenessSeconds)
		}
		if !u.Away {
			m.addHealth(b, v, minute)
			m.addCounts(b, v, minute)
		}
	}
	beat := 1.0
	if u.Away {
		beat = 0
	}
	b.add(Heartbeat, "", minute, beat)
	return b.points
}

// addHealth adds the zeros that attempts are counted from. A view without an
// enabled schedule has none, since silence is not health. A view that fails has no
// RefreshFailure of 0 between two attempts, until one succeeds.
func (m *CloudWatchMetrics) addHealth(b *minutes, v freshness.View, minute time.Time) {
	if v.Enabled == nil || !*v.Enabled {
		return
	}
	if v.ConsecutiveFailures == 0 {
		b.add(RefreshFailure, v.Name, minute, 0)
	}
	if m.publishes(RefreshSuccess) {
		b.add(RefreshSuccess, v.Name, minute, 0)
	}
}

// addCounts adds the totals of a view's last refresh.
func (m *CloudWatchMetrics) addCounts(b *minutes, v freshness.View, minute time.Time) {
	if m.publishes(JobCount) && v.TotalJobs != nil {
		b.add(JobCount, v.Name, minute, float64(*v.TotalJobs))
	}
	if m.publishes(ObjectCount) && v.TotalObjects != nil {
		b.add(ObjectCount, v.Name, minute, float64(*v.TotalObjects))
	}
	if m.plainJobsFor == v.Name && v.TotalJobs != nil {
		b.add(JobCount, "", minute, float64(*v.TotalJobs))
	}
}

// addAttempts adds each attempt in the minute in which it ended.
func (m *CloudWatchMetrics) addAttempts(b *minutes, attempts []Attempt) {
	for _, a := range attempts {
		minute := a.FinishedAt.Truncate(time.Minute)
		switch a.Outcome {
		case "succeeded":
			b.add(RefreshDuration, a.View, minute, float64(a.Duration.Milliseconds()))
			if a.StalenessBefore != nil {
				b.add(Staleness, a.View, minute, *a.StalenessBefore)
			}
			if m.publishes(RefreshSuccess) {
				b.add(RefreshSuccess, a.View, minute, 1)
			}
		case "failed", "abandoned":
			b.add(RefreshFailure, a.View, minute, 1)
		}
	}
}

func (m *CloudWatchMetrics) publishes(optional string) bool {
	return slices.Contains(m.optional, optional)
}

// Limits on the values of a metric: 100 in Embedded Metric Format, 150 in a call.
const (
	maxValues    = 100
	maxMagnitude = 0x1p360
)

// minutes gathers the values of one metric in one minute into one point, so that a
// call carries more.
type minutes struct {
	points []Point
	index  map[minuteKey]int
}

type minuteKey struct {
	metric, view string
	at           int64
}

func newMinutes(points int) *minutes {
	return &minutes{points: make([]Point, 0, points), index: make(map[minuteKey]int, points)}
}

func (m *minutes) add(metric, view string, at time.Time, value float64) {
	if math.IsNaN(value) || math.Abs(value) > maxMagnitude {
		return
	}
	key := minuteKey{metric, view, at.Unix()}
	i, found := m.index[key]
	if !found || len(m.points[i].Values) == maxValues {
		i = len(m.points)
		m.index[key] = i
		m.points = append(m.points, Point{Metric: metric, View: view, At: at})
	}
	m.points[i].Values = append(m.points[i].Values, value)
}
