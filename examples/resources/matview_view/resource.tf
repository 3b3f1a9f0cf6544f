resource "matview_view" "job_progress" {
  name    = "job_progress"
  comment = "Progress of each job"

  definition = <<-SQL
    SELECT j.job_id,
           j.status,
           count(o.object_id) AS total,
           count(*) FILTER (WHERE o.state = 'succeeded') AS succeeded
    FROM jobs AS j
    LEFT JOIN job_objects AS o USING (job_id)
    GROUP BY j.job_id, j.status
  SQL

  indexes = {
    # A unique index on plain columns lets refreshes run without blocking readers.
    job_progress_job_id = {
      keys   = ["job_id"]
      unique = true
    }
    job_progress_status = {
      keys  = ["status", "total DESC"]
      where = "status <> 'completed'"
    }
  }
}
