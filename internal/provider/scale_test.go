package provider

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// manyViews is a new log, fifty views in it and a schedule for each.
const manyViews = `
terraform {
  required_providers {
    matview = { source = "matview/matview" }
  }
}

provider "matview" {
  max_connections = %d
  log_schema      = "ops"
}

resource "matview_refresh_log" "ops" {
  deletion_protection = false
}

resource "matview_view" "many" {
  count      = 50
  name       = "many_${count.index}"
  definition = "SELECT id, name FROM jobs WHERE id > ${count.index}"
  indexes    = { "many_${count.index}_id" = { keys = ["id"], unique = true } }
  depends_on = [matview_refresh_log.ops]
}

resource "matview_refresh_schedule" "many" {
  count = 50
  view  = matview_view.many[count.index].id
  every = "1h"
}
`

// Fifty views created at once, twenty at a time, succeed on as many connections as
// max_connections says. The server itself refuses the login one more.
func TestAccManyViewsWithinMaxConnections(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	for _, most := range []int{1, 5} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			db := viewDatabase(t)
			role, password := db.Role(t, "")
			db.Exec(t, fmt.Sprintf("GRANT CREATE ON SCHEMA public TO %[1]s; GRANT CREATE ON DATABASE %[2]s TO %[1]s; GRANT SELECT ON jobs TO %[1]s", role, db.Name))
			w := newWorkspace(t, db.URLFor(role, password), fmt.Sprintf(manyViews, most))
			limit := func(n int) {
				loggedOut(t, db, role)
				db.Exec(t, fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", role, n))
			}
			// The provider would sooner wait for ever than fail, if it took a connection while it holds the last one.
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			run := func(args ...string) (string, error) {
				loggedOut(t, db, role)
				return w.try(ctx, args...)
			}
			if out, err := run("plan", "-parallelism=20", "-out=planned"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if most > 1 { // that many are needed, too
				limit(most - 1)
				if out, err := run("apply", "-parallelism=20", "planned"); err == nil || !strings.Contains(oneLine(out), "too many connections for role") {
					t.Fatalf("with one connection less than it may have: %v\n%s", err, out)
				}
			}
			limit(most)
			if out, err := run("plan", "-parallelism=20", "-out=planned"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if out, err := run("apply", "-parallelism=20", "planned"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got := valueOf(t, db, "SELECT count(*) FILTER (WHERE stale_reason IS NULL AND data_as_of IS NOT NULL AND is_scheduled) FROM ops.materialized_view_freshness"); got != "50" {
				t.Errorf("%s of 50 views are fresh and have a schedule", got)
			}
			if out, err := run("plan", "-parallelism=20"); err != nil || !strings.Contains(out, "No changes.") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// loggedOut returns once no session of role is left: a process that has ended may
// leave the server a moment to notice.
func loggedOut(t *testing.T, db *postgrestest.Database, role string) {
	t.Helper()
	watcher := db.Connect(t)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var n int
		if err := watcher.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions of %s stay", n, role)
		}
	}
}
