package provider

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// applied is a resource as Terraform keeps it between one apply and the next.
type applied struct {
	state   *tfprotov6.DynamicValue
	private []byte
}

// attributes are the type of a resource's state.
func attributesOf(t *testing.T, s *server, typeName string) (tftypes.Object, map[string]bool) {
	t.Helper()
	schemas, err := s.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	schema := schemas.ResourceSchemas[typeName]
	typ, ok := schema.ValueType().(tftypes.Object)
	if !ok {
		t.Fatalf("the state of %s is no object", typeName)
	}
	computed := map[string]bool{}
	for _, a := range schema.Block.Attributes {
		computed[a.Name] = a.Computed
	}
	return typ, computed
}

// planChange plans to bring a resource to a configuration, as Terraform does; nil
// destroys it.
func planChange(t *testing.T, s *server, typeName string, before applied, config map[string]any) (apply func() (applied, error)) {
	t.Helper()
	typ, computed := attributesOf(t, s, typeName)
	value := func(v tftypes.Value) *tfprotov6.DynamicValue {
		d, err := tfprotov6.NewDynamicValue(typ, v)
		if err != nil {
			t.Fatal(err)
		}
		return &d
	}
	null := tftypes.NewValue(typ, nil)
	prior := null
	if before.state == nil {
		before.state = value(null)
	} else {
		var err error
		if prior, err = before.state.Unmarshal(typ); err != nil {
			t.Fatal(err)
		}
	}
	was := map[string]tftypes.Value{}
	if !prior.IsNull() {
		if err := prior.As(&was); err != nil {
			t.Fatal(err)
		}
	}
	configured, proposed := null, null
	if config != nil {
		given, kept := map[string]tftypes.Value{}, map[string]tftypes.Value{}
		for name, attribute := range typ.AttributeTypes {
			given[name] = tftypes.NewValue(attribute, config[name])
			kept[name] = given[name]
			if v, ok := was[name]; ok && computed[name] && config[name] == nil {
				kept[name] = v
			}
		}
		configured, proposed = tftypes.NewValue(typ, given), tftypes.NewValue(typ, kept)
	}
	plan, err := s.PlanResourceChange(t.Context(), &tfprotov6.PlanResourceChangeRequest{
		TypeName: typeName, PriorState: before.state, ProposedNewState: value(proposed), Config: value(configured), PriorPrivate: before.private,
	})
	if err == nil {
		err = failed(plan.Diagnostics)
	}
	if err != nil {
		t.Fatalf("plan: %v", err)
	}
	return func() (applied, error) {
		done, err := s.ApplyResourceChange(t.Context(), &tfprotov6.ApplyResourceChangeRequest{
			TypeName: typeName, PriorState: before.state, PlannedState: plan.PlannedState, Config: value(configured), PlannedPrivate: plan.PlannedPrivate,
		})
		if err != nil {
			return before, err
		}
		return applied{done.NewState, done.Private}, failed(done.Diagnostics)
	}
}

func applyChange(t *testing.T, s *server, typeName string, before applied, config map[string]any) applied {
	t.Helper()
	after, err := planChange(t, s, typeName, before, config)()
	if err != nil {
		t.Fatal(err)
	}
	return after
}

func failed(diagnostics []*tfprotov6.Diagnostic) error {
	for _, d := range diagnostics {
		if d.Severity == tfprotov6.DiagnosticSeverityError {
			return fmt.Errorf("%s: %s", d.Summary, d.Detail)
		}
	}
	return nil
}

// retryLogin is a role that owns what the provider changes. That its deadlocks are
// detected late leaves the test time to make one, and makes it the victim; that its
// transactions are serializable by default is the worst of what a server may have set.
func retryLogin(t *testing.T, db *postgrestest.Database) (role, url string) {
	t.Helper()
	role, password := db.Role(t, "")
	db.Exec(t, fmt.Sprintf(`ALTER ROLE %[1]s SET deadlock_timeout = '2s'; ALTER ROLE %[1]s SET default_transaction_isolation = 'serializable';
GRANT CREATE ON SCHEMA public TO %[1]s; ALTER TABLE jobs OWNER TO %[1]s; GRANT CREATE ON DATABASE %[2]s TO %[1]s`, role, db.Name))
	return role, db.URLFor(role, password)
}

