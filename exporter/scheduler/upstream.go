package scheduler

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// DefaultUpstreamWait bounds how long a due view waits for those that it reads:
// one that takes hours, or fails again and again, must not hold up the others for
// ever. After it the view is refreshed from what they have.
const DefaultUpstreamWait = 5 * time.Minute

const endless = 100 * 365 * 24 * time.Hour

// upstreamsKept is for how long the dependencies are believed. Between, a view
// may be replaced by one that reads others: one refresh out of order, with the
// as-of that it really has.
const upstreamsKept = 30 * time.Second

// upstreams are the dependencies between the views, read while something is due.
type upstreams struct {
	mu     sync.Mutex
	reads  refresh.Reads
	readAt time.Time
	// readers and read are the same as pairs, through materialized views too.
	readers, read []string
	unreachable   map[string]bool // targets of views, said once
}

// upstreamsOf are all that a view reads, each after those that it reads itself.
func (s *Scheduler) upstreamsOf(view string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads.Upstreams(view)
}

// readUpstreams reads the dependencies unless they are known; fresh is whether it did.
func (s *Scheduler) readUpstreams(ctx context.Context) (fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.readAt) < upstreamsKept {
		return false, nil
	}
	reads, err := refresh.ReadReads(ctx, s.Pool, s.Schema)
	if err != nil {
		return false, err
	}
	s.reads, s.readAt = reads, time.Now()
	s.readers, s.read = []string{}, []string{}
	for view := range reads {
		for _, upstream := range reads.Upstreams(view) {
			s.readers, s.read = append(s.readers, view), append(s.read, upstream)
		}
	}
	return true, nil
}

// upstreamWait is UpstreamWait in seconds. It counts from when a view fell due,
// but what fell due while nobody could refresh it has not waited yet.
func (s *Scheduler) upstreamWait() float64 {
	if !s.since.IsZero() && time.Since(s.since) < s.UpstreamWait {
		return endless.Seconds()
	}
	return s.UpstreamWait.Seconds()
}

func (s *Scheduler) forgetUpstreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readAt = time.Time{}
}

// pairs are never nil: a NULL would make every view wait.
func (s *Scheduler) pairs() (readers, read []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers == nil {
		return []string{}, []string{}
	}
	return s.readers, s.read
}

// waitsSQL is whether st, which is due, waits for a view that it reads and that
// is due too or being refreshed, here or elsewhere: but not for longer than $3 s.
// $1 and $2 are the pairs of [Scheduler.pairs]. Where $4 is false, a view that is
// only due is not waited for: a run that ends by itself has had its turn, and
// nobody else may be there. The pairs are gone through once a statement, whatever
// is due.
const waitsSQL = `(
    st.next_run_at > clock_timestamp() - $3 * interval '1 second' AND st.view_name IN (SELECT w.reader FROM ` + waitingSQL + ` AS w))`

// waitingSQL are the pairs of a view and one that it waits for, if it is due.
const waitingSQL = `(
    SELECT e.reader, e.read FROM unnest($1::text[], $2::text[]) AS e(reader, read)
    JOIN ` + busySQL + ` AS b ON b.view_name = e.read
    JOIN %[1]s AS r ON r.view_name = e.reader AND r.next_run_at > b.attempted_at)`

// busySQL are the views that are due or being refreshed. One is waited for only by
// those that fell due after it was last attempted: each reader has its turn after
// one run, however often the view that it reads is due. An attempt that was
// abandoned counts as none, but the second in a row does.
const busySQL = `(
    SELECT u.view_name, ` + attemptedSQL + ` AS attempted_at
    FROM %[1]s AS u JOIN %[2]s AS us ON us.view_name = u.schedule_name AND us.enabled
    WHERE $4 AND u.next_run_at <= clock_timestamp()
    UNION ALL
    SELECT h.view_name, ` + attemptedSQL + `
    FROM %[3]s AS h LEFT JOIN %[1]s AS u ON u.view_name = h.view_name WHERE h.outcome = 'running')`

const attemptedSQL = `CASE WHEN u.last_outcome = 'abandoned' AND u.consecutive_failures = 1 THEN '-infinity' ELSE coalesce(u.last_attempt_at, '-infinity') END`

// failedUpstreamSQL is, for each claimed view, the one that it reads and waited
// for, and that failed: of several the one where it began. Once: the view's next
// attempt is made whatever became of the other, or a view that also reads tables
// would never see them again.
const failedUpstreamSQL = `
SELECT DISTINCT ON (c.view_name) c.view_name, h.view_name, coalesce(h.error, 'nobody knows why')
FROM unnest($1::text[], $2::text[]) AS e(reader, read)
JOIN unnest($3::text[], $4::timestamptz[]) AS c(view_name, due_at) ON c.view_name = e.reader
JOIN %[1]s AS st ON st.view_name = c.view_name
 AND (SELECT l.failed_upstream FROM %[2]s AS l
      WHERE l.view_name = c.view_name AND l.outcome <> 'running' ORDER BY l.started_at DESC LIMIT 1) IS NULL
JOIN LATERAL (SELECT l.view_name, l.outcome, l.finished_at, l.error, l.failed_upstream FROM %[2]s AS l
              WHERE l.view_name = e.read ORDER BY l.started_at DESC LIMIT 1) AS h
  ON h.outcome IN ('failed', 'abandoned') AND h.finished_at >= c.due_at
ORDER BY c.view_name, h.failed_upstream IS NOT NULL, h.finished_at`

// findFailed notes which claims waited for a refresh that failed.
func (s *Scheduler) findFailed(ctx context.Context, tx pgx.Tx, claims []claim) error {
	readers, read := s.pairs()
	if len(readers) == 0 {
		return nil
	}
	views, dueAt := make([]string, len(claims)), make([]time.Time, len(claims))
	for i, c := range claims {
		views[i], dueAt[i] = c.view, c.dueAt
	}
	rows, err := tx.Query(ctx, fmt.Sprintf(failedUpstreamSQL, s.table("state"), s.table("history")), readers, read, views, dueAt)
	if err != nil {
		return err
	}
	failed := map[string]*refresh.UpstreamError{}
	var view, upstream, cause string
	_, err = pgx.ForEachRow(rows, []any{&view, &upstream, &cause}, func() error {
		failed[view] = &refresh.UpstreamError{View: upstream, Cause: strings.TrimPrefix(cause, "refresh "+upstream+": ")}
		return nil
	})
	for i := range claims {
		claims[i].upstream = failed[claims[i].view]
	}
	return err
}
