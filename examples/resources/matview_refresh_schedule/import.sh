# By the name of the view.
terraform import matview_refresh_schedule.job_progress job_progress
