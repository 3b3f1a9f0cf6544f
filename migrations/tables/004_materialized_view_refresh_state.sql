-- Run-time state, written by whoever refreshes. view_name is always the
-- canonical name here.
CREATE TABLE materialized_view_refresh_state (
    view_name             TEXT PRIMARY KEY,
    next_run_at           TIMESTAMP WITH TIME ZONE,
    -- The schedule row that next_run_at was computed from: its name, which may
    -- be another name of the view, and what it said.
    schedule_name         TEXT,
    scheduled_by          TEXT,
    consecutive_failures  INTEGER NOT NULL DEFAULT 0,
    last_attempt_at       TIMESTAMP WITH TIME ZONE,
    last_outcome          TEXT,
    last_error            TEXT,
    data_as_of            TIMESTAMP WITH TIME ZONE,
    -- The view's pg_class row right after our last refresh of it: whoever
    -- refreshes, replaces or alters it later changes at least view_xmin.
    view_oid              OID,
    view_filenode         OID,
    view_xmin             XID,
    -- The log row as we wrote it: one that differs was written by somebody else.
    logged_refreshed_at   TIMESTAMP WITH TIME ZONE,
    logged_duration_ms    INTEGER,
    size_bytes            BIGINT,
    change_counters       JSONB
) WITH (fillfactor = 50);

UPDATE matview_schema_version SET version = 4;
