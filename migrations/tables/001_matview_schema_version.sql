-- The version of the tables: the number of the last of these files that was run.
-- Each is run once, in order, and never again; see CONTRIBUTING.md.
CREATE TABLE IF NOT EXISTS matview_schema_version (
    version INTEGER NOT NULL
);

INSERT INTO matview_schema_version SELECT 1 WHERE NOT EXISTS (SELECT FROM matview_schema_version);
