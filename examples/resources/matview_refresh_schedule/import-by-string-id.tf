import {
  to = matview_refresh_schedule.job_progress
  id = "job_progress"
}
