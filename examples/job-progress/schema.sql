-- The application's own tables: jobs, and the objects that each one works on.
CREATE TABLE IF NOT EXISTS jobs (
    job_id     TEXT PRIMARY KEY,
    status     TEXT NOT NULL DEFAULT 'processing',
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS job_objects (
    job_id    TEXT NOT NULL REFERENCES jobs,
    object_id BIGINT NOT NULL,
    state     TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'succeeded', 'failed')),
    PRIMARY KEY (job_id, object_id)
);
