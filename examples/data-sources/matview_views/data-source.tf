data "matview_views" "stale" {
  only_stale = true
}

check "fresh" {
  assert {
    condition     = length(data.matview_views.stale.views) == 0
    error_message = "Stale: ${join(", ", [for v in data.matview_views.stale.views : "${v.view_name} (${v.stale_reason})"])}."
  }
}
