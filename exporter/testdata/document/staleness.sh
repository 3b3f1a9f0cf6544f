# Calculate how old the cached data is
REFRESH_TIME=$(curl -s "${API_URL}/jobs/${JOB_ID}" | jq -r '.cache_refreshed_at')
NOW=$(date -u +%s)
REFRESH_EPOCH=$(date -d "$REFRESH_TIME" +%s)
AGE=$((NOW - REFRESH_EPOCH))

echo "Cached data is $AGE seconds old"
