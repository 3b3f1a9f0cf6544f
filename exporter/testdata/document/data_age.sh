# Get job status with freshness info
curl "${API_URL}/jobs/${JOB_ID}" | jq '{
  job_id,
  status,
  cache_refreshed_at,
  data_age_info: "Data refreshed at \(.cache_refreshed_at)"
}'