// Every write of every resource runs into another session, which makes the server
// end the transaction, and is done again from its beginning.
func TestRetriedWrites(t *testing.T) {
	const view, schedule = "matview_view", "matview_refresh_schedule"
	first := map[string]any{"name": "job_progress", "definition": "SELECT id FROM jobs"}
	every := map[string]any{"view": "job_progress", "every": "1h"}
	with := func(base map[string]any, name string, value any) map[string]any {
		config := map[string]any{name: value}
		for n, v := range base {
			if n != name {
				config[n] = v
			}
		}
		return config
	}
	const granted = "GRANT SELECT ON job_progress TO PUBLIC"
	// With the first the other goes in the way of ours, with the second it waits for
	// ours, which ends in a deadlock.
	const waiting = "SELECT id, (SELECT count(*) FROM (SELECT pg_advisory_xact_lock_shared(7)) AS w) AS n FROM jobs"
	lockData, lockView := "SELECT pg_advisory_xact_lock(7)", "SELECT pg_advisory_xact_lock("+fmt.Sprint(matview.LockClass)+", hashtext('job_progress'))"
	cases := []struct {
		name, typeName string
		before         map[string]any // applied first; nil: nothing is there
		change         map[string]any // nil destroys
		other, then    string         // then ends in a COMMIT
		want           string         // of the database, in the end
	}{
		{"create", view, nil, with(first, "definition", waiting), lockData, lockView, "SELECT sum(n) = 30 FROM job_progress"},
		{"swap", view, first, with(first, "definition", waiting), lockData, lockView, "SELECT sum(n) = 30 FROM job_progress"},
		{"recreate", view, with(first, "on_definition_change", "recreate"), with(with(first, "on_definition_change", "recreate"), "definition", waiting), lockData, lockView, "SELECT sum(n) = 30 FROM job_progress"},
		{"rename", view, first, with(first, "name", "renamed"), granted, "", "SELECT count(*) = 30 FROM renamed"},
		{"set parameters", view, first, with(first, "storage_parameters", map[string]tftypes.Value{"fillfactor": tftypes.NewValue(tftypes.String, "70")}), granted, "", "SELECT reloptions = '{fillfactor=70}' FROM pg_class WHERE relname = 'job_progress'"},
		{"create, while the log is removed", view, nil, first, "DROP TABLE matview_schema_version", "", "SELECT count(*) = 30 FROM job_progress"},
		{"set parameters, while the log is removed", view, first, with(first, "storage_parameters", map[string]tftypes.Value{"fillfactor": tftypes.NewValue(tftypes.String, "70")}), "DROP TABLE materialized_view_refresh_state CASCADE", "", "SELECT reloptions = '{fillfactor=70}' FROM pg_class WHERE relname = 'job_progress'"},
		{"drop, while the log is removed", view, first, nil, "DROP TABLE materialized_view_refresh_log CASCADE", "", "SELECT to_regclass('job_progress') IS NULL"},
		{"drop", view, first, nil, granted, "", "SELECT to_regclass('job_progress') IS NULL"},
		{"create a schedule", schedule, nil, every, "INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('job_progress', '1s')", "ROLLBACK", "SELECT every = '1h' FROM materialized_view_refresh_schedule"},
		{"change a schedule", schedule, every, with(every, "every", "2h"), "UPDATE materialized_view_refresh_schedule SET jitter = '1s'", "", "SELECT every = '2h' AND jitter IS NULL FROM materialized_view_refresh_schedule"},
		{"move a schedule", schedule, every, with(every, "view", "other"), "INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('other', '1s')", "UPDATE materialized_view_refresh_schedule SET jitter = '1s' WHERE view_name = 'job_progress'; ROLLBACK", "SELECT view_name = 'other' AND jitter IS NULL FROM materialized_view_refresh_schedule"},
		{"delete a schedule", schedule, every, nil, "UPDATE materialized_view_refresh_schedule SET jitter = '1s'", "", "SELECT count(*) = 0 FROM materialized_view_refresh_schedule"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := viewDatabase(t)
			role, url := retryLogin(t, db)
			s := configured(t, url)
			applyChange(t, s, "matview_refresh_log", applied{}, map[string]any{"deletion_protection": false})
			if c.typeName == schedule {
				db.Exec(t, "CREATE MATERIALIZED VIEW job_progress AS SELECT 1 AS x; CREATE MATERIALIZED VIEW other AS SELECT 1 AS x")
			}
			var before applied
			if c.before != nil {
				before = applyChange(t, s, c.typeName, applied{}, c.before)
			}
			apply := planChange(t, s, c.typeName, before, c.change)
			other := inTheWay(t, db, c.other)
			done := make(chan error, 1)
			go func() {
				_, err := apply()
				done <- err
			}()
			waitsForOther(t, db, role, done)
			if c.then == "" || !strings.HasSuffix(c.then, "ROLLBACK") {
				c.then += "; COMMIT"
			}
			if _, err := other.Exec(t.Context(), strings.TrimPrefix(c.then, "; ")); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := valueOf(t, db, c.want); got != "true" {
				t.Errorf("%s: %s", c.want, got)
			}
		})
	}
}

