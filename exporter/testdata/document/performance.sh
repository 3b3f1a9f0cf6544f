# Check how long refreshes are taking
curl "${API_URL}/jobs/${JOB_ID}" | jq '{
  refresh_duration_ms,
  refresh_duration_seconds: (.cache_refresh_duration_ms / 1000),
  status: (if .cache_refresh_duration_ms < 1000 then "Fast ✓" 
           elif .cache_refresh_duration_ms < 5000 then "Normal ⚠" 
           else "Slow ✗" end)
}'
