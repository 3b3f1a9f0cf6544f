package honesty

import (
	"fmt"
	"testing"
	"time"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// barrierSQL blocks a refresh in a trigger on the log: before the record is written or,
// by a deferred constraint trigger, within COMMIT.
const barrierSQL = `
CREATE FUNCTION barrier() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(42);
    RETURN NEW;
END $$;
CREATE TRIGGER before_record BEFORE INSERT OR UPDATE ON materialized_view_refresh_log FOR EACH ROW EXECUTE FUNCTION barrier();
CREATE CONSTRAINT TRIGGER within_commit AFTER INSERT OR UPDATE ON materialized_view_refresh_log
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION barrier();
ALTER TABLE materialized_view_refresh_log DISABLE TRIGGER USER;`

// recordSQL reads everything that is recorded about a view, and its row.
const recordSQL = `
SELECT concat_ws(' | ', (SELECT l FROM materialized_view_refresh_log AS l WHERE l.view_name = 'under_plain'),
    (SELECT row(data_as_of, view_oid, view_filenode, view_xmin, logged_refreshed_at) FROM materialized_view_refresh_state WHERE view_name = 'under_plain'),
    (SELECT row(data_as_of, stale_reason) FROM materialized_view_freshness WHERE view_name = 'under_plain'),
    (SELECT row(oid, relfilenode, xmin) FROM pg_class WHERE oid = 'under_plain'::regclass),
    (SELECT n FROM under_plain))`

// A crash between REFRESH and the end of COMMIT changes neither data nor record; the
// next refresh changes both.
func TestCrashBeforeCommit(t *testing.T) {
	h := newHarness(t)
	h.exec(t, h.superURL(), barrierSQL)
	for _, method := range methods {
		for _, point := range []string{"before_record", "within_commit"} {
			for _, crash := range []bool{false, true} {
				fault := map[bool]string{false: "backend terminated", true: "server crashed"}[crash]
				t.Run(fmt.Sprintf("%s %s %s", method, point, fault), func(t *testing.T) {
					h.crashBeforeCommit(t, method, point, crash)
				})
			}
		}
	}
}

func (h *harness) crashBeforeCommit(t *testing.T, method refresh.Method, point string, crash bool) {
	t.Helper()
	refreshNow := func() error {
		_, err := h.refreshers[0].Refresh(t.Context(), refresh.Request{
			View: "under_plain", Method: method, Trigger: refresh.TriggerManual, LockTimeout: 10 * time.Second,
		})
		return err
	}
	if !scan[bool](t, h, "SELECT relispopulated FROM pg_class WHERE relname = 'under_plain'") {
		h.exec(t, h.ownerSocketURL(), "REFRESH MATERIALIZED VIEW under_plain")
	}
	if err := refreshNow(); err != nil {
		t.Fatal(err)
	}
	before := scan[string](t, h, recordSQL)
	h.exec(t, h.superURL(), "UPDATE heartbeat SET n = n + 1")

	h.exec(t, h.superURL(), "ALTER TABLE materialized_view_refresh_log ENABLE TRIGGER "+point)
	holder, err := connect(t.Context(), h.superURL(), "holder")
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(holder)
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- refreshNow() }()
	const waiting = "FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted"
	eventually(t, "the refresh waits at "+point, func() (bool, string) {
		select {
		case err := <-ended:
			t.Fatalf("the refresh ended: %v", err)
		default:
		}
		return scan[bool](t, h, "SELECT EXISTS (SELECT "+waiting+")"), "it does not wait"
	})
	if crash {
		err = h.restart(t.Context(), true)
	} else {
		h.exec(t, h.superURL(), "SELECT pg_terminate_backend(pid) "+waiting)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the refresh reported success")
	}
	if after := scan[string](t, h, recordSQL); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
	h.exec(t, h.superURL(), "ALTER TABLE materialized_view_refresh_log DISABLE TRIGGER "+point)
	if err := refreshNow(); err != nil {
		t.Fatal(err)
	}
	if after := scan[string](t, h, recordSQL); after == before {
		t.Errorf("the next refresh changed nothing: %s", after)
	}
	if !scan[bool](t, h, "SELECT f.stale_reason IS NULL AND c.n = h.n FROM materialized_view_freshness AS f, under_plain AS c, heartbeat AS h WHERE f.view_name = 'under_plain'") {
		t.Error("the next refresh did not make it fresh")
	}
}