// inTheWay is another session that has begun a transaction.
func inTheWay(t *testing.T, db *postgrestest.Database, sql string) *pgx.Conn {
	t.Helper()
	other := db.Connect(t)
	if _, err := other.Exec(t.Context(), "BEGIN; SET LOCAL deadlock_timeout = '10min'; "+sql); err != nil {
		t.Fatal(err)
	}
	return other
}

// waitsForOther returns once a session of role waits for another.
func waitsForOther(t *testing.T, db *postgrestest.Database, role string, done <-chan error) {
	t.Helper()
	watcher := db.Connect(t)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		var waits bool
		if err := watcher.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = $1 AND pg_blocking_pids(pid) <> '{}'", role).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		if waits {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
}

// Two sessions grant and alter what the provider changes, all the time.
func TestWritesAmongGrants(t *testing.T) {
	db := viewDatabase(t)
	role, url := retryLogin(t, db)
	s := configured(t, url)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	others := []string{
		// For some milliseconds in some more.
		"GRANT SELECT ON job_progress TO pg_monitor; GRANT USAGE ON SCHEMA public TO pg_monitor; SELECT pg_sleep(0.005)",
		"SELECT pg_sleep(0.015)",
		"REVOKE SELECT ON job_progress FROM pg_monitor; REVOKE USAGE ON SCHEMA public FROM pg_monitor; GRANT SELECT ON materialized_view_refresh_log TO pg_monitor; SELECT pg_sleep(0.005)",
		"ALTER MATERIALIZED VIEW job_progress OWNER TO " + role,
	}
	for range 2 {
		conn := db.Connect(t)
		go func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				// Some of these fail: they run into each other as well.
				_, _ = conn.Exec(context.WithoutCancel(ctx), others[n%len(others)])
			}
			ended <- n
		}()
	}
	defer func() {
		stop()
		if n, m := <-ended, <-ended; n < len(others) || m < len(others) {
			t.Errorf("nobody granted anything: %d and %d statements", n, m)
		}
	}()
	config := func(n int) map[string]any {
		return map[string]any{
			"name": "job_progress", "definition": fmt.Sprintf("SELECT id, %d AS n FROM jobs", n/2),
			"storage_parameters": map[string]tftypes.Value{"fillfactor": tftypes.NewValue(tftypes.String, fmt.Sprint(50+n))},
		}
	}
	for range 2 {
		log := applyChange(t, s, "matview_refresh_log", applied{}, map[string]any{
			"deletion_protection": false, "reader_roles": []tftypes.Value{tftypes.NewValue(tftypes.String, "pg_read_all_stats")},
		})
		var view applied
		for n := range 6 {
			view = applyChange(t, s, "matview_view", view, config(n))
		}
		if got := valueOf(t, db, "SELECT min(n) FROM job_progress"); got != "2" {
			t.Errorf("the view is of %s, want 2", got)
		}
		applyChange(t, s, "matview_view", view, nil)
		applyChange(t, s, "matview_refresh_log", log, nil)
	}
}
