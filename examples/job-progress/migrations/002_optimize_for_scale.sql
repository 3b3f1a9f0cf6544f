-- What the document calls migration 002: the view, its index and the refresh
-- log, for those who start without Terraform. It can be run again, and while
-- matview is installed; `terraform import` or matview_refresh_log adopt what it
-- made.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_log (
    view_name           TEXT PRIMARY KEY,
    last_refreshed_at   TIMESTAMP WITH TIME ZONE NOT NULL,
    refresh_duration_ms INTEGER,
    total_jobs          INTEGER,
    total_objects       BIGINT
);

CREATE MATERIALIZED VIEW IF NOT EXISTS job_progress AS
SELECT j.job_id,
       j.status,
       count(o.object_id) AS total,
       count(*) FILTER (WHERE o.state = 'succeeded') AS succeeded,
       count(*) FILTER (WHERE o.state = 'failed') AS failed,
       round(100.0 * count(*) FILTER (WHERE o.state <> 'pending') / greatest(count(o.object_id), 1), 1) AS progress_percent
FROM jobs AS j
LEFT JOIN job_objects AS o USING (job_id)
GROUP BY j.job_id, j.status;

CREATE UNIQUE INDEX IF NOT EXISTS job_progress_job_id ON job_progress (job_id);
