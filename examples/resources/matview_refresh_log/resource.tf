resource "matview_refresh_log" "this" {
  # The login that matview-exporter runs under.
  writer_roles = ["matview_exporter"]

  # Those who may ask how fresh a view is.
  reader_roles = ["grafana", "api"]

  history_retention = "2160h" # 90 days
}
