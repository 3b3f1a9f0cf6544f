output "exporter_alarm_arn" {
  description = "The alarm of a dead exporter or database."
  value       = aws_cloudwatch_composite_alarm.exporter.arn
}

output "view_alarm_arns" {
  description = "The composites of all views."
  value       = [for c in aws_cloudwatch_composite_alarm.views : c.arn]
}
