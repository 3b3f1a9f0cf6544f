-- Attempts that have ended and that a destination has not confirmed yet. An attempt
-- enters in the transaction that ends it, so none is missed, however late that
-- transaction commits. The history's retention bounds this table too. The key
-- starts with attempt_id, which serves that cascade.
CREATE TABLE materialized_view_refresh_unpublished (
    attempt_id  BIGINT NOT NULL REFERENCES materialized_view_refresh_history ON DELETE CASCADE,
    destination TEXT NOT NULL,
    PRIMARY KEY (attempt_id, destination)
);

UPDATE matview_schema_version SET version = 8;
