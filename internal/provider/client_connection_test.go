package provider

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-testing/config"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/tfversion"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func TestProviderConfigOfEachArgument(t *testing.T) {
	text := types.StringValue
	model := providerModel{
		Host: text("h"), Port: types.Int64Value(5433), Database: text("db"), Username: text("me"), Password: text("p"), URL: text("postgres://u"),
		SSLMode: text("verify-full"), SSLRootCert: text("ca"), ClientCert: &clientCertModel{Cert: text("cert"), Key: text("key")},
		ConnectTimeout: types.Int64Value(5), MaxConnections: types.Int64Value(3), PgBouncer: types.BoolValue(true),
		IAMAuth: types.BoolValue(true), IAMRegion: text("eu-west-1"), IAMProfile: text("profile"), IAMRoleARN: text("arn"),
	}
	want := postgres.Config{
		Host: "h", Port: 5433, Database: "db", Username: "me", Password: "p", URL: "postgres://u",
		SSLMode: "verify-full", SSLRootCert: "ca", SSLCert: "cert", SSLKey: "key",
		ConnectTimeout: 5e9, MaxConnections: 3, PgBouncer: true, ApplicationName: applicationName,
		IAM: &postgres.IAM{Region: "eu-west-1", Profile: "profile", RoleARN: "arn"},
	}
	if diff := cmp.Diff(want, model.config()); diff != "" {
		t.Error(diff)
	}
	model.IAMAuth = types.BoolValue(false)
	if model.config().IAM != nil {
		t.Error("IAM although aws_rds_iam_auth is false")
	}
}

// An ephemeral password is in no plan and in no state.
func TestAccProviderEphemeralPassword(t *testing.T) {
	db := postgrestest.New(t)
	user, password := db.Role(t, "")
	db.Exec(t, "CREATE MATERIALIZED VIEW v AS SELECT 1 AS x")
	block := strings.Replace(providerConfigFor(db.URLFor(user, password), ""), `"`+password+`"`, "var.password", 1)
	if strings.Contains(block, password) {
		t.Fatalf("the password is in %s", block)
	}
	resource.Test(t, resource.TestCase{
		TerraformVersionChecks:   []tfversion.TerraformVersionCheck{tfversion.SkipBelow(tfversion.Version1_10_0)},
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{{
			Config: `
variable "password" {
  type      = string
  ephemeral = true
}
` + block + `
resource "matview_view" "v" {
  schema     = "public"
  name       = "w"
  definition = "SELECT 1 AS x"
}`,
			ConfigVariables: config.Variables{"password": config.StringVariable(password)},
			PreConfig:       func() { db.Exec(t, `GRANT CREATE ON SCHEMA public TO PUBLIC`) },
		}},
	})
}

// Of many resources not each waits for a server that gives no answer.
func TestSilentServerIsWaitedForOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var asked atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	c := &client{config: postgres.Config{URL: fmt.Sprintf("postgres://me@%s/db?sslmode=disable", l.Addr()), ConnectTimeout: time.Second}}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := c.open(t.Context()); err == nil || !strings.Contains(postgres.Message(err), "no answer in time") {
				t.Errorf("got %v", err)
			}
		})
	}
	all.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// A server that refuses is asked again: it may be up the next moment, and is then
// believed to be.
func TestRefusalIsNotRemembered(t *testing.T) {
	db := postgrestest.New(t)
	server, err := pgx.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(t, net.JoinHostPort(server.Host, strconv.Itoa(int(server.Port))))
	c := &client{config: postgres.Config{URL: db.URL(), Host: "127.0.0.1", Port: g.port}}
	if _, err := c.open(t.Context()); !postgres.Unreachable(err) {
		t.Fatalf("got %v", err)
	}
	g.CheckPlan(t.Context(), plancheck.CheckPlanRequest{}, nil)
	for deadline := time.Now().Add(time.Minute); ; {
		pool, err := c.open(t.Context())
		if err == nil {
			pool.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
