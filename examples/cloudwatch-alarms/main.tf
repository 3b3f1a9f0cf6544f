# Alarms on what matview-exporter publishes: for each view that its data is too
# old and that its refreshes fail, and once for all that the exporter, or its
# database, is dead. Until the first heartbeat nobody is paged.

locals {
  seconds_of = { h = 3600, m = 60, s = 1, ms = 0.001 }

  # Durations as in 1h30m, by the keys of schedules; null where there is none.
  durations = {
    for key, s in var.schedules : key => {
      for name in ["every", "target_staleness", "max_staleness"] : name => s[name] == null ? null : sum(concat([0], [
        for part in regexall("([0-9.]+)(ms|h|m|s)", s[name]) : tonumber(part[0]) * local.seconds_of[part[1]]
      ]))
    }
  }

  # As in the freshness view: twice the gap, unless the schedule says more. A
  # refresh may take a while, which the exporter adds and Terraform cannot know.
  thresholds = {
    for key, d in local.durations : key => try(coalesce(
      lookup(var.max_staleness_seconds, key, null),
      d.max_staleness,
      d.every == null ? null : 2 * d.every + 60,
      d.target_staleness == null ? null : 2 * d.target_staleness + 60,
    ), null)
  }

  # As the exporter names views in CloudWatch, which takes ASCII only: by their
  # canonical names, which are the ids of the schedules, percent-encoded.
  view_names = {
    for key, s in var.schedules : key => join("", [
      for c in split("", s.id == null ? s.view : s.id) : can(regex("^[ -$&-~]$", c)) ? c : urlencode(c)
    ])
  }

  period = var.publish_minutes * 60

  # 40 views are 80 alarms and less than 10,240 characters, CloudWatch's limits
  # of one composite being 100 and that.
  view_chunks = { for i, keys in chunklist(sort(keys(var.schedules)), 40) : tostring(i) => keys }
}

resource "aws_cloudwatch_metric_alarm" "staleness" {
  for_each = var.schedules

  alarm_name        = "${var.name_prefix}-${each.key}-stale"
  alarm_description = "The data of materialized view ${each.value.view} is older than its limit."

  namespace   = var.namespace
  metric_name = "MatViewStaleness"
  dimensions  = merge(var.dimensions, { ViewName = local.view_names[each.key] })
  statistic   = "Maximum"

  # Short periods: CloudWatch looks at a period once it is over, so that one long
  # period fires as late as it is long.
  period              = local.period
  evaluation_periods  = 2
  datapoints_to_alarm = 2
  comparison_operator = "GreaterThanThreshold"
  threshold           = local.thresholds[each.key]

  # No data is the exporter's alarm, once and not for each view.
  treat_missing_data = "notBreaching"

  # A paused schedule stays silent. Terraform may not know yet whether it is.
  actions_enabled = coalesce(each.value.enabled, true)
  alarm_actions   = var.alarm_actions
  ok_actions      = var.alarm_actions

  lifecycle {
    precondition {
      condition     = local.thresholds[each.key] != null
      error_message = "How old may ${each.key} be? Give its schedule a max_staleness, or set max_staleness_seconds[\"${each.key}\"]."
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "failure" {
  for_each = var.schedules

  alarm_name        = "${var.name_prefix}-${each.key}-failing"
  alarm_description = "Refreshes of materialized view ${each.value.view} fail."

  namespace   = var.namespace
  metric_name = "MatViewRefreshFailure"
  dimensions  = merge(var.dimensions, { ViewName = local.view_names[each.key] })
  statistic   = "Sum"

  # Two of three, so that one failure that the next attempt mends pages nobody.
  # Of a view that fails there is nothing between its attempts, which come to be
  # 15 minutes apart, and a 0 only when one has succeeded: until then the alarm
  # stays as it is.
  period              = max(local.period, 300)
  evaluation_periods  = 3
  datapoints_to_alarm = 2
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "ignore"

  actions_enabled = coalesce(each.value.enabled, true)
  alarm_actions   = var.alarm_actions
  ok_actions      = var.alarm_actions
}

# 1 while the exporter reads its database, 0 while it cannot, nothing when it is
# dead. It has no actions: at a first deployment there is no heartbeat yet.
resource "aws_cloudwatch_metric_alarm" "heartbeat" {
  alarm_name        = "${var.name_prefix}-heartbeat"
  alarm_description = "matview-exporter is dead, or cannot read its database."

  namespace           = var.namespace
  metric_name         = "MatViewExporterHeartbeat"
  dimensions          = var.dimensions
  statistic           = "Maximum"
  period              = local.period
  evaluation_periods  = 3
  datapoints_to_alarm = 3
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
}

# Never fires. It leaves INSUFFICIENT_DATA with the first heartbeat and, since
# missing data is ignored, does not go back.
resource "aws_cloudwatch_metric_alarm" "heartbeat_seen" {
  alarm_name        = "${var.name_prefix}-heartbeat-seen"
  alarm_description = "Whether there ever was a heartbeat of matview-exporter."

  namespace           = var.namespace
  metric_name         = "MatViewExporterHeartbeat"
  dimensions          = var.dimensions
  statistic           = "SampleCount"
  period              = local.period
  evaluation_periods  = 1
  comparison_operator = "LessThanThreshold"
  threshold           = 0
  treat_missing_data  = "ignore"
}

resource "aws_cloudwatch_composite_alarm" "exporter" {
  alarm_name        = "${var.name_prefix}-exporter"
  alarm_description = "matview-exporter was alive and is dead, or cannot read its database: nothing is refreshed."
  alarm_rule        = "ALARM(\"${aws_cloudwatch_metric_alarm.heartbeat.alarm_name}\") AND NOT INSUFFICIENT_DATA(\"${aws_cloudwatch_metric_alarm.heartbeat_seen.alarm_name}\")"
  alarm_actions     = var.alarm_actions
  ok_actions        = var.alarm_actions

  # With the first heartbeat both alarms change, in an order that nobody promises.
  # This waits that out: heartbeat_seen never fires, and so suppresses nothing.
  actions_suppressor {
    alarm            = aws_cloudwatch_metric_alarm.heartbeat_seen.alarm_name
    wait_period      = 120
    extension_period = 0
  }
}

# One light for all views, for dashboards and for other composites. Paused ones do
# not count.
resource "aws_cloudwatch_composite_alarm" "views" {
  for_each = local.view_chunks

  alarm_name        = "${var.name_prefix}-views-${each.key}"
  alarm_description = "Some materialized view is stale or failing."
  alarm_rule = coalesce(join(" OR ", flatten([for key in each.value : [
    "ALARM(\"${aws_cloudwatch_metric_alarm.staleness[key].alarm_name}\")",
    "ALARM(\"${aws_cloudwatch_metric_alarm.failure[key].alarm_name}\")",
  ] if coalesce(var.schedules[key].enabled, true)])), "FALSE")
}
