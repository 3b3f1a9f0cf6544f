package cloudwatch_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/cloudwatch"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const destination = "cloudwatch S3Scanner"

func claims(t *testing.T, db *postgrestest.Database) *cloudwatch.Claims {
	t.Helper()
	return &cloudwatch.Claims{Pool: db.Pool(t), Schema: "public"}
}

// nextMinute lets the claimed minute be one of the past.
func nextMinute(t *testing.T, db *postgrestest.Database) {
	t.Helper()
	db.Exec(t, "UPDATE materialized_view_refresh_publication SET minute = minute - interval '1 minute', claimed_until = '-infinity'")
}

// claim publishes and confirms the minute, if it is ours.
func claim(t *testing.T, c *cloudwatch.Claims, wantOurs bool) []cloudwatch.Attempt {
	t.Helper()
	claimed, _, err := c.Minute(t.Context(), destination)
	if err != nil || (claimed != nil) != wantOurs {
		t.Fatalf("ours: %t, %v", claimed != nil, err)
	}
	if claimed == nil {
		return nil
	}
	if err := claimed.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	return claimed.Attempts
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
				claimed, _, err := c.Minute(t.Context(), destination)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if claimed != nil {
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

// TestDeadPublisher: what an exporter had claimed when it died, another
// publishes, once its claim has run out; and no third after that.
func TestDeadPublisher(t *testing.T) {
	db := installed(t)
	dies, lives, third := claims(t, db), claims(t, db), claims(t, db)
	if err := dies.Begin(t.Context(), destination); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, finished_at) VALUES ('v', 'schedule', 'failed', clock_timestamp())`)
	first, _, err := dies.Minute(t.Context(), destination)
	if err != nil || first == nil || len(first.Attempts) != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	second, again, err := lives.Minute(t.Context(), destination)
	if err != nil || second != nil || again <= 0 || again > time.Minute {
		t.Fatalf("while it is claimed: %+v, again in %s, %v", second, again, err)
	}
	db.Exec(t, "UPDATE materialized_view_refresh_publication SET claimed_until = clock_timestamp()") // it runs out
	if got := claim(t, lives, true); len(got) != 1 || got[0].Outcome != "failed" {
		t.Errorf("%+v", got)
	}
	if err := first.Confirm(t.Context()); err == nil { // it was not dead but slow
		t.Error("what another has published is confirmed twice")
	}
	claimed, again, err := third.Minute(t.Context(), destination)
	if err != nil || claimed != nil || again != 0 {
		t.Errorf("a minute that is published: %+v, again in %s, %v", claimed, again, err)
	}
	nextMinute(t, db)
	if got := claim(t, third, true); len(got) != 0 {
		t.Errorf("published again: %+v", got)
	}
}

// TestAttemptsWithoutMinute: a run that ends by itself publishes attempts, and
// leaves the minute to those that publish each.
func TestAttemptsWithoutMinute(t *testing.T) {
	db := installed(t)
	c := claims(t, db)
	claim(t, c, true)
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, finished_at) VALUES ('v', 'manual', 'failed', clock_timestamp())`)
	claimed, err := c.Attempts(t.Context(), destination)
	if err != nil || claimed == nil || len(claimed.Attempts) != 1 {
		t.Fatalf("%+v %v", claimed, err)
	}
	if other, err := c.Attempts(t.Context(), destination); other != nil || err != nil {
		t.Errorf("claimed twice: %+v %v", other, err)
	}
	if err := claimed.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	nextMinute(t, db)
	if got := claim(t, c, true); len(got) != 0 {
		t.Errorf("twice: %+v", got)
	}
}
