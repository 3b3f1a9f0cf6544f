# matview-exporter as a function of AWS Lambda, which refreshes every few minutes
# what is due and publishes how old every view is.

data "aws_partition" "current" {}
data "aws_region" "current" {}
data "aws_caller_identity" "current" {}

locals {
  here = "${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}"

  # The function writes its metrics to its log (Embedded Metric Format), so that
  # it calls no service, and its subnets need no endpoint of one.
  publishing = var.namespace == null ? {} : merge(
    { MATVIEW_CLOUDWATCH_NAMESPACE = var.namespace },
    length(var.dimensions) == 0 ? {} : {
      # One a line.
      MATVIEW_CLOUDWATCH_DIMENSION = join("\n", [for name, value in var.dimensions : "${name}=${value}"])
    },
  )

  login = var.database_resource_id == null ? { PGPASSWORD = var.password } : { MATVIEW_DATABASE_AWS_RDS_IAM_AUTH = "true" }
}

resource "aws_lambda_function" "refresh" {
  function_name = var.name
  description   = "Refreshes PostgreSQL materialized views and records it."
  role          = aws_iam_role.refresh.arn

  filename         = var.filename
  source_code_hash = filebase64sha256(var.filename)
  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.architecture]
  timeout          = var.timeout
  memory_size      = var.memory_size

  environment {
    variables = merge({
      PGHOST                  = var.database.host
      PGPORT                  = tostring(var.database.port)
      PGDATABASE              = var.database.name
      PGUSER                  = var.database.user
      PGSSLMODE               = "verify-full"
      PGSSLROOTCERT           = "/var/task/global-bundle.pem"
      PGCONNECT_TIMEOUT       = "5"
      MATVIEW_DATABASE_SCHEMA = var.database.schema
      MATVIEW_LOG_FORMAT      = "json"
    }, local.login, local.publishing, var.environment)
  }

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = [aws_security_group.refresh.id]
  }

  lifecycle {
    precondition {
      condition     = (var.database_resource_id == null) != (var.password == null)
      error_message = "How does the function log in? Give either database_resource_id, for IAM tokens, or password."
    }
  }

  # Its first invocation must be able to write its log.
  depends_on = [aws_cloudwatch_log_group.refresh, aws_iam_role_policy.refresh]
}

resource "aws_cloudwatch_log_group" "refresh" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
}

# Schedule

resource "aws_cloudwatch_event_rule" "schedule" {
  name                = var.name
  description         = "Refreshes what is due."
  schedule_expression = var.schedule
}

resource "aws_cloudwatch_event_target" "schedule" {
  rule      = aws_cloudwatch_event_rule.schedule.name
  target_id = var.name
  arn       = aws_lambda_function.refresh.arn
  input     = jsonencode({ for key, value in var.event : key => value if value != null })
}

resource "aws_lambda_permission" "schedule" {
  statement_id  = "schedule"
  function_name = aws_lambda_function.refresh.function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.schedule.arn
}

# The database remembers what is due and when a failed refresh is tried again;
# Lambda need not. Two invocations at once share the work.
resource "aws_lambda_function_event_invoke_config" "refresh" {
  function_name                = aws_lambda_function.refresh.function_name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 300
}

# Network: out to the database and nowhere else, and in from nowhere.

resource "aws_security_group" "refresh" {
  name        = var.name
  description = "The function that refreshes materialized views."
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "database" {
  security_group_id            = aws_security_group.refresh.id
  description                  = "PostgreSQL"
  referenced_security_group_id = var.database_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = var.database.port
  to_port                      = var.database.port
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = var.database_security_group_id
  description                  = var.name
  referenced_security_group_id = aws_security_group.refresh.id
  ip_protocol                  = "tcp"
  from_port                    = var.database.port
  to_port                      = var.database.port
}
