-- What was published where. Of several exporters the one that claims it publishes
-- the next minute and then says so by moving minute on; one that dies first lets
-- another have it at claimed_until. Attempts up to seen_id are published, but for
-- those that were still running, or not yet visible, when that was noted.
CREATE TABLE materialized_view_refresh_publication (
    destination   TEXT PRIMARY KEY,
    minute        TIMESTAMP WITH TIME ZONE NOT NULL,
    seen_id       BIGINT NOT NULL,
    waiting       BIGINT[] NOT NULL DEFAULT '{}',
    claimed_by    TEXT,
    claimed_until TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT '-infinity'
);

UPDATE matview_schema_version SET version = 7;
