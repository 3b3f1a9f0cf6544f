data "matview_freshness" "job_progress" {
  view = "job_progress"
}

# Every plan says so when the view is stale. (A data source inside the check
# block would be read again at apply, which makes no plan empty.)
check "job_progress_is_fresh" {
  assert {
    condition     = !coalesce(data.matview_freshness.job_progress.is_stale, true)
    error_message = "job_progress is stale: ${coalesce(data.matview_freshness.job_progress.stale_reason, "nobody asked about it")}."
  }
}
