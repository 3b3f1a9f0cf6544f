package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
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
	db.Exec(t, `DELETE FROM materialized_view_refresh_log; DELETE FROM materialized_view_refresh_state; DELETE FROM materialized_view_refresh_history`)
	code, stdout, stderr = exec(t, db.URL(), "refresh", "--due")
	if code != exitFailed || !strings.Contains(stderr, "b_top: FAILED: refresh b_top: UPSTREAM: refresh of z_base failed: ") || !strings.Contains(stdout, "alone: refreshed") {
		t.Errorf("code %d\n%s\n%s", code, stdout, stderr)
	}
}

// held has a view that another session reads in a transaction, as a blocking
// refresh finds it.
func held(t *testing.T) (db *postgrestest.Database, holder *pgx.Conn) {
	t.Helper()
	db = installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x;
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, started_at, finished_at)
VALUES ('v', 'manual', 'succeeded', now() - interval '1 h', now() - interval '1 h' + interval '90 s')`)
	holder = db.Connect(t)
	if _, err := holder.Exec(t.Context(), `SET application_name = 'report'; BEGIN; SELECT * FROM v`); err != nil {
		t.Fatal(err)
	}
	return db, holder
}

func TestProgressOnATerminal(t *testing.T) {
	db, holder := held(t)
	screen, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 200}); err != nil {
		t.Fatal(err)
	}
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), []string{"--database.url=" + db.URL(), "refresh", "v", "--method=blocking"}, tty, tty)
		_ = tty.Close()
	}()
	want := fmt.Sprintf(", usually 1m30s, waits for process %d (role postgres, report, idle in transaction, in a transaction since ", holder.PgConn().PID())
	shown, lines := "", bufio.NewReader(screen)
	for waiting := true; ; {
		_ = screen.SetReadDeadline(time.Now().Add(30 * time.Second))
		line, err := lines.ReadString('\n')
		shown += line
		if waiting && strings.Contains(line, "v: refreshing for ") && strings.Contains(line, want) {
			waiting = false
			if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(line, "v: refreshed in ") {
			if waiting {
				t.Errorf("did not say for whom it waits, want %q:\n%q", want, shown)
			}
			// What was drawn is taken away before the line is printed.
			if !strings.Contains(line, "\x1b[1A\x1b[J") {
				t.Errorf("the line is not in place of the drawing: %q", line)
			}
			break
		}
		if err != nil {
			t.Fatalf("%v:\n%q", err, shown)
		}
	}
	if code := <-done; code != exitOK {
		t.Errorf("exit %d", code)
	}
}

func TestProgressElsewhereIsALineForEachWait(t *testing.T) {
	db, holder := held(t)
	out, errs := &syncBuffer{}, &syncBuffer{}
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), []string{"--database.url=" + db.URL(), "refresh", "v", "--method=blocking"}, out, errs)
	}()
	want := fmt.Sprintf("v: waits for process %d (role postgres, report, idle in transaction, in a transaction since ", holder.PgConn().PID())
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(errs.String(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q, want %q", errs.String(), want)
		}
	}
	if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != exitOK || strings.Contains(out.String()+errs.String(), "\x1b") || strings.Count(errs.String(), "waits for") != 1 {
		t.Errorf("exit %d\n%s\n%s", code, out.String(), errs.String())
	}
}

func TestRefreshAsJSON(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW good AS SELECT 1 AS x WITH NO DATA; CREATE MATERIALIZED VIEW bad AS SELECT 1/n AS x FROM generate_series(0, 1) AS n WITH NO DATA`)
	code, stdout, stderr := exec(t, db.URL(), "refresh", "--all", "--output=json")
	if code != exitFailed || stderr != "" {
		t.Errorf("exit %d, %s", code, stderr)
	}
	outcomes := map[string]string{}
	for line := range strings.Lines(stdout) {
		var v struct {
			View       string     `json:"view_name"`
			Outcome    string     `json:"outcome"`
			Method     *string    `json:"method"`
			DataAsOf   *time.Time `json:"data_as_of"`
			DurationMS *int64     `json:"duration_ms"`
			SQLState   *string    `json:"sqlstate"`
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		outcomes[v.View] = v.Outcome
		if v.View == "good" && (*v.Method != "blocking" || time.Since(*v.DataAsOf) > time.Hour || v.DurationMS == nil) || v.View == "bad" && *v.SQLState != "22012" {
			t.Errorf("%s", line)
		}
	}
	if outcomes["good"] != "succeeded" || outcomes["bad"] != "failed" {
		t.Errorf("%v", outcomes)
	}
	if code, stdout, _ := exec(t, db.URL(), "refresh", "--due", "--output=json"); code != exitOK || stdout != "" {
		t.Errorf("nothing due: exit %d, %q", code, stdout)
	}
}
