import {
  to = matview_view.job_progress
  identity = {
    name = "job_progress"
  }
}

# In another schema: all of it without quotes.
import {
  to = matview_view.odd
  identity = {
    schema = "My Schema"
    name   = "odd.name"
  }
}
