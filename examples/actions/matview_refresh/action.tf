# By hand: terraform apply -invoke=action.matview_refresh.job_progress
action "matview_refresh" "job_progress" {
  config {
    view = "job_progress"
  }
}

# After each change of what the view reads.
resource "terraform_data" "backfill" {
  input = filesha256("${path.module}/backfill.sql")

  lifecycle {
    action_trigger {
      events  = [after_create, after_update]
      actions = [action.matview_refresh.job_progress]
    }
  }
}
