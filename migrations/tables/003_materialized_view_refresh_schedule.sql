-- What is to be refreshed and when. Terraform and people write it; the exporter
-- only reads it, but for longest_gap. No interval is longer than its programs
-- can count.
CREATE TABLE materialized_view_refresh_schedule (
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

UPDATE matview_schema_version SET version = 3;
