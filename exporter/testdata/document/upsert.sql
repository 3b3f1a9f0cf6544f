    INSERT INTO materialized_view_refresh_log 
    (view_name, last_refreshed_at, refresh_duration_ms, total_jobs, total_objects)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (view_name) 
    DO UPDATE SET 
        last_refreshed_at = EXCLUDED.last_refreshed_at,
        refresh_duration_ms = EXCLUDED.refresh_duration_ms,
        total_jobs = EXCLUDED.total_jobs,
        total_objects = EXCLUDED.total_objects;
