package provider

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// A refresh that takes its time says that it lives, also where it has the only
// connection that max_connections leaves it: an exporter would end it else.
func TestRefreshActionWithOneConnection(t *testing.T) {
	t.Parallel()
	db := jobDatabase(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW long AS SELECT (SELECT count(*) FROM (SELECT pg_advisory_xact_lock_shared(7)) AS w) AS n`)
	role, password := db.Role(t, "")
	db.Exec(t, fmt.Sprintf(`ALTER MATERIALIZED VIEW long OWNER TO %[1]s; GRANT CREATE ON SCHEMA public TO %[1]s;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s`, role))
	type outcome struct{ diagnostics []*tfprotov6.Diagnostic }
	start := func(method string) chan outcome {
		s := configuredWith(t, map[string]any{"url": db.URLFor(role, password), "max_connections": 1})
		done := make(chan outcome, 1)
		go func() {
			_, diagnostics := invoke(t, s, "long", method)
			done <- outcome{diagnostics}
		}()
		return done
	}
	other := inTheWay(t, db, "SELECT pg_advisory_xact_lock(7)")
	done := start("blocking")
	watcher := db.Connect(t)
	ask := func(sql string) (value string) {
		if err := watcher.QueryRow(t.Context(), "SELECT coalesce(("+sql+")::text, '')").Scan(&value); err != nil {
			t.Fatalf("%v\n%s", err, sql)
		}
		return value
	}
	beats := map[string]bool{}
	for deadline := time.Now().Add(time.Minute); len(beats) < 3; time.Sleep(20 * time.Millisecond) {
		select {
		case o := <-done:
			t.Fatalf("it did not wait: %v", o.diagnostics)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("heartbeats: %v", beats)
		}
		if at := ask("SELECT max(heartbeat_at) FROM materialized_view_refresh_history WHERE outcome = 'running'"); at != "" {
			beats[at] = true
		}
	}
	if _, err := other.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if o := <-done; len(o.diagnostics) > 0 {
		t.Fatalf("%s: %s", o.diagnostics[0].Summary, o.diagnostics[0].Detail)
	}
	for _, method := range []string{"auto", "swap"} {
		if o := <-start(method); len(o.diagnostics) > 0 {
			t.Errorf("%s: %s: %s", method, o.diagnostics[0].Summary, o.diagnostics[0].Detail)
		}
	}

	db.Exec(t, "ALTER ROLE "+role+" CONNECTION LIMIT 1")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		// Those of before are idle, for minutes.
		if ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '"+role+"'") == "0" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the sessions of before do not end")
		}
	}
	o := <-start("auto")
	if len(o.diagnostics) != 1 || !strings.Contains(o.diagnostics[0].Summary, "Cannot refresh long: there is no second connection, which its heartbeat needs") ||
		!strings.Contains(o.diagnostics[0].Detail, "too many connections for role") {
		t.Errorf("with one connection for the role: %v", o.diagnostics)
	}
}
