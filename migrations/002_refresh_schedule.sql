-- What is to be refreshed and when. Terraform and people write it; the exporter
-- only reads it, but for longest_gap. No interval is longer than its programs
-- can count.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_schedule (
    view_name         TEXT PRIMARY KEY,
    cron              TEXT,
    every             INTERVAL CHECK (every > INTERVAL '0' AND every < INTERVAL '200 years'),
    target_staleness  INTERVAL CHECK (target_staleness > INTERVAL '0' AND target_staleness < INTERVAL '200 years'),
    time_zone         TEXT NOT NULL DEFAULT 'UTC',
    method            TEXT NOT NULL DEFAULT 'auto' CHECK (method IN ('auto', 'blocking', 'concurrently', 'swap')),
    enabled           BOOLEAN NOT NULL DEFAULT true,
    jitter            INTERVAL CHECK (jitter >= INTERVAL '0' AND jitter < INTERVAL '200 years'),
    lock_timeout      INTERVAL NOT NULL DEFAULT INTERVAL '10 seconds' CHECK (lock_timeout > INTERVAL '0' AND lock_timeout < INTERVAL '200 years'),
    statement_timeout INTERVAL CHECK (statement_timeout > INTERVAL '0' AND statement_timeout < INTERVAL '200 years'),
    max_staleness     INTERVAL CHECK (max_staleness > INTERVAL '0' AND max_staleness < INTERVAL '200 years'),
    skip_unchanged    BOOLEAN NOT NULL DEFAULT false,
    settings          JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    total_jobs        TEXT,
    total_objects     TEXT,
    -- The longest time between two runs. Only a program that understands cron
    -- can tell, so Terraform or the exporter fills it in.
    longest_gap       INTERVAL,
    -- A schedule that is removed and made again is a new one.
    created_at        TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT materialized_view_refresh_schedule_one_of CHECK (num_nonnulls(cron, every, target_staleness) = 1)
);

-- A table of the first version lacks it. ALTER TABLE would lock it also where it
-- has one.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'materialized_view_refresh_schedule'::regclass AND attname = 'created_at') THEN
        ALTER TABLE materialized_view_refresh_schedule
            ADD COLUMN created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp();
    END IF;
END
$$;

