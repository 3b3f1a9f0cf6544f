# terraform query -generate-config-out=views.tf
list "matview_view" "analytics" {
  provider = matview

  config {
    schema = "analytics"
  }
}
