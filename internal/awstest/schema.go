package awstest

import (
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

var (
	required = schema.StringAttribute{Required: true}
	optional = schema.StringAttribute{Optional: true}
	number   = schema.Int64Attribute{Optional: true}
	texts    = schema.SetAttribute{Optional: true, ElementType: types.StringType}
	list     = schema.ListAttribute{Optional: true, ElementType: types.StringType}
	textMap  = schema.MapAttribute{Optional: true, ElementType: types.StringType}
)

// kinds are the resource types, with the arguments that the modules use.
var kinds = []stored{
	{typeName: "_cloudwatch_metric_alarm", nameAttribute: "alarm_name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"alarm_name": required, "alarm_description": optional, "comparison_operator": required, "namespace": optional,
		"metric_name": optional, "statistic": optional, "treat_missing_data": optional, "unit": optional,
		"evaluation_periods": schema.Int64Attribute{Required: true}, "datapoints_to_alarm": number,
		"period": number, "threshold": schema.Float64Attribute{Optional: true}, "dimensions": textMap,
		"actions_enabled": schema.BoolAttribute{Optional: true}, "alarm_actions": texts, "ok_actions": texts, "insufficient_data_actions": texts,
	}},
	{typeName: "_cloudwatch_composite_alarm", nameAttribute: "alarm_name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"alarm_name": required, "alarm_rule": required, "alarm_description": optional, "alarm_actions": texts, "ok_actions": texts,
		"actions_enabled": schema.BoolAttribute{Optional: true},
	}, blocks: map[string]schema.Block{
		"actions_suppressor": schema.ListNestedBlock{NestedObject: schema.NestedBlockObject{Attributes: map[string]schema.Attribute{
			"alarm": required, "wait_period": schema.Int64Attribute{Required: true}, "extension_period": schema.Int64Attribute{Required: true},
		}}},
	}},
	{typeName: "_cloudwatch_dashboard", nameAttribute: "dashboard_name", computed: []string{"id", "dashboard_arn"}, attributes: map[string]schema.Attribute{
		"dashboard_name": required, "dashboard_body": required,
	}},
	{typeName: "_cloudwatch_log_group", nameAttribute: "name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"name": required, "retention_in_days": number,
	}},
	{typeName: "_cloudwatch_event_rule", nameAttribute: "name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"name": required, "description": optional, "schedule_expression": optional,
	}},
	{typeName: "_cloudwatch_event_target", nameAttribute: "rule", computed: []string{"id"}, attributes: map[string]schema.Attribute{
		"rule": required, "arn": required, "input": optional, "target_id": optional,
	}},
	{typeName: "_iam_role", nameAttribute: "name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"name": required, "description": optional, "assume_role_policy": required,
	}},
	{typeName: "_iam_role_policy", nameAttribute: "name", computed: []string{"id"}, attributes: map[string]schema.Attribute{
		"name": required, "role": required, "policy": required,
	}},
	{typeName: "_security_group", nameAttribute: "name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"name": required, "description": optional, "vpc_id": optional,
	}},
	{typeName: "_vpc_security_group_egress_rule", nameAttribute: "security_group_id", computed: []string{"id", "arn"}, attributes: securityGroupRule},
	{typeName: "_vpc_security_group_ingress_rule", nameAttribute: "security_group_id", computed: []string{"id", "arn"}, attributes: securityGroupRule},
	{typeName: "_lambda_function", nameAttribute: "function_name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"function_name": required, "description": optional, "role": required, "filename": optional, "source_code_hash": optional,
		"runtime": optional, "handler": optional, "architectures": list, "timeout": number, "memory_size": number,
	}, blocks: map[string]schema.Block{
		"environment": schema.ListNestedBlock{NestedObject: schema.NestedBlockObject{Attributes: map[string]schema.Attribute{
			"variables": textMap,
		}}},
		"vpc_config": schema.ListNestedBlock{NestedObject: schema.NestedBlockObject{Attributes: map[string]schema.Attribute{
			"subnet_ids": texts, "security_group_ids": texts,
		}}},
	}},
	{typeName: "_lambda_function_event_invoke_config", nameAttribute: "function_name", computed: []string{"id"}, attributes: map[string]schema.Attribute{
		"function_name": required, "maximum_event_age_in_seconds": number, "maximum_retry_attempts": number,
	}},
	{typeName: "_lambda_permission", nameAttribute: "function_name", computed: []string{"id"}, attributes: map[string]schema.Attribute{
		"function_name": required, "action": required, "principal": required, "source_arn": optional, "statement_id": optional,
	}},
}

var securityGroupRule = map[string]schema.Attribute{
	"security_group_id": required, "description": optional, "referenced_security_group_id": optional, "ip_protocol": required,
	"from_port": number, "to_port": number, "cidr_ipv4": optional,
}

var constants = []constant{
	{"_region", "name", "eu-central-1"},
	{"_partition", "partition", "aws"},
	{"_caller_identity", "account_id", "123456789012"},
}
