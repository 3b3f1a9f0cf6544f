package cloudwatch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Claims shares the publishing to a destination among replicas, through the
// database: each minute one of them gets it, and the attempts since. Those count
// as published only once it has confirmed that, so that none is lost with a
// process; one that dies between the two has them published twice.
type Claims struct {
	Pool   *pgxpool.Pool
	Schema string // of the tables of matview
}

// Claimed is what this process may publish.
type Claimed struct {
	Attempts []Attempt
	// Until is when another may take it over.
	Until time.Time
	// Confirm says that it is published.
	Confirm func(ctx context.Context) error
}

// lease is how long a claim holds, which is time enough for a call with all its
// retries.
const lease = 40 * time.Second

// maxAttempts bounds what one claim reads; the next one reads on.
const maxAttempts = 10_000

// gaps is how many ids below the highest may still come to light: those of
// transactions that had begun and not ended when we looked.
const gaps = 1000

const newSQL = `
INSERT INTO %[1]s (destination, minute, seen_id, waiting)
SELECT $1, '-infinity', coalesce((SELECT max(id) FROM %[2]s), 0), ARRAY(SELECT id FROM %[2]s WHERE outcome = 'running')
WHERE NOT EXISTS (SELECT FROM %[1]s WHERE destination = $1)
ON CONFLICT DO NOTHING`

const claimSQL = `
UPDATE %[1]s SET claimed_by = $2, claimed_until = clock_timestamp() + $3 * interval '1 second'
WHERE destination = $1 AND claimed_until <= clock_timestamp() AND ($4 OR minute < date_trunc('minute', clock_timestamp()))
RETURNING CASE WHEN $4 THEN minute ELSE date_trunc('minute', clock_timestamp()) END, seen_id, waiting`

const heldSQL = `
SELECT extract(epoch FROM claimed_until - clock_timestamp())::double precision FROM %[1]s
WHERE destination = $1 AND minute < date_trunc('minute', clock_timestamp()) AND isfinite(claimed_until)`

const confirmSQL = `
UPDATE %[1]s SET minute = greatest(minute, $3), seen_id = $4, waiting = $5, claimed_until = '-infinity'
WHERE destination = $1 AND claimed_by = $2`

// How old the data had become is known by the attempt before, of which the
// index on view and start finds the last.
const endedSQL = `
WITH ids AS (SELECT unnest($2::bigint[]) AS id UNION (SELECT id FROM %[2]s WHERE id > $1 ORDER BY id LIMIT $3))
SELECT h.id, h.view_name, h.outcome, coalesce(h.finished_at, clock_timestamp()), coalesce(h.duration_ms, 0),
       CASE WHEN h.outcome = 'succeeded' THEN extract(epoch FROM h.finished_at - (
           SELECT p.data_as_of FROM %[2]s AS p
           WHERE p.view_name = h.view_name AND p.started_at < h.started_at AND p.outcome IN ('succeeded', 'skipped')
           ORDER BY p.started_at DESC LIMIT 1))::double precision END
FROM %[2]s AS h JOIN ids ON ids.id = h.id
ORDER BY h.finished_at, h.id`

// Begin notes where a destination that was never published to begins: attempts
// that have ended by now are not its.
func (c *Claims) Begin(ctx context.Context, destination string) error {
	if _, err := c.Pool.Exec(ctx, c.sql(newSQL), destination); err != nil {
		return fmt.Errorf("claim a minute of publishing: %w", err)
	}
	return nil
}

// Minute claims the current minute of a destination, by the database's clock. It
// is nil if another replica has published it, or claimed it: again then says
// when to ask again, and is else 0.
func (c *Claims) Minute(ctx context.Context, destination string) (claimed *Claimed, again time.Duration, err error) {
	return c.claim(ctx, destination, false)
}

// Attempts claims the attempts that are not published yet, and no minute. It is
// nil if another process has them.
func (c *Claims) Attempts(ctx context.Context, destination string) (*Claimed, error) {
	claimed, _, err := c.claim(ctx, destination, true)
	return claimed, err
}

func (c *Claims) claim(ctx context.Context, destination string, anyMinute bool) (claimed *Claimed, again time.Duration, err error) {
	by := rand.Text()
	until := time.Now().Add(lease)
	err = pgx.BeginTxFunc(ctx, c.Pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, c.sql(newSQL), destination); err != nil {
			return err
		}
		var minute pgtype.Timestamptz // of a destination that is new, -infinity
		var w window
		err := tx.QueryRow(ctx, c.sql(claimSQL), destination, by, lease.Seconds(), anyMinute).Scan(&minute, &w.seen, &w.waiting)
		if errors.Is(err, pgx.ErrNoRows) {
			again, err = c.held(ctx, tx, destination)
			return err
		}
		if err != nil {
			return err
		}
		claimed = &Claimed{Until: until}
		if claimed.Attempts, err = w.read(ctx, tx, c.sql(endedSQL)); err != nil {
			return err
		}
		claimed.Confirm = func(ctx context.Context) error { return c.confirm(ctx, destination, by, minute, w) }
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("claim a minute of publishing: %w", err)
	}
	return claimed, again, nil
}

// held is how long another process has what we did not get; 0 if it has
// published it.
func (c *Claims) held(ctx context.Context, tx pgx.Tx, destination string) (time.Duration, error) {
	var seconds float64
	err := tx.QueryRow(ctx, c.sql(heldSQL), destination).Scan(&seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return max(time.Duration(seconds*float64(time.Second)), time.Millisecond), err
}

func (c *Claims) confirm(ctx context.Context, destination, by string, minute pgtype.Timestamptz, w window) error {
	tag, err := c.Pool.Exec(ctx, c.sql(confirmSQL), destination, by, minute, w.seen, w.waiting)
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("another exporter has taken it over meanwhile")
	}
	if err != nil {
		return fmt.Errorf("confirm what was published, which may be published again: %w", err)
	}
	return nil
}

func (c *Claims) sql(format string) string {
	return fmt.Sprintf(format, postgres.QuoteIdent(c.Schema, "materialized_view_refresh_publication"),
		postgres.QuoteIdent(c.Schema, "materialized_view_refresh_history"))
}

// window is which attempts are published.
type window struct {
	seen    int64
	waiting []int64
}

// read gives the attempts that ended since, and moves the window on.
func (w *window) read(ctx context.Context, tx pgx.Tx, sql string) ([]Attempt, error) {
	rows, err := tx.Query(ctx, sql, w.seen, w.waiting, maxAttempts)
	if err != nil {
		return nil, err
	}
	var attempts []Attempt
	visible, running := map[int64]bool{}, []int64{}
	top := w.seen
	var id, milliseconds int64
	var a Attempt
	_, err = pgx.ForEachRow(rows, []any{&id, &a.View, &a.Outcome, &a.FinishedAt, &milliseconds, &a.StalenessBefore}, func() error {
		visible[id], top = true, max(top, id)
		if a.Outcome == "running" {
			running = append(running, id)
			return nil
		}
		a.Duration = time.Duration(milliseconds) * time.Millisecond
		attempts = append(attempts, a)
		a.StalenessBefore = nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, id := range w.waiting {
		if !visible[id] && id > top-gaps {
			running = append(running, id)
		}
	}
	for id := max(w.seen, top-gaps) + 1; id <= top; id++ {
		if !visible[id] {
			running = append(running, id)
		}
	}
	w.seen, w.waiting = top, running
	return attempts, nil
}
