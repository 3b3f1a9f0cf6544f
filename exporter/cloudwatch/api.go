package cloudwatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Limits of one PutMetricData. The size is that before compression, roughly: a
// margin is left for what surrounds the strings.
const (
	maxDatums = 1000
	maxBytes  = 800_000
)

// callTimeout bounds one call with all its retries.
const callTimeout = 20 * time.Second

// API is PutMetricData.
type API interface {
	PutMetricData(ctx context.Context, in *cloudwatch.PutMetricDataInput, options ...func(*cloudwatch.Options)) (*cloudwatch.PutMetricDataOutput, error)
}

// NewAPI makes the SDK's client, configured as every AWS program is. region and
// endpoint override that where they are not empty. It calls nobody yet.
func NewAPI(ctx context.Context, region, endpoint string) (API, error) {
	options := []func(*config.LoadOptions) error{config.WithRetryer(func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = 3, 5*time.Second })
	})}
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("configure CloudWatch: %w", err)
	}
	if c.Region == "" {
		return nil, errors.New("configure CloudWatch: no region: give --cloudwatch.region or set AWS_REGION")
	}
	return cloudwatch.NewFromConfig(c, func(o *cloudwatch.Options) {
		if endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
	}), nil
}

// destination turns data into calls.
type destination struct {
	api        API
	namespace  string
	dimensions []types.Dimension // of every datum, by name
}

func newDestination(api API, namespace string, dimensions map[string]string) *destination {
	d := &destination{api: api, namespace: namespace}
	for _, name := range slices.Sorted(maps.Keys(dimensions)) {
		d.dimensions = append(d.dimensions, types.Dimension{Name: aws.String(name), Value: aws.String(dimensions[name])})
	}
	return d
}

// name tells the destinations of one database apart.
func (d *destination) name() string {
	name := "cloudwatch " + d.namespace
	for _, dim := range d.dimensions {
		name += fmt.Sprintf(" %s=%s", *dim.Name, *dim.Value)
	}
	return name
}

// fit is how many of the data go into one call.
func (d *destination) fit(data []datum) int {
	size := 0
	for i, datum := range data[:min(len(data), maxDatums)] {
		if size += d.size(datum); size > maxBytes && i > 0 {
			return i
		}
	}
	return min(len(data), maxDatums)
}

// size is what one datum takes, in CBOR: member names, and 9 bytes a number.
func (d *destination) size(datum datum) int {
	const members, number, pair = 120, 9, 16
	n := members + len(datum.metric) + 2*number*len(datum.values) + pair + len(viewDimension) + 3*len(datum.view)
	for _, dim := range d.dimensions {
		n += pair + len(*dim.Name) + len(*dim.Value)
	}
	return n
}

func (d *destination) put(ctx context.Context, data []datum) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	in := &cloudwatch.PutMetricDataInput{Namespace: &d.namespace, MetricData: make([]types.MetricDatum, len(data))}
	withView := map[string][]types.Dimension{"": nil}
	for i, datum := range data {
		dims, known := withView[datum.view]
		if !known {
			dims = append(slices.Clip(d.dimensions), types.Dimension{Name: aws.String(viewDimension), Value: aws.String(DimensionValue(datum.view))})
			withView[datum.view] = dims
		}
		if datum.metric == Heartbeat {
			dims = d.dimensions
		}
		in.MetricData[i] = types.MetricDatum{
			MetricName: aws.String(datum.metric), Unit: units[datum.metric], Timestamp: &data[i].at, Dimensions: dims,
		}
		if len(datum.values) == 1 {
			in.MetricData[i].Value = &data[i].values[0]
		} else {
			in.MetricData[i].Values, in.MetricData[i].Counts = counted(datum.values)
		}
	}
	_, err := d.api.PutMetricData(ctx, in)
	return err
}

// counted gives each value once, with how often there was one.
func counted(all []float64) (values, counts []float64) {
	all = slices.Sorted(slices.Values(all))
	for i, v := range all {
		if i == 0 || v != all[i-1] {
			values, counts = append(values, v), append(counts, 0)
		}
		counts[len(counts)-1]++
	}
	return values, counts
}

// refused reports whether CloudWatch will never take what was sent, so that to
// send it again would hold up everything behind it.
func refused(err error) bool {
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) && response.HTTPStatusCode() == http.StatusRequestEntityTooLarge {
		return true
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode() {
	case "InvalidParameterValue", "InvalidParameterValueException", "InvalidParameterCombination", "InvalidParameterCombinationException",
		"MissingParameter", "MissingRequiredParameterException", "ValidationError", "ValidationException":
		return true
	}
	return false
}
