-- Get refresh statistics for dashboard
SELECT 
    last_refreshed_at,
    refresh_duration_ms,
    total_jobs,
    total_objects,
    CASE 
        WHEN refresh_duration_ms < 1000 THEN 'Fast'
        WHEN refresh_duration_ms < 5000 THEN 'Normal'
        ELSE 'Slow'
    END as performance_rating,
    EXTRACT(EPOCH FROM (NOW() - last_refreshed_at)) as seconds_since_refresh
FROM materialized_view_refresh_log
WHERE view_name = 'job_progress';
