-- What holds for the whole installation: a single row.
CREATE TABLE materialized_view_refresh_settings (
    only_row          BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    history_retention INTERVAL NOT NULL DEFAULT INTERVAL '720 hours' CHECK (history_retention > INTERVAL '0' AND history_retention < INTERVAL '200 years'),
    -- Whether an event trigger records refreshes by others.
    track_external_refreshes BOOLEAN NOT NULL DEFAULT false
);

UPDATE matview_schema_version SET version = 6;
