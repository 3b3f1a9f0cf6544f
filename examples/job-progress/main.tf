terraform {
  required_version = ">= 1.8"

  required_providers {
    matview = {
      source = "matview/matview"
    }
  }
}

# Connects as the PG* environment variables say: PGHOST, PGPORT, PGDATABASE,
# PGUSER, PGPASSWORD.
provider "matview" {}

# The tables that record every refresh. The exporter's login gets just the
# rights that it needs on them.
resource "matview_refresh_log" "this" {
  writer_roles        = ["matview_exporter"]
  deletion_protection = var.deletion_protection
}

resource "matview_view" "job_progress" {
  name       = "job_progress"
  definition = file("${path.module}/job_progress.sql")
  owner      = "job_progress_owner"
  comment    = "Progress of each job, for the API and the dashboard"

  # Lets REFRESH work concurrently, and the API look a job up.
  indexes = {
    job_progress_job_id = {
      keys   = ["job_id"]
      unique = true
    }
  }

  # First, so that the population of the view is recorded too.
  depends_on = [matview_refresh_log.this]
}

resource "matview_refresh_schedule" "job_progress" {
  view          = matview_view.job_progress.id
  every         = var.refresh_every
  max_staleness = "5m"

  # Written to total_jobs and total_objects of the log with each refresh.
  totals = {
    jobs    = "count(*)"
    objects = "sum(total)"
  }

  depends_on = [matview_refresh_log.this]
}

data "matview_freshness" "job_progress" {
  view = matview_refresh_schedule.job_progress.id
}

# Every plan and apply says so when the view is stale. No outputs: those would
# change with every plan. The data source stands outside the check block, since
# one inside is read again at apply, which makes no plan empty.
check "job_progress_is_fresh" {
  assert {
    condition = !coalesce(data.matview_freshness.job_progress.is_stale, true)
    error_message = format("job_progress is stale (%s), last refreshed at %s.",
      coalesce(data.matview_freshness.job_progress.stale_reason, "unknown"),
      coalesce(data.matview_freshness.job_progress.last_refreshed_at, "no known time"),
    )
  }
}
