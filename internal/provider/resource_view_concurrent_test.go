package provider

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const viewImport = "import {\n  to = matview_view.test\n  id = \"job_progress\"\n}\n"

// twoStates are two workspaces that both manage the view that body describes.
func twoStates(t *testing.T, db *postgrestest.Database, body string) (a, b workspace) {
	t.Helper()
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	a = newWorkspace(t, db.URL(), workspaceConfig(body))
	a.run(t, "apply", "-auto-approve")
	b = a.beside(t, workspaceConfig(body)+viewImport)
	b.run(t, "apply", "-auto-approve")
	return a, b
}

const workspaceProvider = "terraform {\n  required_providers {\n    matview = { source = \"matview/matview\" }\n  }\n}\nprovider \"matview\" {}\n"

func workspaceConfig(body string) string {
	return workspaceProvider + "resource \"matview_view\" \"test\" {\n" + body + "\n}\n"
}

// oneLine undoes Terraform's line breaks and frames.
func oneLine(out string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(out, "│", " ")), " ")
}

// What is planned for the view as it was is not recorded of the view that
// another apply has made of it since.
func TestAccViewChangedSincePlan(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	body := func(definition, index, more string) string {
		return withDefinition(definition) + fmt.Sprintf("  indexes = { i = { keys = [%q] } }\n%s", index, more)
	}
	const first = "SELECT id, name FROM jobs"
	a, b := twoStates(t, db, body(first, "id", ""))

	a.write(t, workspaceConfig(body(first, "id", `  comment = "a"`)))
	a.run(t, "plan", "-out=planned")
	b.write(t, workspaceConfig(body("SELECT id, name, 1 AS b FROM jobs", "id", "")))
	b.run(t, "apply", "-auto-approve")
	out, err := a.try(t.Context(), "apply", "planned")
	if want := "job_progress was changed by somebody else since this was planned"; err == nil || !strings.Contains(oneLine(out), want) {
		t.Errorf("a plan for another definition was applied: %v, want %q in\n%s", err, want, out)
	}
	b.plan(t) // of which nothing was changed
	if out := a.run(t, "plan"); !strings.Contains(out, "1 AS b") {
		t.Errorf("the other definition is not seen:\n%s", out)
	}
	a.run(t, "apply", "-auto-approve")
	a.plan(t)

	a.write(t, workspaceConfig(body(first, "id", `  comment = "again"`)))
	a.run(t, "plan", "-out=planned")
	b.write(t, workspaceConfig(body(first, "name", `  comment = "a"`)))
	b.run(t, "apply", "-auto-approve")
	a.run(t, "apply", "planned")
	a.plan(t)
	if got := valueOf(t, db, "SELECT pg_get_indexdef('i'::regclass)"); !strings.HasSuffix(got, "(id)") {
		t.Errorf("the other's index is taken for ours: %s", got)
	}
	if out := b.run(t, "plan"); !strings.Contains(out, "~ keys") {
		t.Errorf("the other index is not seen:\n%s", out)
	}
}

// Two terraform at once wait for each other, or fail and say why; each records
// the view that is there, or finds that it is not what it recorded.
func TestAccViewTwoApplies(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	body := func(n int) string {
		return withDefinition(fmt.Sprintf("SELECT id, %d AS n FROM jobs", n)) + fmt.Sprintf("  comment = \"%d\"\n  indexes = { i = { keys = [%q], unique = true } }", n, []string{"id", "id DESC"}[n%2])
	}
	a, b := twoStates(t, db, body(0))
	clearly := regexp.MustCompile(`changed by somebody else|altered or dropped by somebody else|somebody else holds a lock|others held locks on it`)
	for round := range 3 {
		var wg sync.WaitGroup
		outs, errs := make([]string, 2), make([]error, 2)
		for i, w := range []workspace{a, b} {
			w.write(t, workspaceConfig(body(1+2*round+i)))
			wg.Go(func() { outs[i], errs[i] = w.try(t.Context(), "apply", "-auto-approve") })
		}
		wg.Wait()
		won := valueOf(t, db, "SELECT n || ' ' || obj_description('job_progress'::regclass) || ' ' || (pg_get_indexdef('i'::regclass) LIKE '%DESC)') FROM job_progress LIMIT 1")
		for i, w := range []workspace{a, b} {
			if errs[i] != nil && !clearly.MatchString(oneLine(outs[i])) {
				t.Errorf("round %d: it does not say clearly why it failed:\n%s", round, outs[i])
			}
			n := 1 + 2*round + i
			whole := won == fmt.Sprintf("%d %[1]d %t", n, n%2 == 1)
			out := w.run(t, "plan")
			if none := strings.Contains(out, "No changes."); none != whole {
				t.Errorf("round %d: the view is %q, and the plan for %d is\n%s", round, won, n, out)
			}
		}
		if got := valueOf(t, db, fresh); got != "fresh true" {
			t.Errorf("round %d: it is %s", round, got)
		}
		if got := valueOf(t, db, "SELECT count(*) FROM pg_class WHERE relkind = 'm' OR relname IN ('i') OR relname ~ '^matview_[0-9a-f]{16}$'"); got != "2" {
			t.Errorf("round %d: %s relations, want the view and its index", round, got)
		}
	}
}

