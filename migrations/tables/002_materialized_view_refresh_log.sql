-- The refresh log: a public contract of exactly these five columns. Other programs
-- read and upsert it, so a table that is already there stays as it is.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_log (
    view_name           TEXT PRIMARY KEY,
    last_refreshed_at   TIMESTAMP WITH TIME ZONE NOT NULL,
    refresh_duration_ms INTEGER,
    total_jobs          INTEGER,
    total_objects       BIGINT
);

UPDATE matview_schema_version SET version = 2;
