-- One row a job.
SELECT j.job_id,
       j.status,
       count(o.object_id) AS total,
       count(*) FILTER (WHERE o.state = 'succeeded') AS succeeded,
       count(*) FILTER (WHERE o.state = 'failed') AS failed,
       round(100.0 * count(*) FILTER (WHERE o.state <> 'pending') / greatest(count(o.object_id), 1), 1) AS progress_percent
FROM jobs AS j
LEFT JOIN job_objects AS o USING (job_id)
GROUP BY j.job_id, j.status
