#!/bin/bash
# Alert if cached data is more than 5 minutes old

MAX_AGE_SECONDS=300  # 5 minutes

REFRESH_TIME=$(curl -s "${API_URL}/jobs/${JOB_ID}" | jq -r '.cache_refreshed_at')
NOW=$(date -u +%s)
REFRESH_EPOCH=$(date -d "$REFRESH_TIME" +%s)
AGE=$((NOW - REFRESH_EPOCH))

if [ $AGE -gt $MAX_AGE_SECONDS ]; then
    echo "⚠️  WARNING: Cached data is $AGE seconds old (max: $MAX_AGE_SECONDS)"
    echo "Check refresh Lambda: aws logs tail /aws/lambda/strac-scanner-refresh-job-progress"
    exit 1
else
    echo "✓ Cached data is fresh ($AGE seconds old)"
fi
