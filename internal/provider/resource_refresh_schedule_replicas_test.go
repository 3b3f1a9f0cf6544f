package provider

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
)

// Three replicas refresh while Terraform makes, changes and removes what they
// refresh: each apply succeeds, and each change is followed.
func TestAccRefreshScheduleWithReplicas(t *testing.T) {
	db := jobDatabase(t)
	for range 3 {
		log := startExporter(t, db.URL())
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("an exporter: %s", log())
			}
		})
	}
	conn := db.Connect(t)
	holds := func(condition string) error {
		for deadline, held := time.Now().Add(30*time.Second), false; !held; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("not within 30 s: %s", condition)
			}
			if err := conn.QueryRow(t.Context(), condition).Scan(&held); err != nil {
				return err
			}
		}
		return nil
	}
	refreshed := func(more int) resource.TestCheckFunc {
		return func(*terraform.State) error {
			var last int64
			if err := conn.QueryRow(t.Context(), "SELECT coalesce(max(id), 0) FROM materialized_view_refresh_history").Scan(&last); err != nil {
				return err
			}
			return holds(fmt.Sprintf(`SELECT count(*) >= %d FROM materialized_view_refresh_history WHERE view_name = 'summary' AND outcome = 'succeeded' AND id > %d`, more, last))
		}
	}
	config := func(query, schedule string) string {
		return providerConfig(db) + fmt.Sprintf(`
resource "matview_view" "test" {
  name       = "summary"
  definition = %q
}

resource "matview_refresh_schedule" "test" {
  view = matview_view.test.id
  %s
}`, query, schedule)
	}
	resource.Test(t, resource.TestCase{
		ProtoV6ProviderFactories: testAccProviders,
		Steps: []resource.TestStep{
			{Config: config("SELECT count(*) AS n FROM jobs", `every = "1s"`), Check: refreshed(3)},
			// The view is replaced while they refresh it.
			{Config: config("SELECT count(*) AS n, max(total) AS most FROM jobs", `every = "1s"`), Check: refreshed(3)},
			{Config: config("SELECT count(*) AS n, max(total) AS most FROM jobs", `cron = "0 0 1 1 *"`), Check: func(*terraform.State) error {
				return holds(`SELECT coalesce(bool_or(next_run_at > now() + interval '2 s' AND scheduled_by LIKE '%0 0 1 1 *%'), false) FROM materialized_view_refresh_state WHERE view_name = 'summary'`)
			}},
		},
	})
	var overlapping, abandoned int
	if err := conn.QueryRow(t.Context(), `
SELECT count(*) FROM (SELECT started_at, lag(finished_at) OVER (PARTITION BY view_name ORDER BY started_at) AS ended
                      FROM materialized_view_refresh_history WHERE trigger = 'schedule') AS a WHERE ended > started_at`).Scan(&overlapping); err != nil || overlapping != 0 {
		t.Errorf("%d refreshes overlapped, %v", overlapping, err)
	}
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM materialized_view_refresh_history WHERE outcome = 'abandoned'`).Scan(&abandoned); err != nil || abandoned != 0 {
		t.Errorf("%d attempts were abandoned, %v", abandoned, err)
	}
}
