package store_test

import (
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/store"
)

// When a silent attempt counts as dead is said by one function of the database.
func TestAttemptTimeout(t *testing.T) {
	db := installed(t)
	pool := db.Pool(t)
	db.Exec(t, `INSERT INTO "My.Schema".materialized_view_refresh_history (view_name, trigger, outcome, heartbeat_at)
VALUES ('v', 'schedule', 'running', clock_timestamp() - interval '1 min')`)
	for timeout, dead := range map[string]bool{"30 s": true, "30 min": false} {
		db.Exec(t, `CREATE OR REPLACE FUNCTION "My.Schema".materialized_view_attempt_timeout() RETURNS interval LANGUAGE sql IMMUTABLE AS $$ SELECT interval '`+timeout+`' $$`)
		found, err := tables.AbandonedAttempts(t.Context(), pool)
		if err != nil || (len(found) == 1) != dead {
			t.Fatalf("%s: %+v, %v", timeout, found, err)
		}
		outlook, err := tables.Outlook(t.Context(), pool, store.Waiting{}, true, nil)
		if err != nil || (outlook.UntilDead <= 0) != dead || !dead && outlook.UntilDead > 29*time.Minute {
			t.Errorf("%s: dead in %s, %v", timeout, outlook.UntilDead, err)
		}
		var id int64
		if err := pool.QueryRow(t.Context(), `SELECT id FROM "My.Schema".materialized_view_refresh_history`).Scan(&id); err != nil {
			t.Fatal(err)
		}
		abandoned, err := tables.Abandon(t.Context(), pool, id, "abandoned")
		if err != nil || abandoned != dead {
			t.Errorf("%s: abandoned %v, %v", timeout, abandoned, err)
		}
		db.Exec(t, `UPDATE "My.Schema".materialized_view_refresh_history SET outcome = 'running', finished_at = NULL`)
	}
}