-- Run-time state, written by whoever refreshes. view_name is always the
-- canonical name here.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_state (
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

-- One row an attempt.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_history (
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
    -- out to be impossible, and the view whose failed refresh kept this attempt
    -- from being made.
    swap_refused    BOOLEAN NOT NULL DEFAULT false,
    failed_upstream TEXT
) WITH (fillfactor = 80);

-- Whether this program has been tested with the major version of this server. Of
-- another one it does not rely on internals: that every REFRESH changes the pg_class
-- row of the view, and what parse trees look like. See TestedMajors in
-- internal/postgres/versions.go.
CREATE OR REPLACE FUNCTION materialized_view_server_is_tested()
RETURNS BOOLEAN LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.current_setting('server_version_num')::integer / 10000 IN (13, 14, 15, 16, 17, 18)
$$;

-- Whether a refresh by somebody else is always noticed: because it changes the
-- pg_class row of the view, or because the event trigger of 004 records it.
CREATE OR REPLACE FUNCTION materialized_view_fingerprint_is_proven()
RETURNS BOOLEAN LANGUAGE sql STABLE AS $$
    SELECT materialized_view_server_is_tested()
        OR EXISTS (SELECT FROM pg_catalog.pg_event_trigger
                   WHERE evtfoid = to_regprocedure('materialized_view_refresh_tracked()')
                     AND evtevent = 'ddl_command_end' AND evtenabled = 'A')
$$;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION materialized_view_fingerprint_is_proven() SET search_path = %I, pg_temp', current_schema());
END
$$;

-- CREATE INDEX IF NOT EXISTS would lock the table also where the index exists, and
-- so wait for whoever has refreshed a view and not committed yet.
DO $$
BEGIN
    IF to_regclass('materialized_view_refresh_state_due') IS NULL THEN
        CREATE INDEX materialized_view_refresh_state_due ON materialized_view_refresh_state (next_run_at);
    END IF;
    -- By what each schedule is compared with its plan.
    IF to_regclass('materialized_view_refresh_state_schedule') IS NULL THEN
        CREATE INDEX materialized_view_refresh_state_schedule ON materialized_view_refresh_state (schedule_name);
    END IF;
    IF to_regclass('materialized_view_refresh_history_view') IS NULL THEN
        CREATE INDEX materialized_view_refresh_history_view ON materialized_view_refresh_history (view_name, started_at DESC);
    END IF;
    IF to_regclass('materialized_view_refresh_history_started') IS NULL THEN
        CREATE INDEX materialized_view_refresh_history_started ON materialized_view_refresh_history (started_at);
    END IF;
    IF to_regclass('materialized_view_refresh_history_running') IS NULL THEN
        CREATE INDEX materialized_view_refresh_history_running ON materialized_view_refresh_history (view_name) WHERE outcome = 'running';
    END IF;
END
$$;

-- What holds for the whole installation: a single row.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_settings (
    only_row          BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    history_retention INTERVAL NOT NULL DEFAULT INTERVAL '720 hours' CHECK (history_retention > INTERVAL '0' AND history_retention < INTERVAL '200 years')
);
INSERT INTO materialized_view_refresh_settings DEFAULT VALUES ON CONFLICT DO NOTHING;

-- What was published where. Of several exporters the one that claims it publishes
-- the next minute and then says so by moving minute on; one that dies first lets
-- another have it at claimed_until. Attempts up to seen_id are published, but for
-- those that were still running, or not yet visible, when that was noted.
CREATE TABLE IF NOT EXISTS materialized_view_refresh_publication (
    destination   TEXT PRIMARY KEY,
    minute        TIMESTAMP WITH TIME ZONE NOT NULL,
    seen_id       BIGINT NOT NULL,
    waiting       BIGINT[] NOT NULL DEFAULT '{}',
    claimed_by    TEXT,
    claimed_until TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT '-infinity'
);

-- A table of before claims were confirmed lacks the last two. ALTER TABLE would
-- lock it also where it has them.
DO $$
BEGIN
    IF (SELECT count(*) FROM pg_attribute
        WHERE attrelid = 'materialized_view_refresh_publication'::regclass AND attname IN ('claimed_by', 'claimed_until')) < 2 THEN
        ALTER TABLE materialized_view_refresh_publication
            ADD COLUMN IF NOT EXISTS claimed_by TEXT,
            ADD COLUMN IF NOT EXISTS claimed_until TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT '-infinity';
    END IF;
END
$$;

-- A schedule changed by hand must not keep the gap of the cron it had, and a
-- running exporter wants to know at once.
CREATE OR REPLACE FUNCTION materialized_view_refresh_schedule_changed()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('matview_schedule', OLD.view_name);
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
        IF (NEW.cron, NEW.time_zone) IS DISTINCT FROM (OLD.cron, OLD.time_zone)
           AND NEW.longest_gap IS NOT DISTINCT FROM OLD.longest_gap THEN
            NEW.longest_gap := NULL;
        END IF;
    END IF;
    PERFORM pg_notify('matview_schedule', NEW.view_name);
    RETURN NEW;
END
$$;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION materialized_view_refresh_schedule_changed() SET search_path = %I, pg_temp', current_schema());
    IF NOT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = to_regclass('materialized_view_refresh_schedule')
                     AND tgname = 'materialized_view_refresh_schedule_changed') THEN
        CREATE TRIGGER materialized_view_refresh_schedule_changed
            BEFORE INSERT OR UPDATE OR DELETE ON materialized_view_refresh_schedule
            FOR EACH ROW EXECUTE FUNCTION materialized_view_refresh_schedule_changed();
    END IF;
END
$$;
