package cloudwatch_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/cloudwatch"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

func claims(t *testing.T, db *postgrestest.Database) *cloudwatch.Claims {
	t.Helper()
	return &cloudwatch.Claims{Pool: db.Pool(t), Schema: "public", Destination: "cloudwatch S3Scanner"}
}

// nextMinute lets the claimed minute be one of the past.
func nextMinute(t *testing.T, db *postgrestest.Database) {
	t.Helper()
	db.Exec(t, "UPDATE materialized_view_refresh_publication SET minute = minute - interval '1 minute'")
}

func claim(t *testing.T, c *cloudwatch.Claims, wantOurs bool) []cloudwatch.Attempt {
	t.Helper()
	attempts, ours, err := c.Claim(t.Context())
	if err != nil || ours != wantOurs {
		t.Fatalf("ours: %t, %v", ours, err)
	}
	return attempts
}

func TestOneClaimAMinute(t *testing.T) {
	db := installed(t)
	for range 3 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		won := 0
		began := time.Now().Truncate(time.Minute)
		for range 8 {
			c := claims(t, db)
			wg.Go(func() {
				_, ours, err := c.Claim(t.Context())
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if ours {
					won++
				}
			})
		}
		wg.Wait()
		if crossed := !time.Now().Truncate(time.Minute).Equal(began); won != 1 && !crossed {
			t.Errorf("%d replicas publish", won)
		}
		nextMinute(t, db)
	}
}

// TestEveryAttemptOnce: also one that was running, or not yet visible, when the
// minute before was claimed.
func TestEveryAttemptOnce(t *testing.T) {
	db := installed(t)
	c := claims(t, db)
	attempt := func(outcome string) string {
		return fmt.Sprintf(`INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, started_at, data_as_of, finished_at, duration_ms)
VALUES ('v', 'schedule', '%s', clock_timestamp() - interval '2 s', CASE WHEN '%[1]s' = 'succeeded' THEN clock_timestamp() - interval '2 s' END, clock_timestamp(), 2000)`, outcome)
	}
	db.Exec(t, attempt("succeeded")) // before the first claim: not ours to publish
	db.Exec(t, attempt("running"))
	if got := claim(t, c, true); len(got) != 0 {
		t.Errorf("%v", got)
	}
	claim(t, c, false)
	nextMinute(t, db)

	hidden := db.Connect(t)
	if _, err := hidden.Exec(t.Context(), "BEGIN; "+attempt("failed")); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, attempt("succeeded"))
	got := claim(t, c, true)
	if len(got) != 1 || got[0].Outcome != "succeeded" || got[0].Duration != 2*time.Second || got[0].StalenessBefore == nil || *got[0].StalenessBefore < 2 {
		t.Errorf("%+v", got)
	}
	nextMinute(t, db)

	if _, err := hidden.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "UPDATE materialized_view_refresh_history SET outcome = 'abandoned' WHERE outcome = 'running'")
	outcomes := map[string]int{}
	for _, a := range claim(t, c, true) {
		outcomes[a.Outcome]++
	}
	if len(outcomes) != 2 || outcomes["failed"] != 1 || outcomes["abandoned"] != 1 {
		t.Errorf("%v", outcomes)
	}
	nextMinute(t, db)
	if got := claim(t, c, true); len(got) != 0 {
		t.Errorf("twice: %v", got)
	}
}
