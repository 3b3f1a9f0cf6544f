package main

import (
	"strings"
	"testing"
)

func TestRefreshGoesInOrderAndMarksDownstreams(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE TABLE fuel (n int); INSERT INTO fuel VALUES (1);
CREATE FUNCTION burn() RETURNS int LANGUAGE plpgsql AS $$
BEGIN IF NOT EXISTS (SELECT FROM public.fuel) THEN RAISE EXCEPTION 'out of fuel'; END IF; RETURN 1; END $$;
CREATE MATERIALIZED VIEW z_base AS SELECT burn() AS id WITH NO DATA;
CREATE MATERIALIZED VIEW b_top AS SELECT id FROM z_base WITH NO DATA;
CREATE MATERIALIZED VIEW alone AS SELECT 1 AS x WITH NO DATA;`)
	code, stdout, stderr := exec(t, db.URL(), "refresh", "--all")
	if code != exitOK || strings.Index(stdout, "z_base: refreshed") > strings.Index(stdout, "b_top: refreshed") {
		t.Fatalf("code %d, %s%s", code, stdout, stderr)
	}
	db.Exec(t, `DELETE FROM fuel`)
	code, stdout, stderr = exec(t, db.URL(), "refresh", "b_top", "z_base", "alone")
	if code != exitFailed || !strings.Contains(stderr, "z_base: FAILED: ") ||
		!strings.Contains(stderr, "b_top: FAILED: refresh b_top: UPSTREAM: refresh of z_base failed: ") ||
		!strings.Contains(stdout, "alone: refreshed") {
		t.Errorf("code %d\n%s\n%s", code, stdout, stderr)
	}
	db.Exec(t, `INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('b_top', '1 d'), ('z_base', '1 d'), ('alone', '1 d')`)
	// Both are due, as their last attempts failed.
	db.Exec(t, `DELETE FROM materialized_view_refresh_log; DELETE FROM materialized_view_refresh_state`)
	code, stdout, stderr = exec(t, db.URL(), "refresh", "--due")
	if code != exitFailed || !strings.Contains(stderr, "b_top: FAILED: refresh b_top: UPSTREAM: refresh of z_base failed: ") || !strings.Contains(stdout, "alone: refreshed") {
		t.Errorf("code %d\n%s\n%s", code, stdout, stderr)
	}
}
