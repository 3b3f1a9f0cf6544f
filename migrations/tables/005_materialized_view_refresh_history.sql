-- One row an attempt.
CREATE TABLE materialized_view_refresh_history (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view_name     TEXT NOT NULL,
    trigger       TEXT NOT NULL CHECK (trigger IN ('schedule', 'manual', 'terraform', 'external')),
    method        TEXT,
    outcome       TEXT NOT NULL CHECK (outcome IN ('running', 'succeeded', 'failed', 'skipped', 'abandoned')),
    started_at    TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp(),
    data_as_of    TIMESTAMP WITH TIME ZONE,
    finished_at   TIMESTAMP WITH TIME ZONE,
    lock_wait_ms  BIGINT,
    duration_ms   BIGINT,
    rows_inserted BIGINT,
    rows_deleted  BIGINT,
    error         TEXT,
    sqlstate      TEXT,
    -- Why this method, and what went wrong without failing the refresh.
    reason        TEXT,
    warning       TEXT,
    -- Who is at it. A running attempt whose heartbeat stopped is dead.
    attempted_by  TEXT,
    backend_pid   INTEGER,
    backend_start TIMESTAMP WITH TIME ZONE,
    heartbeat_at  TIMESTAMP WITH TIME ZONE,
    -- What later attempts decide by: that a swap was the better method and turned
    -- out to be impossible; that a concurrent refresh was and might have lost rows;
    -- and the view whose failed refresh kept this attempt from being made.
    swap_refused         BOOLEAN NOT NULL DEFAULT false,
    concurrently_refused BOOLEAN NOT NULL DEFAULT false,
    failed_upstream      TEXT
) WITH (fillfactor = 80);

UPDATE matview_schema_version SET version = 5;
