# What the function may do: be in the network, write its own log, log in to the
# database as one user.

locals {
  # Lambda, not the program, needs these to put the function into the subnets.
  network_actions = [
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
  ]

  function_arn = "arn:${data.aws_partition.current.partition}:lambda:${local.here}:function:${var.name}"

  statements = concat([
    {
      Sid      = "Network"
      Effect   = "Allow"
      Action   = local.network_actions
      Resource = "*" # the interfaces do not exist yet
    },
    {
      Sid       = "NetworkNotForTheProgram"
      Effect    = "Deny"
      Action    = local.network_actions
      Resource  = "*"
      Condition = { ArnEquals = { "lambda:SourceFunctionArn" = [local.function_arn] } }
    },
    {
      Sid      = "Log"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = "${aws_cloudwatch_log_group.refresh.arn}:*"
    },
    ], [for id in var.database_resource_id == null ? [] : [var.database_resource_id] : {
      Sid      = "LogIn"
      Effect   = "Allow"
      Action   = ["rds-db:connect"]
      Resource = "arn:${data.aws_partition.current.partition}:rds-db:${local.here}:dbuser:${id}/${var.database.user}"
  }])
}

resource "aws_iam_role" "refresh" {
  name        = var.name
  description = "The function that refreshes materialized views."

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "refresh" {
  name = var.name
  role = aws_iam_role.refresh.name
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = local.statements
  })
}
