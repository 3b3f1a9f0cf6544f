-- Where freshness is published. Of the replicas that publish to a destination, the
-- one that claims the next minute publishes it, and confirms that by advancing
-- minute. If it dies first, another replica takes over at claimed_until.
CREATE TABLE materialized_view_refresh_publication (
    destination   TEXT PRIMARY KEY,
    minute        TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT '-infinity',
    claimed_by    TEXT,
    claimed_until TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp()
);

UPDATE matview_schema_version SET version = 7;
