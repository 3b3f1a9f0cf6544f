resource "matview_refresh_schedule" "job_progress" {
  view          = matview_view.job_progress.id
  every         = "1m"
  max_staleness = "5m"

  totals = {
    jobs    = "count(*)"
    objects = "sum(total)"
  }

  depends_on = [matview_refresh_log.this]
}

# On weekdays at six in the morning of Berlin, with memory to spare.
resource "matview_refresh_schedule" "daily_revenue" {
  view      = "analytics.daily_revenue"
  cron      = "0 6 * * mon-fri"
  time_zone = "Europe/Berlin"
  jitter    = "5m"

  settings = {
    work_mem = "256MB"
  }

  depends_on = [matview_refresh_log.this]
}
