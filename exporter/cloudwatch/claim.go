package cloudwatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Claims shares the publishing of one destination among replicas, through the
// database: each minute one of them gets it, and the attempts since.
type Claims struct {
	Pool        *pgxpool.Pool
	Schema      string // of the tables of matview
	Destination string
}

// gaps is how many ids below the highest may still come to light: those of
// transactions that had begun and not ended when we looked.
const gaps = 1000

const newSQL = `
INSERT INTO %[1]s (destination, minute, seen_id, waiting)
SELECT $1, '-infinity', coalesce(max(id), 0), coalesce(array_agg(id) FILTER (WHERE outcome = 'running'), '{}') FROM %[2]s
ON CONFLICT DO NOTHING`

const moveSQL = `
UPDATE %[1]s SET minute = date_trunc('minute', clock_timestamp())
WHERE destination = $1 AND minute < date_trunc('minute', clock_timestamp())
RETURNING seen_id, waiting`

// How old the data had become is known by the attempt before, of which the
// index on view and start finds the last.
const endedSQL = `
WITH ids AS (SELECT unnest($2::bigint[]) AS id UNION SELECT id FROM %[2]s WHERE id > $1)
SELECT h.id, h.view_name, h.outcome, coalesce(h.finished_at, clock_timestamp()), coalesce(h.duration_ms, 0),
       CASE WHEN h.outcome = 'succeeded' THEN extract(epoch FROM h.finished_at - (
           SELECT p.data_as_of FROM %[2]s AS p
           WHERE p.view_name = h.view_name AND p.started_at < h.started_at AND p.outcome IN ('succeeded', 'skipped')
           ORDER BY p.started_at DESC LIMIT 1))::double precision END
FROM %[2]s AS h JOIN ids ON ids.id = h.id
ORDER BY h.finished_at, h.id`

// Claim takes the current minute, by the database's clock. It is not ours if
// another replica has taken it.
func (c *Claims) Claim(ctx context.Context) (attempts []Attempt, ours bool, err error) {
	publication := postgres.QuoteIdent(c.Schema, "materialized_view_refresh_publication")
	history := postgres.QuoteIdent(c.Schema, "materialized_view_refresh_history")
	err = pgx.BeginTxFunc(ctx, c.Pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		var seen int64
		var waiting []int64
		if _, err := tx.Exec(ctx, fmt.Sprintf(newSQL, publication, history), c.Destination); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, fmt.Sprintf(moveSQL, publication), c.Destination).Scan(&seen, &waiting)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		ours = true
		w := window{seen: seen, waiting: waiting}
		if attempts, err = w.read(ctx, tx, fmt.Sprintf(endedSQL, publication, history)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE "+publication+" SET seen_id = $2, waiting = $3 WHERE destination = $1", c.Destination, w.seen, w.waiting)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("claim a minute of publishing: %w", err)
	}
	return attempts, ours, nil
}

// window is which attempts are published.
type window struct {
	seen    int64
	waiting []int64
}

// read gives the attempts that ended since, and moves the window on.
func (w *window) read(ctx context.Context, tx pgx.Tx, sql string) ([]Attempt, error) {
	rows, err := tx.Query(ctx, sql, w.seen, w.waiting)
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
