package cloudwatchtest

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/smithy-go/encoding/cbor"
)

// The documented limits of PutMetricData.
const (
	maxDatums     = 1000
	maxValues     = 150
	maxDimensions = 30
	oldest        = 14 * 24 * time.Hour
	furthest      = 2 * time.Hour
	greatest      = 0x1p360
)

var (
	namespaceForm = regexp.MustCompile(`^[^:][0-9A-Za-z.\-_/#: ]{0,254}$`)
	ascii         = regexp.MustCompile(`^[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*$`)
)

// read returns the data of a request. One invalid datum rejects the whole request.
func read(value cbor.Value, now time.Time, call *Call) ([]Datum, error) {
	input, _ := value.(cbor.Map)
	namespace, _ := input["Namespace"].(cbor.String)
	if !namespaceForm.MatchString(string(namespace)) || strings.HasPrefix(string(namespace), "AWS/") {
		return nil, invalid("The value %q for parameter Namespace is invalid.", string(namespace))
	}
	list, _ := input["MetricData"].(cbor.List)
	if call.Datums = len(list); len(list) == 0 || len(list) > maxDatums {
		return nil, invalid("The collection MetricData must not have a size of %d.", len(list))
	}
	data := make([]Datum, 0, len(list))
	for _, member := range list {
		m, _ := member.(cbor.Map)
		d, err := datum(m, now)
		if err != nil {
			return nil, err
		}
		d.Namespace = string(namespace)
		data = append(data, d)
	}
	return data, nil
}

func datum(m cbor.Map, now time.Time) (d Datum, err error) {
	name, _ := m["MetricName"].(cbor.String)
	unit, _ := m["Unit"].(cbor.String)
	d = Datum{Metric: string(name), Unit: string(unit)}
	if d.Metric == "" || len(d.Metric) > 255 || !ascii.MatchString(d.Metric) {
		return d, invalid("The value %q for parameter MetricName is invalid.", d.Metric)
	}
	if d.Unit != "" && !slices.Contains(types.StandardUnit("").Values(), types.StandardUnit(d.Unit)) {
		return d, invalid("The value %q for parameter Unit is invalid.", d.Unit)
	}
	if d.Dimensions, err = dimensions(m["Dimensions"]); err != nil {
		return d, err
	}
	if d.At, err = timestamp(m["Timestamp"], now); err != nil {
		return d, err
	}
	err = d.readValues(m)
	return d, err
}

func dimensions(value cbor.Value) (map[string]string, error) {
	list, _ := value.(cbor.List)
	if len(list) > maxDimensions {
		return nil, invalid("The collection Dimensions must not have a size greater than %d.", maxDimensions)
	}
	all := map[string]string{}
	for _, member := range list {
		m, _ := member.(cbor.Map)
		name, _ := m["Name"].(cbor.String)
		value, _ := m["Value"].(cbor.String)
		_, twice := all[string(name)]
		if twice || len(name) > 255 || len(value) > 1024 || !ascii.MatchString(string(name)) || !ascii.MatchString(string(value)) || name[0] == ':' {
			return nil, invalid("The dimension %q with the value %q is invalid.", string(name), string(value))
		}
		all[string(name)] = string(value)
	}
	return all, nil
}

func timestamp(value cbor.Value, now time.Time) (time.Time, error) {
	tag, ok := value.(*cbor.Tag)
	if !ok || tag.ID != 1 {
		return time.Time{}, invalid("The parameter Timestamp is not a timestamp: %v.", value)
	}
	seconds, ok := number(tag.Value)
	at := time.UnixMilli(int64(seconds * 1000)).UTC()
	if !ok || now.Sub(at) > oldest || at.Sub(now) > furthest {
		return time.Time{}, invalid("The parameter Timestamp must specify a time within the past two weeks: %s at %s.", at, now)
	}
	return at, nil
}

// readValues requires either Value or Values.
func (d *Datum) readValues(m cbor.Map) error {
	_, statistics := m["StatisticValues"]
	value, single := number(m["Value"])
	values, several := m["Values"].(cbor.List)
	if statistics || single == several {
		return invalid("The parameters Value and Values are mutually exclusive and you have specified neither or both.")
	}
	if single {
		values = cbor.List{cbor.Float64(value)}
	}
	counts, _ := m["Counts"].(cbor.List)
	if len(values) == 0 || len(values) > maxValues || len(counts) > 0 && len(counts) != len(values) {
		return invalid("%d Values with %d Counts.", len(values), len(counts))
	}
	for i, member := range values {
		v, ok := number(member)
		if !ok || math.IsNaN(v) || math.Abs(v) > greatest {
			return invalid("The value %v for parameter Value is invalid.", v)
		}
		count := 1.0
		if len(counts) > 0 {
			if count, ok = number(counts[i]); !ok || !(count > 0) {
				return invalid("The value %v for parameter Counts is invalid.", count)
			}
		}
		d.Values, d.Counts = append(d.Values, v), append(d.Counts, count)
	}
	return nil
}

func number(value cbor.Value) (float64, bool) {
	switch v := value.(type) {
	case cbor.Float64:
		return float64(v), true
	case cbor.Float32:
		return float64(v), true
	case cbor.Uint:
		return float64(v), true
	case cbor.NegInt:
		return -float64(v), true
	}
	return 0, false
}
