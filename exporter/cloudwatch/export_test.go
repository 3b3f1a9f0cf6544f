package cloudwatch

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
)

// impatient is an API whose SDK tries once.
type impatient struct{ API }

func (a impatient) PutMetricData(ctx context.Context, in *cloudwatch.PutMetricDataInput, options ...func(*cloudwatch.Options)) (*cloudwatch.PutMetricDataOutput, error) {
	return a.API.PutMetricData(ctx, in, append(options, func(o *cloudwatch.Options) { o.RetryMaxAttempts = 1 })...)
}

// WithoutRetries has the SDK try each call once, which hours of outage in a test
// could not wait for.
func WithoutRetries(o *Options) { o.API = impatient{o.API} }
