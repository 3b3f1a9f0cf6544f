package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/schedule"
)

// claim is one due refresh that this process has taken: its running row is in
// the history, and its next run is set.
type claim struct {
	row     schedule.Row
	view    string // canonical
	spec    string // of the schedule that row is
	dueAt   time.Time
	nextRun time.Time
	attempt int64
	// upstream is not nil where the view waited for one that it reads, and that failed.
	upstream *refresh.UpstreamError
}

func (c claim) request() refresh.Request {
	req := refresh.Of(c.row, c.view, refresh.TriggerSchedule)
	req.Attempt, req.SkipUnchanged = c.attempt, skipping(c.row)
	return req
}

// A view whose attempt is still running is left alone; its missed runs become one.
const dueSQL = `
SELECT ` + schedule.Columns + `, st.view_name, ` + specSQL + `, st.next_run_at, clock_timestamp()
FROM %[1]s AS st
JOIN %[2]s AS s ON s.view_name = st.schedule_name AND s.enabled
WHERE st.next_run_at <= clock_timestamp() AND ($4 OR st.view_name = $6)
  AND NOT EXISTS (SELECT FROM %[3]s AS h WHERE h.outcome = 'running' AND h.view_name = st.view_name)
  AND NOT ` + waitsSQL + `
ORDER BY st.next_run_at
LIMIT $5
FOR UPDATE OF st SKIP LOCKED`

// claim takes up to limit due refreshes, or only that of one view, in one short
// transaction. Row locks end with it: none is held while a refresh runs.
func (s *Scheduler) claim(ctx context.Context, limit int, view string) ([]claim, error) {
	tx, err := s.Pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return nil, fmt.Errorf("claim due refreshes: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	readers, read := s.pairs()
	rows, err := tx.Query(ctx, fmt.Sprintf(dueSQL, s.table("state"), s.table("schedule"), s.table("history")),
		readers, read, s.upstreamWait(), view == "", limit, view)
	if err != nil {
		return nil, fmt.Errorf("claim due refreshes: %w", err)
	}
	claims, err := pgx.CollectRows(rows, scanClaim)
	if err != nil {
		return nil, fmt.Errorf("claim due refreshes: %w", err)
	}
	if len(claims) == 0 {
		return nil, nil
	}
	found := len(claims)
	if err := s.findFailed(ctx, tx, claims); err != nil {
		return nil, fmt.Errorf("claim due refreshes: %w", err)
	}
	if claims, err = s.take(ctx, tx, claims); err != nil {
		return nil, fmt.Errorf("claim due refreshes: %w", err)
	}
	if len(claims) < found {
		s.told.Store(true) // a changed schedule is planned in the next round
	}
	// Also where ctx ends meanwhile: what is claimed would be refreshed by nobody.
	committing, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if err := tx.Commit(committing); err != nil {
		return nil, fmt.Errorf("claim due refreshes: %w", err)
	}
	return claims, nil
}

const commitTimeout = 5 * time.Second

func scanClaim(row pgx.CollectableRow) (claim, error) {
	var c claim
	var now time.Time
	var err error
	c.row, err = schedule.Scan(row, &c.view, &c.spec, &c.dueAt, &now)
	if err != nil {
		return claim{}, err
	}
	parsed, err := schedule.Parse(c.row.Spec)
	if err != nil {
		// Changed since it was reconciled; the next round says what is wrong.
		return c, nil //nolint:nilerr // the refresh itself is still right
	}
	c.nextRun = parsed.NextRun(c.view, now, c.dueAt)
	return c, nil
}

// take sets each view's next run and makes its attempt visible, together: an
// exporter that dies right after leaves an attempt whose heartbeat stops. It returns
// those taken: of a statement that took longer than a view's interval the snapshot
// may be of before another exporter's claim of it, and only the locked row of now.
// It may be of before the schedule was changed, too: the next run that the old one
// gives must not replace the one that another exporter has planned.
func (s *Scheduler) take(ctx context.Context, tx pgx.Tx, claims []claim) ([]claim, error) {
	views := make([]string, len(claims))
	specs := make([]string, len(claims))
	next := make([]*time.Time, len(claims))
	for i, c := range claims {
		views[i], specs[i] = c.view, c.spec
		if !c.nextRun.IsZero() {
			next[i] = &c.nextRun
		}
	}
	rows, err := tx.Query(ctx, `
WITH taken AS (
    UPDATE `+s.table("state")+` AS st SET next_run_at = c.next_run_at
    FROM unnest($1::text[], $2::timestamptz[], $4::text[]) AS c(view_name, next_run_at, scheduled_by)
    WHERE st.view_name = c.view_name AND st.scheduled_by = c.scheduled_by
      AND NOT EXISTS (SELECT FROM `+s.table("history")+` AS h WHERE h.outcome = 'running' AND h.view_name = st.view_name)
    RETURNING st.view_name
)
INSERT INTO `+s.table("history")+` AS h (view_name, trigger, outcome, attempted_by, heartbeat_at)
SELECT c.view_name, 'schedule', 'running', $3, clock_timestamp() FROM taken AS c
RETURNING h.view_name, h.id`, views, next, s.AttemptedBy, specs)
	if err != nil {
		return nil, err
	}
	ids := map[string]int64{}
	var view string
	var id int64
	if _, err := pgx.ForEachRow(rows, []any{&view, &id}, func() error { ids[view] = id; return nil }); err != nil {
		return nil, err
	}
	taken := claims[:0]
	for _, c := range claims {
		if c.attempt = ids[c.view]; c.attempt != 0 {
			taken = append(taken, c)
		}
	}
	return taken, nil
}

const (
	firstBackoff = 5 * time.Second
	maxBackoff   = 15 * time.Minute
)

// backOff brings a failed view's next run forward to a retry, later after each
// failure in a row, but never past its next regular run; one whose schedule cannot
// run any more, and so has none, is not tried again.
func (s *Scheduler) backOff(ctx context.Context, c claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	spread := 0.75 + rand.Float64()/2 //nolint:gosec // so that many do not retry at once
	_, err := s.Pool.Exec(ctx, `
UPDATE `+s.table("state")+`
SET next_run_at = least(next_run_at, clock_timestamp() + $2 * interval '1 second'
                        * least(power(2, least(greatest(consecutive_failures, 1), 20) - 1) * $3, $4))
WHERE view_name = $1 AND next_run_at IS NOT NULL`, c.view, spread, firstBackoff.Seconds(), maxBackoff.Seconds())
	if err != nil {
		s.Logger.Error("cannot schedule the retry; the next regular run stands", "view", c.view, "err", postgres.Message(err))
	}
}

func (s *Scheduler) table(name string) string {
	return postgres.QuoteIdent(s.Schema, "materialized_view_refresh_"+name)
}
