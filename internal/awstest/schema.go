package awstest

import (
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

var (
	required = schema.StringAttribute{Required: true}
	optional = schema.StringAttribute{Optional: true}
	computed = schema.StringAttribute{Computed: true}
	number   = schema.Int64Attribute{Optional: true}
	texts    = schema.SetAttribute{Optional: true, ElementType: types.StringType}
	list     = schema.ListAttribute{Optional: true, ElementType: types.StringType}
	textMap  = schema.MapAttribute{Optional: true, ElementType: types.StringType}
)

// kinds are the resources, with what the modules use of their arguments.
var kinds = []stored{
	{name: "_cloudwatch_metric_alarm", named: "alarm_name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"alarm_name": required, "alarm_description": optional, "comparison_operator": required, "namespace": optional,
		"metric_name": optional, "statistic": optional, "treat_missing_data": optional, "unit": optional,
		"evaluation_periods": schema.Int64Attribute{Required: true}, "datapoints_to_alarm": number,
		"period": number, "threshold": schema.Float64Attribute{Optional: true}, "dimensions": textMap,
		"actions_enabled": schema.BoolAttribute{Optional: true}, "alarm_actions": texts, "ok_actions": texts, "insufficient_data_actions": texts,
		"id": computed, "arn": computed,
	}},
	{name: "_cloudwatch_composite_alarm", named: "alarm_name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"alarm_name": required, "alarm_rule": required, "alarm_description": optional, "alarm_actions": texts, "ok_actions": texts,
		"actions_enabled": schema.BoolAttribute{Optional: true}, "id": computed, "arn": computed,
	}, blocks: map[string]schema.Block{
		"actions_suppressor": schema.ListNestedBlock{NestedObject: schema.NestedBlockObject{Attributes: map[string]schema.Attribute{
			"alarm": required, "wait_period": schema.Int64Attribute{Required: true}, "extension_period": schema.Int64Attribute{Required: true},
		}}},
	}},
	{name: "_cloudwatch_dashboard", named: "dashboard_name", computed: []string{"id", "dashboard_arn"}, attributes: map[string]schema.Attribute{
		"dashboard_name": required, "dashboard_body": required, "id": computed, "dashboard_arn": computed,
	}},
	{name: "_cloudwatch_log_group", named: "name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"name": required, "retention_in_days": number, "id": computed, "arn": computed,
	}},
	{name: "_cloudwatch_event_rule", named: "name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"name": required, "description": optional, "schedule_expression": optional, "id": computed, "arn": computed,
	}},
	{name: "_cloudwatch_event_target", named: "rule", computed: []string{"id"}, attributes: map[string]schema.Attribute{
		"rule": required, "arn": required, "input": optional, "target_id": optional, "id": computed,
	}},
	{name: "_iam_role", named: "name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"name": required, "description": optional, "assume_role_policy": required, "id": computed, "arn": computed,
	}},
	{name: "_iam_role_policy", named: "name", computed: []string{"id"}, attributes: map[string]schema.Attribute{
		"name": required, "role": required, "policy": required, "id": computed,
	}},
	{name: "_security_group", named: "name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"name": required, "description": optional, "vpc_id": optional, "id": computed, "arn": computed,
	}},
	{name: "_vpc_security_group_egress_rule", named: "security_group_id", computed: []string{"id", "arn"}, attributes: securityGroupRule},
	{name: "_vpc_security_group_ingress_rule", named: "security_group_id", computed: []string{"id", "arn"}, attributes: securityGroupRule},
	{name: "_lambda_function", named: "function_name", computed: []string{"id", "arn"}, attributes: map[string]schema.Attribute{
		"function_name": required, "description": optional, "role": required, "filename": optional, "source_code_hash": optional,
		"runtime": optional, "handler": optional, "architectures": list, "timeout": number, "memory_size": number, "id": computed, "arn": computed,
	}, blocks: map[string]schema.Block{
		"environment": schema.ListNestedBlock{NestedObject: schema.NestedBlockObject{Attributes: map[string]schema.Attribute{
			"variables": schema.MapAttribute{Optional: true, Sensitive: false, ElementType: types.StringType},
		}}},
		"vpc_config": schema.ListNestedBlock{NestedObject: schema.NestedBlockObject{Attributes: map[string]schema.Attribute{
			"subnet_ids":         schema.SetAttribute{Required: true, ElementType: types.StringType},
			"security_group_ids": schema.SetAttribute{Required: true, ElementType: types.StringType},
		}}},
	}},
	{name: "_lambda_function_event_invoke_config", named: "function_name", computed: []string{"id"}, attributes: map[string]schema.Attribute{
		"function_name": required, "maximum_event_age_in_seconds": number, "maximum_retry_attempts": number, "id": computed,
	}},
	{name: "_lambda_permission", named: "function_name", computed: []string{"id"}, attributes: map[string]schema.Attribute{
		"function_name": required, "action": required, "principal": required, "source_arn": optional, "statement_id": optional, "id": computed,
	}},
}

var securityGroupRule = map[string]schema.Attribute{
	"security_group_id": required, "description": optional, "referenced_security_group_id": optional, "ip_protocol": required,
	"from_port": number, "to_port": number, "cidr_ipv4": optional, "id": computed, "arn": computed,
}

var facts = []fact{
	{"_region", map[string]string{"name": "eu-central-1"}},
	{"_partition", map[string]string{"partition": "aws"}},
	{"_caller_identity", map[string]string{"account_id": "123456789012"}},
}
