-- 150 jobs and 1,250,000 objects, as in the document that this example is from.
INSERT INTO jobs (job_id, status)
SELECT format('job-%s', to_char(j, 'FM000')), CASE WHEN j % 5 = 0 THEN 'completed' ELSE 'processing' END
FROM generate_series(1, 150) AS j;

INSERT INTO job_objects (job_id, object_id, state)
SELECT format('job-%s', to_char(1 + o % 150, 'FM000')), o,
       CASE WHEN o % 100 = 7 THEN 'failed' WHEN o % 2 = 0 OR (1 + o % 150) % 5 = 0 THEN 'succeeded' ELSE 'pending' END
FROM generate_series(1, 1250000) AS o;

ANALYZE jobs, job_objects;
