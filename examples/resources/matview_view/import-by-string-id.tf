import {
  to = matview_view.job_progress
  id = "job_progress"
}
