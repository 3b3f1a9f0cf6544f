terraform import matview_view.job_progress job_progress

# In another schema; a name that needs quotes in SQL needs them here.
terraform import matview_view.daily analytics.daily
terraform import matview_view.odd '"My Schema"."odd.name"'
