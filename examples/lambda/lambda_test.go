package lambda_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/awstest"
)

// arguments returns a call of the module with the required arguments and more.
func arguments(t *testing.T, more string) string {
	t.Helper()
	zip := filepath.Join(t.TempDir(), "matview-exporter.zip")
	if err := os.WriteFile(zip, []byte("a zip"), 0o600); err != nil {
		t.Fatal(err)
	}
	return awstest.Module(t, `
  filename                   = "`+filepath.ToSlash(zip)+`"
  vpc_id                     = "vpc-1"
  subnet_ids                 = ["subnet-a", "subnet-b"]
  database_security_group_id = "sg-database"
  database                   = { host = "db.example.eu-central-1.rds.amazonaws.com", name = "app", user = "matview_exporter" }
`+more)
}

type statement struct {
	Sid, Effect string
	Action      []string
	Resource    string
	Condition   map[string]any
}

func statements(t *testing.T, resources map[string]map[string]any) map[string]statement {
	t.Helper()
	var policy struct{ Statement []statement }
	text, _ := resources["aws_iam_role_policy.refresh"]["policy"].(string)
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	all := map[string]statement{}
	for _, s := range policy.Statement {
		all[s.Sid] = s
	}
	return all
}

func environment(t *testing.T, resources map[string]map[string]any) map[string]any {
	t.Helper()
	blocks, _ := resources["aws_lambda_function.refresh"]["environment"].([]any)
	if len(blocks) != 1 {
		t.Fatalf("%v", resources["aws_lambda_function.refresh"])
	}
	return blocks[0].(map[string]any)["variables"].(map[string]any)
}

func TestAccModule(t *testing.T) {
	got, output, err := awstest.Apply(t, arguments(t, `
  database_resource_id = "db-ABC"
  dimensions           = { Database = "app", Stage = "test" }`))
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	allowed := statements(t, got)
	if login := allowed["LogIn"]; login.Resource != "arn:aws:rds-db:eu-central-1:123456789012:dbuser:db-ABC/matview_exporter" || !reflect.DeepEqual(login.Action, []string{"rds-db:connect"}) {
		t.Errorf("%+v", login)
	}
	for sid, s := range allowed {
		if s.Effect == "Allow" && sid != "Network" && !strings.HasPrefix(s.Resource, "arn:") {
			t.Errorf("%s is allowed on %s", sid, s.Resource)
		}
	}
	if deny := allowed["NetworkNotForTheProgram"]; deny.Effect != "Deny" || !reflect.DeepEqual(deny.Action, allowed["Network"].Action) {
		t.Errorf("%+v", deny)
	}
	variables := environment(t, got)
	for name, want := range map[string]any{
		"PGHOST": "db.example.eu-central-1.rds.amazonaws.com", "PGPORT": "5432", "PGDATABASE": "app", "PGUSER": "matview_exporter", "PGPASSWORD": nil,
		"PGSSLMODE": "verify-full", "MATVIEW_DATABASE_AWS_RDS_IAM_AUTH": "true", "MATVIEW_DATABASE_SCHEMA": "public",
		"MATVIEW_CLOUDWATCH_NAMESPACE": "S3Scanner", "MATVIEW_CLOUDWATCH_DIMENSION": "Database=app\nStage=test",
	} {
		if variables[name] != want {
			t.Errorf("%s is %v, want %v", name, variables[name], want)
		}
	}
	for _, want := range []struct {
		address, attribute string
		value              any
	}{
		{"aws_lambda_function.refresh", "runtime", "provided.al2023"},
		{"aws_lambda_function.refresh", "architectures", []any{"arm64"}},
		{"aws_cloudwatch_event_rule.schedule", "schedule_expression", "rate(5 minutes)"},
		{"aws_cloudwatch_event_target.schedule", "input", "{}"},
		{"aws_lambda_function_event_invoke_config.refresh", "maximum_retry_attempts", 0.0},
		{"aws_vpc_security_group_egress_rule.database", "referenced_security_group_id", "sg-database"},
		{"aws_vpc_security_group_ingress_rule.database", "security_group_id", "sg-database"},
	} {
		if value := got[want.address][want.attribute]; !reflect.DeepEqual(value, want.value) {
			t.Errorf("%s: %s is %v, want %v", want.address, want.attribute, value, want.value)
		}
	}
}

func TestAccPassword(t *testing.T) {
	got, output, err := awstest.Apply(t, arguments(t, `
  password  = "secret"
  namespace = null
  event     = { views = ["job_progress"] }`))
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if strings.Contains(output, "secret\"") {
		t.Error("Terraform shows the password")
	}
	variables := environment(t, got)
	if _, iam := variables["MATVIEW_DATABASE_AWS_RDS_IAM_AUTH"]; iam || variables["PGPASSWORD"] != "secret" || variables["MATVIEW_CLOUDWATCH_NAMESPACE"] != nil {
		t.Errorf("%v", variables)
	}
	if _, login := statements(t, got)["LogIn"]; login {
		t.Error("the policy allows rds-db:connect although there is a password")
	}
	if input := got["aws_cloudwatch_event_target.schedule"]["input"]; input != `{"views":["job_progress"]}` {
		t.Errorf("%v", input)
	}
}

func TestAccLogin(t *testing.T) {
	for _, login := range []string{"", "password = \"p\"\n database_resource_id = \"db-ABC\""} {
		_, output, err := awstest.Apply(t, arguments(t, login))
		if err == nil || !strings.Contains(output, "How does the function log in?") {
			t.Errorf("%q: %v\n%s", login, err, output)
		}
	}
}

func TestAccFormat(t *testing.T) { awstest.Format(t) }
