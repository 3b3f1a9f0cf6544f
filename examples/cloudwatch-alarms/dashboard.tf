data "aws_region" "current" {}

locals {
  # One search shows every view, also those that come later.
  of_exporter = join(",", concat([var.namespace], sort(keys(var.dimensions))))
  of_views    = join(",", concat([var.namespace], sort(concat(keys(var.dimensions), ["ViewName"]))))
  where       = join(" ", [for name in sort(keys(var.dimensions)) : "${name}=\"${var.dimensions[name]}\""])

  charts = {
    "Age of the data (s)"              = { schema = local.of_views, metric = "MatViewStaleness", statistic = "Maximum" }
    "Duration of refreshes (ms)"       = { schema = local.of_views, metric = "MatViewRefreshDuration", statistic = "Average" }
    "Refreshes that failed"            = { schema = local.of_views, metric = "MatViewRefreshFailure", statistic = "Sum" }
    "Heartbeat (1: with its database)" = { schema = local.of_exporter, metric = "MatViewExporterHeartbeat", statistic = "Maximum" }
  }
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name_prefix
  dashboard_body = jsonencode({
    widgets = concat([{
      type   = "alarm"
      x      = 0
      y      = 0
      width  = 24
      height = 3
      properties = {
        title  = "Materialized views"
        alarms = concat([aws_cloudwatch_composite_alarm.exporter.arn], [for c in aws_cloudwatch_composite_alarm.views : c.arn])
      }
      }], [for i, title in sort(keys(local.charts)) : {
      type   = "metric"
      x      = i % 2 * 12
      y      = 3 + floor(i / 2) * 6
      width  = 12
      height = 6
      properties = {
        title  = title
        region = data.aws_region.current.name
        view   = "timeSeries"
        period = local.period
        metrics = [[{
          expression = "SEARCH('{${local.charts[title].schema}} MetricName=\"${local.charts[title].metric}\" ${local.where}', '${local.charts[title].statistic}', ${local.period})"
        }]]
      }
    }])
  })
}
