package cloudwatch

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

// Names of the metrics.
const (
	Staleness       = "MatViewStaleness"
	RefreshDuration = "MatViewRefreshDuration"
	RefreshFailure  = "MatViewRefreshFailure"
	RefreshSuccess  = "MatViewRefreshSuccess"
	JobCount        = "MatViewJobCount"
	ObjectCount     = "MatViewObjectCount"
	Heartbeat       = "MatViewExporterHeartbeat"
)

// Optional are the metrics that are published only when asked for.
var Optional = []string{JobCount, ObjectCount, RefreshSuccess}

var units = map[string]types.StandardUnit{
	Staleness: types.StandardUnitSeconds, RefreshDuration: types.StandardUnitMilliseconds,
	RefreshFailure: types.StandardUnitCount, RefreshSuccess: types.StandardUnitCount,
	JobCount: types.StandardUnitCount, ObjectCount: types.StandardUnitCount, Heartbeat: types.StandardUnitCount,
}

// viewDimension is the dimension of all metrics about a view.
const viewDimension = "ViewName"

// datum is what is known of one metric in one minute. It is kept small: an
// outage keeps many.
type datum struct {
	metric string
	view   string // "": of no view
	at     time.Time
	values []float64 // as often as they were seen
}

// most is beyond what CloudWatch takes on either side.
const most = 0x1p360

func takeable(f float64) bool { return !math.IsNaN(f) && f <= most && f >= -most }

// Attempt is a refresh that has ended.
type Attempt struct {
	View       string
	Outcome    string // as the history names it
	FinishedAt time.Time
	Duration   time.Duration // of one that succeeded
	// StalenessBefore is how old the data was at its end, by the record of
	// before; nil where that is unknown.
	StalenessBefore *float64
}

// selection is what is published.
type selection struct {
	optional     []string
	plainJobsFor string // a view whose job count goes out without any dimension
}

func (s selection) has(metric string) bool { return slices.Contains(s.optional, metric) }

// ofViews are the figures of now. away says that the database is: then only the
// age of what was known is, since it grows by itself.
func (s selection) ofViews(data *minutes, views []freshness.View, at time.Time, away bool) {
	add := func(metric, view string, value float64) { data.add(metric, view, at, value) }
	for _, v := range views {
		if v.StalenessSeconds != nil {
			add(Staleness, v.Name, *v.StalenessSeconds)
		}
		if away {
			continue
		}
		if v.Enabled != nil && *v.Enabled {
			// Silence is not health, and the time between two attempts that
			// failed neither: there is no 0 until one succeeds.
			if v.ConsecutiveFailures == 0 {
				add(RefreshFailure, v.Name, 0)
			}
			if s.has(RefreshSuccess) {
				add(RefreshSuccess, v.Name, 0)
			}
		}
		s.ofCounts(data, v, at)
	}
}

// ofCounts are what the last refresh of a view counted.
func (s selection) ofCounts(data *minutes, v freshness.View, at time.Time) {
	if s.has(JobCount) && v.TotalJobs != nil {
		data.add(JobCount, v.Name, at, float64(*v.TotalJobs))
	}
	if s.has(ObjectCount) && v.TotalObjects != nil {
		data.add(ObjectCount, v.Name, at, float64(*v.TotalObjects))
	}
	if s.plainJobsFor == v.Name && v.TotalJobs != nil {
		data.add(JobCount, "", at, float64(*v.TotalJobs))
	}
}

// ofAttempts are the figures of refreshes, each in the minute in which it ended.
func (s selection) ofAttempts(data *minutes, attempts []Attempt) {
	for _, a := range attempts {
		at := a.FinishedAt.Truncate(time.Minute)
		switch a.Outcome {
		case "succeeded":
			data.add(RefreshDuration, a.View, at, float64(a.Duration.Milliseconds()))
			if a.StalenessBefore != nil {
				data.add(Staleness, a.View, at, *a.StalenessBefore)
			}
			if s.has(RefreshSuccess) {
				data.add(RefreshSuccess, a.View, at, 1)
			}
		case "failed", "abandoned":
			data.add(RefreshFailure, a.View, at, 1)
		}
	}
}

// maxValues is how many values one datum may have.
const maxValues = 150

// minutes gathers the values of one metric in one minute.
type minutes struct {
	data  []datum
	index map[minute]int
}

type minute struct {
	metric, view string
	at           int64
}

func newMinutes(datums int) *minutes {
	return &minutes{data: make([]datum, 0, datums), index: make(map[minute]int, datums)}
}

func (m *minutes) add(metric, view string, at time.Time, value float64) {
	if !takeable(value) {
		return
	}
	key := minute{metric, view, at.Unix()}
	i, found := m.index[key]
	if !found || len(m.data[i].values) == maxValues {
		i = len(m.data)
		m.index[key] = i
		m.data = append(m.data, datum{metric: metric, view: view, at: at})
	}
	m.data[i].values = append(m.data[i].values, value)
}

// DimensionValue is a view's name as CloudWatch takes it, which is in ASCII: what
// is not, and %, is percent-encoded as in URLs.
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
