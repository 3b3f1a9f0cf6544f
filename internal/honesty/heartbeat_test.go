package honesty

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// truth knows what a view must contain: bump n was visible to every new snapshot from
// at on, as the database's clock was read after the commit was acknowledged.
type truth struct {
	mu   sync.Mutex
	seen []bump // ascending in both
}

type bump struct {
	at time.Time
	n  int64
}

func (t *truth) add(b bump) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.seen) > 0 {
		last := t.seen[len(t.seen)-1]
		if b.n <= last.n || b.at.Before(last.at) {
			return // known already, and the earlier observation is the stricter one
		}
	}
	t.seen = append(t.seen, b)
}

// at returns the last bump that a view with this as-of must contain; zero if none.
func (t *truth) at(asOf time.Time) bump {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, found := slices.BinarySearchFunc(t.seen, asOf, func(b bump, at time.Time) int { return b.at.Compare(at) })
	if found {
		i++
	}
	if i == 0 {
		return bump{}
	}
	return t.seen[i-1]
}

func (t *truth) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.seen)
}

// bumpSQL is one transaction. It updates the row of the heartbeat and inserts a row
// with the same n into the partitioned table of ticks.
const (
	bumpSQL = `WITH h AS (UPDATE heartbeat SET n = n + 1 RETURNING n) INSERT INTO ticks SELECT n FROM h`

	// burstSQL commits several times. PostgreSQL counts its changes only at its end.
	burstSQL = `CALL burst(20)`

	// seenSQL must be a statement of its own, sent after the bump is acknowledged: its
	// snapshot is older than its clock.
	seenSQL = `SELECT n, clock_timestamp() FROM heartbeat`

	pruneSQL = `DELETE FROM ticks WHERE n < (SELECT n FROM heartbeat) - 50`
)

// writer bumps the heartbeat until its context ends. It reconnects after a crash.
type writer struct {
	url   string
	truth *truth
	mu    sync.Mutex
	idle  time.Duration // before the next bump
	burst bool          // the next bump is by burstSQL
}

// bumpEvery is the pause between two bumps.
const bumpEvery = 3 * time.Millisecond

func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if conn, err := connect(ctx, w.url, "writer"); err == nil {
			w.bump(ctx, conn)
			closeNow(conn)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// bump continues until its connection breaks. A commit that was not acknowledged counts
// from the next time it is observed.
func (w *writer) bump(ctx context.Context, conn *pgx.Conn) {
	for i := 0; ctx.Err() == nil && !conn.IsClosed(); i++ {
		sql, idle := w.next()
		if i%100 == 99 {
			sql = pruneSQL
		}
		if idle > 0 {
			pause(ctx, idle)
		}
		if _, err := conn.Exec(ctx, sql); err != nil {
			continue // canceled or deadlocked; a broken connection ends the loop
		}
		var b bump
		if err := conn.QueryRow(ctx, seenSQL).Scan(&b.n, &b.at); err == nil {
			w.truth.add(b)
		}
		pause(ctx, bumpEvery)
	}
}

func (w *writer) next() (sql string, idle time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sql, idle = bumpSQL, w.idle
	if w.burst {
		sql = burstSQL
	}
	w.idle, w.burst = 0, false
	return sql, idle
}

func (w *writer) idleOnce(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = d
}

func (w *writer) burstOnce() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.burst = true
}

// connect connects with an application_name, and with the isolation level that the
// harness relies on, whatever the database's default is.
func connect(ctx context.Context, url, name string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse the URL: %w", err)
	}
	config.RuntimeParams["application_name"] = name
	config.RuntimeParams["default_transaction_isolation"] = "read committed"
	return pgx.ConnectConfig(ctx, config)
}

// closeNow closes the connection, without an error if the server is gone.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// pause waits for d, unless ctx ends earlier.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
