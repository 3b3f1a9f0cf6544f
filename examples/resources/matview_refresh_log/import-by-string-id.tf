import {
  to = matview_refresh_log.this
  id = "public"
}
