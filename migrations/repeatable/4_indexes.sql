-- Indexes are made where they are missing. CREATE INDEX IF NOT EXISTS would lock the
-- table even if the index exists, and so wait for every refresh that has not committed.
DO $$
BEGIN
    IF to_regclass('materialized_view_refresh_state_due') IS NULL THEN
        CREATE INDEX materialized_view_refresh_state_due ON materialized_view_refresh_state (next_run_at);
    END IF;
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
