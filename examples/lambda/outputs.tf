output "function_name" {
  description = "For aws lambda invoke, and for the log group /aws/lambda/NAME."
  value       = aws_lambda_function.refresh.function_name
}

output "function_arn" {
  description = "For other schedules and other callers."
  value       = aws_lambda_function.refresh.arn
}
