package honesty

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// checker compares what the freshness view says of each view with what is in it.
//
// Row and record must be of one moment. One snapshot alone does not give that: a
// REFRESH exchanges the view's file under every snapshot, and the rows of the new
// file are frozen, hence visible to the oldest one. A snapshot taken first and a
// view read later would show newer data with an older record, which hides lies,
// or data that somebody has made older with a record that was still true, which
// makes them up. So the view is locked first (EXPLAIN takes the reader's lock and
// does not mind that a view is unpopulated), after which its file stays, and the
// record and the rows are then read by one statement, hence in one snapshot, which
// includes whatever made the file: a commit is visible before its locks are free.
//
// One view at a time: a checker that holds the lock of one view while it waits
// for another's would deadlock with refreshes of views over views.
type checker struct {
	url    string
	truth  *truth
	rarely *truth
	views  []*view

	mu     sync.Mutex
	counts map[string]*tally
	lies   []string
	lied   chan struct{} // closed at the first lie
}

// tally counts what was seen of a view.
type tally struct {
	verified int // a recorded as-of, compared with the data
	foreign  int // an as-of from a log row that another program wrote
	unknown  map[string]int
}

func newChecker(url string, truth, rarely *truth, views []*view) *checker {
	c := &checker{url: url, truth: truth, rarely: rarely, views: views, counts: map[string]*tally{}, lied: make(chan struct{})}
	for _, v := range views {
		c.counts[v.name] = &tally{unknown: map[string]int{}}
	}
	return c
}

// checkEvery is the pause between two looks at one view.
const checkEvery = 15 * time.Millisecond

func (c *checker) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, v := range c.views {
		all.Go(func() {
			for ctx.Err() == nil {
				if conn, err := connect(ctx, c.url, "checker"); err == nil {
					c.watch(ctx, conn, v)
					closeNow(conn)
				}
				pause(ctx, checkEvery)
			}
		})
	}
	all.Wait()
}

func (c *checker) watch(ctx context.Context, conn *pgx.Conn, v *view) {
	for ctx.Err() == nil && !conn.IsClosed() {
		seen, err := look(ctx, conn, v)
		if err == nil {
			c.judge(v, seen)
		}
		pause(ctx, checkEvery)
	}
}

// sight is a view and its record at one moment.
type sight struct {
	Now        time.Time
	Populated  bool
	Asked      bool
	AsOf       *time.Time
	Stale      *bool
	Reason     *string
	Recorded   *time.Time // the as-of in our state, be it valid or not
	RefreshedA *time.Time // the log's
	DurationMS *int64
	N          *int64 // the heartbeat in the view
}

// errGone says that the view had another name, or was dropped, just then.
var errGone = errors.New("no such view just now")

const sightSQL = `
SELECT clock_timestamp(), f.is_populated, f.is_stale IS NOT NULL, f.data_as_of, f.is_stale, f.stale_reason,
       st.data_as_of, f.last_refreshed_at, f.refresh_duration_ms, %s
FROM materialized_view_freshness AS f
LEFT JOIN materialized_view_refresh_state AS st ON st.view_name = f.view_name
WHERE f.view_oid = $1::regclass`

func look(ctx context.Context, conn *pgx.Conn, v *view) (s sight, err error) {
	if _, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"); err != nil {
		return s, err
	}
	defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") }()
	// By the simple protocol: nothing is parsed, and no name looked up, before.
	if _, err := conn.Exec(ctx, "EXPLAIN SELECT FROM "+v.name, pgx.QueryExecModeSimpleProtocol); err != nil {
		return s, err
	}
	var populated bool
	if err := conn.QueryRow(ctx, "SELECT relispopulated FROM pg_class WHERE oid = to_regclass($1)", v.name).Scan(&populated); err != nil {
		return s, err
	}
	n := "NULL::bigint"
	if populated {
		n = "(SELECT coalesce(max(n), 0) FROM " + v.name + ")"
	}
	row := conn.QueryRow(ctx, fmt.Sprintf(sightSQL, n), pgx.QueryExecModeExec, v.name)
	err = row.Scan(&s.Now, &s.Populated, &s.Asked, &s.AsOf, &s.Stale, &s.Reason, &s.Recorded, &s.RefreshedA, &s.DurationMS, &s.N)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, errGone
	}
	return s, err
}

// neverKnown are the reasons that go with an unknown as-of.
var neverKnown = []string{"never_refreshed", "not_populated", "recreated", "changed_outside", "missing"}

func (c *checker) judge(v *view, s sight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reason := "none"
	if s.Reason != nil {
		reason = *s.Reason
	}
	count := c.counts[v.name]
	if s.AsOf == nil {
		count.unknown[reason]++
		if s.Asked && (s.Stale == nil || !*s.Stale || s.Reason == nil) {
			c.lie(v, s, "its as-of is unknown, yet it is not stale for a reason")
		}
		return
	}
	switch {
	case !s.Populated:
		c.lie(v, s, "it is not populated, yet has an as-of")
	case slices.Contains(neverKnown, reason):
		c.lie(v, s, "it is "+reason+", yet has an as-of")
	case s.AsOf.After(s.Now):
		c.lie(v, s, "its as-of is in the future")
	case s.Recorded == nil || !s.AsOf.Equal(*s.Recorded):
		count.foreign++
		c.judgeForeign(v, s)
	default:
		count.verified++
		truth := c.truth
		if v.rare {
			truth = c.rarely
		}
		if must := truth.at(*s.AsOf); s.N == nil || *s.N < must.n {
			c.lie(v, s, fmt.Sprintf("it must hold bump %d, which was visible at %s, %s before its as-of",
				must.n, stamp(&must.at), s.AsOf.Sub(must.at)))
		}
	}
}

// judgeForeign knows nothing of what another program did, only what may be made
// of its row in the log.
func (c *checker) judgeForeign(v *view, s sight) {
	if !v.foreign {
		c.lie(v, s, "its as-of is not the recorded one, though no other program writes its log row")
		return
	}
	if s.RefreshedA == nil || s.DurationMS == nil || s.AsOf.After(s.RefreshedA.Add(-time.Duration(*s.DurationMS+1)*time.Millisecond)) {
		c.lie(v, s, "its as-of is later than its log row allows")
	}
}

// maxLies is how many are kept: the first one tells, a few more show the pattern.
const maxLies = 5

func (c *checker) lie(v *view, s sight, why string) {
	c.keep(fmt.Sprintf("at %s, %s: %s\n\tas-of %s, recorded %s, refreshed %s, holds bump %s, populated %v, stale reason %s",
		stamp(&s.Now), v.name, why, stamp(s.AsOf), stamp(s.Recorded), stamp(s.RefreshedA), number(s.N), s.Populated, text(s.Reason)))
}

// keep is called with mu held.
func (c *checker) keep(lie string) {
	if len(c.lies) == 0 {
		close(c.lied)
	}
	if len(c.lies) < maxLies {
		c.lies = append(c.lies, lie)
	}
}

// report is for a broken promise that an event has found.
func (c *checker) report(lie string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(lie)
}

func (c *checker) found() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lies)
}

func stamp(t *time.Time) string {
	if t == nil {
		return "unknown"
	}
	return t.UTC().Format("15:04:05.000000")
}

func number(n *int64) string {
	if n == nil {
		return "none"
	}
	return fmt.Sprint(*n)
}

func text(s *string) string {
	if s == nil {
		return "none"
	}
	return *s
}
