package publish

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
)

// singleAttempt is an API whose SDK tries each call once, since a test cannot wait
// for the retries of hours of outage.
type singleAttempt struct{ CloudWatchAPI }

func (a singleAttempt) PutMetricData(ctx context.Context, in *cloudwatch.PutMetricDataInput, options ...func(*cloudwatch.Options)) (*cloudwatch.PutMetricDataOutput, error) {
	return a.CloudWatchAPI.PutMetricData(ctx, in, append(options, func(o *cloudwatch.Options) { o.RetryMaxAttempts = 1 })...)
}

// WithoutRetries is api without retries.
func WithoutRetries(api CloudWatchAPI) CloudWatchAPI { return singleAttempt{api} }
