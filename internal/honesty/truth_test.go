package honesty

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// truth is what a view must hold: bump n was visible to every new snapshot from
// at on, since the database's clock was read after the commit was acknowledged.
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
			return // known already; the earlier sighting is the stronger one
		}
	}
	t.seen = append(t.seen, b)
}

// at is the last bump that a view with this as-of must hold; zero if none.
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

// bumpSQL is one transaction. The heartbeat is a row that is updated, the ticks
// are rows of a partitioned table; both have the same n.
const (
	bumpSQL = `WITH h AS (UPDATE heartbeat SET n = n + 1 RETURNING n) INSERT INTO ticks SELECT n FROM h`

	// burstSQL commits as it goes, which holds its counters back to its end.
	burstSQL = `CALL burst(20)`

	// seenSQL must be a statement of its own, sent after the bump's answer: its
	// snapshot is older than its clock.
	seenSQL = `SELECT n, clock_timestamp() FROM heartbeat`

	pruneSQL = `DELETE FROM ticks WHERE n < (SELECT n FROM heartbeat) - 50`
)

// writer bumps the heartbeat until its context ends, over every crash.
type writer struct {
	url   string
	truth *truth
	mu    sync.Mutex
	rest  time.Duration // to be idle for once
	burst bool          // to bump by a procedure once
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

// bump goes on until its connection breaks. What was committed without an
// answer is seen, and counts, from the next sighting on.
func (w *writer) bump(ctx context.Context, conn *pgx.Conn) {
	for i := 0; ctx.Err() == nil && !conn.IsClosed(); i++ {
		sql, rest := w.next()
		if i%100 == 99 {
			sql = pruneSQL
		}
		if rest > 0 {
			pause(ctx, rest)
		}
		if _, err := conn.Exec(ctx, sql); err != nil {
			continue // cancelled, or out of luck with a lock; the connection tells
		}
		var b bump
		if err := conn.QueryRow(ctx, seenSQL).Scan(&b.n, &b.at); err == nil {
			w.truth.add(b)
		}
		pause(ctx, bumpEvery)
	}
}

func (w *writer) next() (sql string, rest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sql, rest = bumpSQL, w.rest
	if w.burst {
		sql = burstSQL
	}
	w.rest, w.burst = 0, false
	return sql, rest
}

func (w *writer) restOnce(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = d
}

func (w *writer) burstOnce() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.burst = true
}

// connect connects under a name, pinned to the isolation that the harness's own
// parts rely on, whatever the database's default has become.
func connect(ctx context.Context, url, name string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse the URL: %w", err)
	}
	config.RuntimeParams["application_name"] = name
	config.RuntimeParams["default_transaction_isolation"] = "read committed"
	return pgx.ConnectConfig(ctx, config)
}

// closeNow closes without a word to a server that may be gone.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// pause lets time go by, for instance with a lock held; nothing is waited for.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
