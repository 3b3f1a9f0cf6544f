# Option 2: Add tracking table manually
psql -h ${HOST} -p ${PORT} -U scanner_admin -d ${DATABASE} <<EOF
CREATE TABLE IF NOT EXISTS materialized_view_refresh_log (
    view_name TEXT PRIMARY KEY,
    last_refreshed_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    refresh_duration_ms INTEGER,
    total_jobs INTEGER,
    total_objects BIGINT
);

INSERT INTO materialized_view_refresh_log (view_name, last_refreshed_at)
VALUES ('job_progress', NOW())
ON CONFLICT (view_name) DO NOTHING;
EOF
