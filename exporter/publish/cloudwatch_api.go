package publish

import (
	"context"
	"errors"
	"fmt"
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

// Limits of one PutMetricData. The size is that before compression, estimated: a
// margin is left for what surrounds the strings.
const (
	maxDatums = 1000
	maxBytes  = 800_000
)

// callTimeout bounds one call with all its retries.
const callTimeout = 20 * time.Second

// CloudWatchAPI is PutMetricData.
type CloudWatchAPI interface {
	PutMetricData(ctx context.Context, in *cloudwatch.PutMetricDataInput, options ...func(*cloudwatch.Options)) (*cloudwatch.PutMetricDataOutput, error)
}

// NewCloudWatchAPI makes the SDK's client, configured as that of every AWS program.
// A region or endpoint that is not empty overrides the configuration. It makes no
// call.
func NewCloudWatchAPI(ctx context.Context, region, endpoint string) (CloudWatchAPI, error) {
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
		return nil, errors.New("configure CloudWatch: no region: set --cloudwatch.region or AWS_REGION")
	}
	return cloudwatch.NewFromConfig(c, func(o *cloudwatch.Options) {
		if endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
	}), nil
}

// CloudWatch is the sink that calls PutMetricData.
type CloudWatch struct {
	*CloudWatchMetrics
	API CloudWatchAPI
}

// Send implements [Sink].
func (c *CloudWatch) Send(ctx context.Context, points []Point) (n int, err error) {
	n = c.fit(points)
	err = c.put(ctx, points[:n])
	if refused(err) {
		err = &RefusedError{err}
	}
	return n, err
}

// fit is how many of the points one call carries.
func (c *CloudWatch) fit(points []Point) int {
	size := 0
	for i, p := range points[:min(len(points), maxDatums)] {
		if size += c.size(p); size > maxBytes && i > 0 {
			return i
		}
	}
	return min(len(points), maxDatums)
}

// size is that of one point in CBOR: member names, and 9 bytes a number.
func (c *CloudWatch) size(p Point) int {
	const members, number, pair = 120, 9, 16
	n := members + len(p.Metric) + 2*number*len(p.Values) + pair + len(viewDimension) + 3*len(p.View)
	for _, d := range *c.dimensions.Load() {
		n += pair + len(*d.Name) + len(*d.Value)
	}
	return n
}

func (c *CloudWatch) put(ctx context.Context, points []Point) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	in := &cloudwatch.PutMetricDataInput{Namespace: &c.namespace, MetricData: make([]types.MetricDatum, len(points))}
	for i, p := range points {
		datum := types.MetricDatum{
			MetricName: aws.String(p.Metric), Unit: units[p.Metric], Timestamp: &points[i].At, Dimensions: c.dimensionsOf(p),
		}
		if len(p.Values) == 1 {
			datum.Value = &p.Values[0]
		} else {
			datum.Values, datum.Counts = countValues(p.Values)
		}
		in.MetricData[i] = datum
	}
	_, err := c.API.PutMetricData(ctx, in)
	return err
}

// countValues returns each distinct value, and how often it occurs.
func countValues(all []float64) (values, counts []float64) {
	all = slices.Sorted(slices.Values(all))
	for i, v := range all {
		if i == 0 || v != all[i-1] {
			values, counts = append(values, v), append(counts, 0)
		}
		counts[len(counts)-1]++
	}
	return values, counts
}

// refused reports whether CloudWatch will never accept what it was sent.
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
