package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Outcomes of an attempt, as the history names them.
const (
	Running   = "running"
	Succeeded = "succeeded"
	Failed    = "failed"
	Skipped   = "skipped"
	Abandoned = "abandoned" // its process stopped sending heartbeats
)

// NewAttempt is an attempt that begins.
type NewAttempt struct {
	Claimed          int64  // the row that a claim has inserted; 0 inserts one of what follows
	Schema, Relation string // of the view, unquoted
	Trigger          string
	AttemptedBy      string
	// Pooled leaves the backend unrecorded: a pooler in transaction mode gives the
	// refresh another one than this statement.
	Pooled bool
}

// Attempt is the row of an attempt in the history.
type Attempt struct {
	ID       int64
	ViewName string // canonical
}

// asynchronously makes a commit not wait for the disk: losing the row in a crash
// loses nothing.
const asynchronously = `FROM (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronously`

const (
	ownPID   = `CASE WHEN NOT @pooled THEN pg_backend_pid() END`
	ownStart = `CASE WHEN NOT @pooled THEN (SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())) END`

	insertAttemptSQL = `
INSERT INTO {history} AS h (view_name, trigger, outcome, attempted_by, backend_pid, backend_start, heartbeat_at)
SELECT {name}(@schema, @relation), @trigger, 'running', @attempted_by, ` + ownPID + `, ` + ownStart + `, clock_timestamp()
` + asynchronously + `
RETURNING h.id, h.view_name`

	beginClaimedSQL = `
UPDATE {history} AS h
SET backend_pid = ` + ownPID + `, backend_start = ` + ownStart + `, heartbeat_at = clock_timestamp(), started_at = clock_timestamp()
` + asynchronously + `
WHERE h.id = @claimed AND h.outcome = 'running'
RETURNING h.id, h.view_name`
)

// BeginAttempt makes an attempt visible to others, in a commit of its own. The error
// is [pgx.ErrNoRows] if a claimed one has ended already.
func (s *Store) BeginAttempt(ctx context.Context, db DB, a NewAttempt) (Attempt, error) {
	sql := insertAttemptSQL
	if a.Claimed != 0 {
		sql = beginClaimedSQL
	}
	rows, err := db.Query(ctx, s.SQL(sql), pgx.NamedArgs{
		"claimed": a.Claimed, "schema": a.Schema, "relation": a.Relation,
		"trigger": a.Trigger, "attempted_by": a.AttemptedBy, "pooled": a.Pooled,
	})
	if err != nil {
		return Attempt{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Attempt])
}

const heartbeatSQL = `
WITH attempt AS (
    SELECT h.id, h.backend_pid IS NOT NULL
             AND NOT EXISTS (SELECT FROM pg_stat_get_activity(h.backend_pid) AS b WHERE b.backend_start = h.backend_start) AS gone
    FROM {history} AS h WHERE h.id = @attempt AND h.outcome = 'running'
), alive AS (
    UPDATE {history} SET heartbeat_at = clock_timestamp() WHERE id = (SELECT id FROM attempt WHERE NOT gone)
)
SELECT EXISTS (SELECT FROM attempt WHERE gone)`

// Heartbeat records that the process of a running attempt is alive, unless its
// backend is gone: then the process waits for an answer that never comes.
func (s *Store) Heartbeat(ctx context.Context, db DB, attempt int64) (gone bool, err error) {
	err = db.QueryRow(ctx, s.SQL(heartbeatSQL), pgx.NamedArgs{"attempt": attempt}).Scan(&gone)
	return gone, err
}

// PastRefresh is a refresh that succeeded.
type PastRefresh struct {
	Method                    *string
	DurationMS                *int64
	RowsInserted, RowsDeleted *int64
	// SwapRefused and ConcurrentlyRefused are those of [Success].
	SwapRefused, ConcurrentlyRefused bool
}

// QueuePastRefreshes reads the last refreshes of a view by our own programs, the
// latest first. [CollectPastRefreshes] reads the result.
func (s *Store) QueuePastRefreshes(batch *pgx.Batch, view string, limit int) {
	batch.Queue(s.SQL(`
SELECT method, duration_ms, rows_inserted, rows_deleted, swap_refused, concurrently_refused
FROM {history}
WHERE view_name = @view AND outcome = 'succeeded' AND trigger <> 'external'
ORDER BY started_at DESC LIMIT @limit`), pgx.NamedArgs{"view": view, "limit": limit})
}

// CollectPastRefreshes reads the result of [Store.QueuePastRefreshes].
func CollectPastRefreshes(rows pgx.Rows, err error) ([]PastRefresh, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[PastRefresh])
}

// attemptLockClass is the class of the advisory lock that the transaction of an
// attempt holds, besides that on its view. It tells others which backend is at
// work on the attempt at this moment. The backend in the history may be that of an
// earlier transaction and serve somebody else by now.
const (
	attemptLockClass = int32(0x6d617477) // that of locks on views, and one
	attemptLockKey   = `(@attempt::bigint & 2147483647)::int`
)

// QueueAttemptLock takes the lock of an attempt. It never waits, as nobody else
// takes it.
func (s *Store) QueueAttemptLock(batch *pgx.Batch, attempt int64) {
	batch.Queue("SELECT pg_try_advisory_xact_lock(@class, "+attemptLockKey+")", pgx.NamedArgs{"class": attemptLockClass, "attempt": attempt})
}

const holdsAttemptLock = `l.locktype = 'advisory' AND l.classid = @class::int::oid AND l.objsubid = 2 AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// EndTransaction terminates the backend at work on an attempt, if there is one.
// It needs the rights of pg_terminate_backend.
func (s *Store) EndTransaction(ctx context.Context, db DB, attempt int64) error {
	_, err := db.Exec(ctx, `
SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l
WHERE `+holdsAttemptLock+` AND l.objid = `+attemptLockKey+`::oid`, pgx.NamedArgs{"class": attemptLockClass, "attempt": attempt})
	return err
}

// BlockedAttempt is a running attempt that waits for locks.
type BlockedAttempt struct {
	ViewName string
	Blockers string // a description of the sessions that hold them
}

// BlockedAttempts are the attempts of one process that wait for locks of others.
func (s *Store) BlockedAttempts(ctx context.Context, db DB, attemptedBy string) ([]BlockedAttempt, error) {
	rows, err := db.Query(ctx, s.SQL(`
SELECT view_name, blockers
FROM (SELECT h.view_name, (`+postgres.DescribeSessionsSQL("unnest(pg_blocking_pids(l.pid)) AS pid")+`) AS blockers
      FROM {history} AS h
      JOIN pg_locks AS l ON `+holdsAttemptLock+` AND l.objid = (h.id & 2147483647)::int::oid
      WHERE h.outcome = 'running' AND h.attempted_by = @attempted_by) AS running
WHERE blockers IS NOT NULL`), pgx.NamedArgs{"class": attemptLockClass, "attempted_by": attemptedBy})
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[BlockedAttempt])
}
