terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

provider "matview" {}

resource "matview_refresh_log" "log" {
  history_retention   = "240h"
  reader_roles        = ["pg_monitor"]
  deletion_protection = false
}

resource "matview_view" "jobs" {
  name       = "job_progress"
  definition = <<-SQL
    SELECT id AS job_id, name, status
    FROM jobs -- all of them
    WHERE status <> 'deleted';
  SQL
  comment    = "one row a job"
  indexes = {
    job_progress_id     = { keys = ["job_id"], unique = true }
    job_progress_failed = { keys = ["lower(name)"], where = "status = 'failed'", include = ["job_id"] }
  }
  depends_on = [matview_refresh_log.log]
}

resource "matview_view" "states" {
  name       = "states"
  definition = "SELECT status, count(*) AS jobs FROM ${matview_view.jobs.id} GROUP BY status"
  timeouts   = { create = "5m" }
}

resource "matview_refresh_schedule" "jobs" {
  view      = matview_view.jobs.id
  cron      = "*/5 6-22 * * mon-fri"
  time_zone = "Europe/Berlin"
  method    = "concurrently"
  jitter    = "20s"
  settings  = { work_mem = "64MB" }
  totals    = { jobs = "count(*)" }
}
