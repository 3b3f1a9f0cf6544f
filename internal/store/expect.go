package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Expectation is what the history and the schedule say about a view: how long its
// refreshes take, and how often they come.
type Expectation struct {
	ViewName    string
	Duration    time.Duration // the 95th percentile of the last 50, from begin to commit; 0: not known
	Interval    time.Duration // the longest between two runs; 0: it has no schedule
	IsScheduled bool
	Enabled     bool
}

// Expectations reads what to expect of views, by canonical names. The last attempts
// say what the next one will take; a percentile over months would go on expecting
// a table that has been emptied since.
func (s *Store) Expectations(ctx context.Context, db DB, views []string) (map[string]Expectation, error) {
	found, err := collect[Expectation](db.Query(ctx, s.SQL(`
SELECT v.view_name,
       coalesce((SELECT percentile_disc(0.95) WITHIN GROUP (ORDER BY a.took)
                 FROM (SELECT h.finished_at - h.started_at AS took
                       FROM {history} AS h WHERE h.view_name = v.view_name AND h.outcome = 'succeeded' AND h.trigger <> 'external'
                       ORDER BY h.started_at DESC LIMIT 50) AS a), interval '0') AS duration,
       coalesce(`+nanoseconds(`coalesce(s.every, s.target_staleness, s.longest_gap)`)+`, 0) AS interval,
       s.view_name IS NOT NULL AS is_scheduled, coalesce(s.enabled, false) AS enabled
FROM unnest(@views::text[]) AS v(view_name)
LEFT JOIN {state} AS st ON st.view_name = v.view_name
LEFT JOIN {schedule} AS s ON s.view_name = st.schedule_name`), pgx.NamedArgs{"views": views}))
	if err != nil {
		return nil, fmt.Errorf("read how long refreshes take: %w", err)
	}
	expectations := make(map[string]Expectation, len(found))
	for _, e := range found {
		expectations[e.ViewName] = e
	}
	return expectations, nil
}

// MedianDurations reads how long the last 20 refreshes of each view took. Views
// without one are left out.
func (s *Store) MedianDurations(ctx context.Context, db DB, views []string) (map[string]time.Duration, error) {
	type median struct {
		ViewName string
		Duration time.Duration
	}
	found, err := collect[median](db.Query(ctx, s.SQL(`
SELECT * FROM (
    SELECT v.view_name, (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY a.took)
                         FROM (SELECT h.finished_at - h.started_at AS took FROM {history} AS h
                               WHERE h.view_name = v.view_name AND h.outcome = 'succeeded' ORDER BY h.started_at DESC LIMIT 20) AS a) AS duration
    FROM unnest(@views::text[]) AS v(view_name)
) AS m WHERE duration IS NOT NULL`), pgx.NamedArgs{"views": views}))
	if err != nil {
		return nil, fmt.Errorf("read how long refreshes take: %w", err)
	}
	durations := make(map[string]time.Duration, len(found))
	for _, m := range found {
		durations[m.ViewName] = m.Duration
	}
	return durations, nil
}

// RunningAttempt is a refresh under way, or one whose process died.
type RunningAttempt struct {
	ViewName    string
	AttemptedBy *string
	RunningFor  time.Duration
	SilentFor   time.Duration // since the last heartbeat
	Dead        bool          // it has been silent for too long
}

// RunningAttempts reads the refreshes under way, by any process, the oldest first.
func (s *Store) RunningAttempts(ctx context.Context, db DB) ([]RunningAttempt, error) {
	found, err := collect[RunningAttempt](db.Query(ctx, s.SQL(`
SELECT view_name, attempted_by, clock_timestamp() - started_at AS running_for,
       clock_timestamp() - coalesce(heartbeat_at, started_at) AS silent_for, `+silent+` AS dead
FROM {history} WHERE outcome = 'running' ORDER BY started_at`)))
	if err != nil {
		return nil, fmt.Errorf("read which refreshes are running: %w", err)
	}
	return found, nil
}

// ReadOnly says why nothing can be written by a session of this role, or "". The session
// itself may have been made read-only.
func (s *Store) ReadOnly(ctx context.Context, db DB) (reason string, err error) {
	err = db.QueryRow(ctx, `
SELECT CASE WHEN pg_is_in_recovery() THEN 'the server is a standby'
            WHEN (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only') = 'on'
            THEN 'default_transaction_read_only is on for this role, the database or the server'
            ELSE '' END`).Scan(&reason)
	if err != nil {
		return "", fmt.Errorf("read whether the database is read-only: %w", err)
	}
	return reason, nil
}
