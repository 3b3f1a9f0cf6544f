package publish_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/store"
)

const destination = "cloudwatch S3Scanner"

func claims(t *testing.T, db *postgrestest.Database) publish.Claims {
	t.Helper()
	return store.New("public").Publication(db.Pool(t))
}

// nextMinute turns the claimed minute into the one before.
func nextMinute(t *testing.T, db *postgrestest.Database) {
	t.Helper()
	db.Exec(t, "UPDATE materialized_view_refresh_publication SET minute = minute - interval '1 minute', claimed_until = clock_timestamp()")
}

// claim publishes and confirms the minute, if it is ours.
func claim(t *testing.T, c publish.Claims, wantOurs bool) []publish.Attempt {
	t.Helper()
	claimed, _, err := c.Claim(t.Context(), destination, false)
	if err != nil || (claimed != nil) != wantOurs {
		t.Fatalf("ours: %t, %v", claimed != nil, err)
	}
	if claimed == nil {
		return nil
	}
	if err := c.Confirm(t.Context(), claimed); err != nil {
		t.Fatal(err)
	}
	return claimed.Attempts
}

func TestOneClaimAMinute(t *testing.T) {
	db := recorded(t)
	for range 3 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		won := 0
		began := time.Now().Truncate(time.Minute)
		for range 8 {
			c := claims(t, db)
			wg.Go(func() {
				claimed, _, err := c.Claim(t.Context(), destination, false)
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

// TestEveryAttemptOnce: each attempt is published once, including one that was running
// or not yet visible when the minute before was claimed.
func TestEveryAttemptOnce(t *testing.T) {
	db := recorded(t)
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

// TestDeadPublisher: what an exporter had claimed when it died is published by one
// other exporter once the claim expires.
func TestDeadPublisher(t *testing.T) {
	db := recorded(t)
	dies, lives, third := claims(t, db), claims(t, db), claims(t, db)
	if err := dies.Register(t.Context(), destination); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, finished_at) VALUES ('v', 'schedule', 'failed', clock_timestamp())`)
	first, _, err := dies.Claim(t.Context(), destination, false)
	if err != nil || first == nil || len(first.Attempts) != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	second, again, err := lives.Claim(t.Context(), destination, false)
	if err != nil || second != nil || again <= 0 || again > time.Minute {
		t.Fatalf("while it is claimed: %+v, again in %s, %v", second, again, err)
	}
	db.Exec(t, "UPDATE materialized_view_refresh_publication SET claimed_until = clock_timestamp()") // it runs out
	if got := claim(t, lives, true); len(got) != 1 || got[0].Outcome != "failed" {
		t.Errorf("%+v", got)
	}
	if err := dies.Confirm(t.Context(), first); err == nil { // it was not dead but slow
		t.Error("what another has published is confirmed twice")
	}
	claimed, again, err := third.Claim(t.Context(), destination, false)
	if err != nil || claimed != nil || again != 0 {
		t.Errorf("a minute that is published: %+v, again in %s, %v", claimed, again, err)
	}
	nextMinute(t, db)
	if got := claim(t, third, true); len(got) != 0 {
		t.Errorf("published again: %+v", got)
	}
}

// TestAttemptsWithoutMinute: a run that ends by itself publishes attempts and leaves
// the minute to the exporters that publish every minute.
func TestAttemptsWithoutMinute(t *testing.T) {
	db := recorded(t)
	c := claims(t, db)
	claim(t, c, true)
	db.Exec(t, `INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, finished_at) VALUES ('v', 'manual', 'failed', clock_timestamp())`)
	claimed, _, err := c.Claim(t.Context(), destination, true)
	if err != nil || claimed == nil || len(claimed.Attempts) != 1 {
		t.Fatalf("%+v %v", claimed, err)
	}
	if other, _, err := c.Claim(t.Context(), destination, true); other != nil || err != nil {
		t.Errorf("claimed twice: %+v %v", other, err)
	}
	if err := c.Confirm(t.Context(), claimed); err != nil {
		t.Fatal(err)
	}
	nextMinute(t, db)
	if got := claim(t, c, true); len(got) != 0 {
		t.Errorf("twice: %+v", got)
	}
}

// TestAttemptVisibleLate: an attempt in a transaction that stays open is published
// however many attempts have ended meanwhile.
func TestAttemptVisibleLate(t *testing.T) {
	db := recorded(t)
	c := claims(t, db)
	claim(t, c, true)
	const late = 5000
	open := db.Connect(t)
	if _, err := open.Exec(t.Context(), "BEGIN; INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, finished_at) VALUES ('late', 'external', 'succeeded', clock_timestamp())"); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, fmt.Sprintf(`INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, finished_at)
SELECT 'v', 'schedule', 'succeeded', clock_timestamp() FROM generate_series(1, %d)`, late))
	nextMinute(t, db)
	if got := claim(t, c, true); len(got) != late {
		t.Errorf("%d attempts, want %d", len(got), late)
	}
	if _, err := open.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	nextMinute(t, db)
	if got := claim(t, c, true); len(got) != 1 || got[0].View != "late" {
		t.Errorf("%+v, want the late attempt", got)
	}
}

// TestForgottenDestinations: a destination that nobody has claimed for two weeks is
// dropped, but one that is then claimed again has lost no attempt.
func TestForgottenDestinations(t *testing.T) {
	db := recorded(t)
	c := claims(t, db)
	if err := c.Register(t.Context(), "cloudwatch Renamed"); err != nil {
		t.Fatal(err)
	}
	claim(t, c, true)
	db.Exec(t, `UPDATE materialized_view_refresh_publication SET minute = minute - interval '15 days', claimed_until = clock_timestamp() - interval '15 days';
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, finished_at) VALUES ('v', 'manual', 'failed', clock_timestamp())`)
	if got := claim(t, c, true); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	for _, table := range []string{"publication WHERE destination <> '" + destination + "'", "unpublished"} {
		var n int
		if err := db.Pool(t).QueryRow(t.Context(), "SELECT count(*) FROM materialized_view_refresh_"+table).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d rows in %s, %v", n, table, err)
		}
	}
}

// A claim and a minute from before the clock was set back hold nobody up.
func TestClaimOfTheFuture(t *testing.T) {
	db := recorded(t)
	c := claims(t, db)
	claim(t, c, true)
	db.Exec(t, "UPDATE materialized_view_refresh_publication SET minute = minute + interval '8 h', claimed_until = clock_timestamp() + interval '8 h', claimed_by = 'another'")
	claim(t, c, true)
	claim(t, c, false)
	nextMinute(t, db)
	claim(t, c, true)
}