// While the exporter refreshes the view every second, and its table grows, the
// view is planned and changed, and its freshness is never overstated.
func TestAccViewUnderExporter(t *testing.T) {
	db := viewDatabase(t)
	installTables(t, db)
	db.Exec(t, "CREATE TABLE marks (n int PRIMARY KEY); CREATE TABLE acknowledged (n int, at timestamptz)")
	body := func(n int) string {
		return withDefinition(fmt.Sprintf("SELECT n, %d AS round FROM marks", n)) + fmt.Sprintf("  comment = \"%d\"\n  indexes = { i = { keys = [\"n\"], unique = true } }", n)
	}
	a, b := twoStates(t, db, body(0))
	db.Exec(t, "INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('job_progress', '1 second')")
	exporter := startExporter(t, db.URL())

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	writer, checker := db.Connect(t), db.Connect(t)
	wg.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			for _, sql := range []string{"INSERT INTO marks VALUES ($1)", "INSERT INTO acknowledged VALUES ($1, clock_timestamp())"} {
				if _, err := writer.Exec(context.WithoutCancel(ctx), sql, n); err != nil {
					t.Error(err)
					return
				}
			}
			time.Sleep(5 * time.Millisecond) // or the table would be all that is busy
		}
	})
	checks := 0
	wg.Go(func() {
		// The view is locked before the snapshot, so view and record are of one commit.
		const overstated = `SELECT count(*) FROM acknowledged AS a, materialized_view_freshness AS f
WHERE f.view_name = 'job_progress' AND a.at < f.data_as_of AND a.n NOT IN (SELECT n FROM job_progress)`
		for ; ctx.Err() == nil; checks++ {
			var n int
			if err := checker.QueryRow(context.WithoutCancel(ctx), overstated).Scan(&n); err != nil || n > 0 {
				t.Errorf("%d rows were acknowledged before data_as_of and are not in the view; %v", n, err)
				return
			}
			time.Sleep(5 * time.Millisecond) // or nobody else would come by the view
		}
	})
	const byExporter = "SELECT count(*) FROM materialized_view_refresh_history WHERE trigger = 'schedule' AND outcome = 'succeeded'"
	for n := 1; n <= 3; n++ {
		before := valueOf(t, db, byExporter)
		a.write(t, workspaceConfig(body(n)))
		a.run(t, "apply", "-auto-approve")
		a.plan(t)
		if out := b.run(t, "plan"); !strings.Contains(out, "1 to change") {
			t.Errorf("round %d: the other state does not see it:\n%s", n, out)
		}
		for deadline := time.Now().Add(time.Minute); valueOf(t, db, byExporter) == before; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: the exporter refreshes no more:\n%s", n, exporter())
			}
		}
		a.plan(t)
	}
	if got := valueOf(t, db, "SELECT count(*) FROM materialized_view_refresh_history WHERE outcome NOT IN ('succeeded', 'running')"); got != "0" {
		t.Errorf("%s attempts did not succeed:\n%s", got, exporter())
	}
	stop()
	wg.Wait()
	if checks == 0 {
		t.Error("freshness was never checked")
	}
}

// startExporter returns what gives its log.
func startExporter(t *testing.T, url string) (log func() string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "matview-exporter")
	if out, err := osexec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../exporter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := osexec.Command(binary, "--database.url="+url, "run", "--web.listen-address=127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		_ = file.Close()
	})
	return func() string {
		data, err := os.ReadFile(file.Name())
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
}
