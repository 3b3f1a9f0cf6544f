-- Check refresh status
SELECT 
    view_name,
    last_refreshed_at,
    refresh_duration_ms,
    (refresh_duration_ms / 1000.0) as refresh_duration_sec,
    total_jobs,
    total_objects,
    NOW() - last_refreshed_at as data_age
FROM materialized_view_refresh_log
WHERE view_name = 'job_progress';
