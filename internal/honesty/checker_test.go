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

// checker compares what the freshness view reports of each view with the view's rows.
//
// Record and rows must belong to the same moment. One snapshot does not ensure that: a
// REFRESH replaces the view's file under every snapshot, and the rows of the new file
// are frozen, so even the oldest snapshot sees them. If the snapshot came first, the
// checker might compare newer rows with an older record, which hides violations, or
// older rows with a record that was still true, which invents them. So the checker
// locks the view first, after which its file stays the same. (EXPLAIN takes a reader's
// lock and accepts an unpopulated view.) Then one statement, so one snapshot, reads the
// record and the rows. It includes the commit that made the file, as a commit becomes
// visible before its locks are released.
//
// Each connection checks one view: a checker that kept the lock of one view while it
// waited for another would deadlock with refreshes of views over views.
type checker struct {
	url    string
	truth  *truth
	rarely *truth
	views  []*view

	mu         sync.Mutex
	counts     map[string]*tally
	violations []string
	violated   chan struct{} // closed at the first violation
}

// tally counts the observations of a view.
type tally struct {
	verified int // with a recorded as-of, which was compared with the rows
	foreign  int // with an as-of from a log row of another program
	unknown  map[string]int
}

func newChecker(url string, truth, rarely *truth, views []*view) *checker {
	c := &checker{url: url, truth: truth, rarely: rarely, views: views, counts: map[string]*tally{}, violated: make(chan struct{})}
	for _, v := range views {
		c.counts[v.name] = &tally{unknown: map[string]int{}}
	}
	return c
}

// checkEvery is the pause between two observations of a view.
const checkEvery = 15 * time.Millisecond

func (c *checker) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, v := range c.views {
		all.Go(func() {
			for ctx.Err() == nil {
				if conn, err := connect(ctx, c.url, "checker"); err == nil {
					c.checkView(ctx, conn, v)
					closeNow(conn)
				}
				pause(ctx, checkEvery)
			}
		})
	}
	all.Wait()
}

func (c *checker) checkView(ctx context.Context, conn *pgx.Conn, v *view) {
	for ctx.Err() == nil && !conn.IsClosed() {
		seen, err := observe(ctx, conn, v)
		if err == nil {
			c.judge(v, seen)
		}
		pause(ctx, checkEvery)
	}
}

// observation is a view and its record at one moment.
type observation struct {
	Now        time.Time
	Populated  bool
	Limited    bool // it has a service level, so is_stale is known
	AsOf       *time.Time
	Stale      *bool
	Reason     *string
	Recorded   *time.Time // the as-of in the state table, valid or not
	RefreshedA *time.Time // the log's
	DurationMS *int64
	N          *int64 // the heartbeat in the view
}

// errGone says that the view was renamed or dropped at that moment.
var errGone = errors.New("no such view at the moment")

const observationSQL = `
SELECT clock_timestamp(), f.is_populated, f.is_stale IS NOT NULL, f.data_as_of, f.is_stale, f.stale_reason,
       st.data_as_of, f.last_refreshed_at, f.refresh_duration_ms, %s
FROM materialized_view_freshness AS f
LEFT JOIN materialized_view_refresh_state AS st ON st.view_name = f.view_name
WHERE f.view_oid = $1::regclass`

func observe(ctx context.Context, conn *pgx.Conn, v *view) (s observation, err error) {
	if _, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"); err != nil {
		return s, err
	}
	defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") }()
	// The simple protocol parses, and looks up the name, when it takes the lock.
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
	row := conn.QueryRow(ctx, fmt.Sprintf(observationSQL, n), pgx.QueryExecModeExec, v.name)
	err = row.Scan(&s.Now, &s.Populated, &s.Limited, &s.AsOf, &s.Stale, &s.Reason, &s.Recorded, &s.RefreshedA, &s.DurationMS, &s.N)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, errGone
	}
	return s, err
}

// neverKnown are the stale reasons that imply an unknown as-of.
var neverKnown = []string{"never_refreshed", "not_populated", "recreated", "changed_outside", "missing"}

func (c *checker) judge(v *view, s observation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reason := "none"
	if s.Reason != nil {
		reason = *s.Reason
	}
	count := c.counts[v.name]
	if s.AsOf == nil {
		count.unknown[reason]++
		if s.Limited && (s.Stale == nil || !*s.Stale || s.Reason == nil) {
			c.violation(v, s, "its as-of is unknown, but it is not stale with a reason")
		}
		return
	}
	switch {
	case !s.Populated:
		c.violation(v, s, "it is not populated, but has an as-of")
	case slices.Contains(neverKnown, reason):
		c.violation(v, s, "it is "+reason+", but has an as-of")
	case s.AsOf.After(s.Now):
		c.violation(v, s, "its as-of is in the future")
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
			c.violation(v, s, fmt.Sprintf("it must contain bump %d, which was visible at %s, %s before its as-of",
				must.n, stamp(&must.at), s.AsOf.Sub(must.at)))
		}
	}
}

// judgeForeign checks an as-of that comes from another program's log row. What that
// program did is unknown; only the row bounds the as-of.
func (c *checker) judgeForeign(v *view, s observation) {
	if !v.foreign {
		c.violation(v, s, "its as-of is not the recorded one, though no other program writes its log row")
		return
	}
	if s.RefreshedA == nil || s.DurationMS == nil || s.AsOf.After(s.RefreshedA.Add(-time.Duration(*s.DurationMS+1)*time.Millisecond)) {
		c.violation(v, s, "its as-of is later than its log row allows")
	}
}

// maxViolations is how many are kept: the first one matters, a few more show the
// pattern.
const maxViolations = 5

func (c *checker) violation(v *view, s observation, why string) {
	c.keep(fmt.Sprintf("at %s, %s: %s\n\tas-of %s, recorded %s, refreshed %s, contains bump %s, populated %v, stale reason %s",
		stamp(&s.Now), v.name, why, stamp(s.AsOf), stamp(s.Recorded), stamp(s.RefreshedA), number(s.N), s.Populated, text(s.Reason)))
}

// keep requires mu.
func (c *checker) keep(violation string) {
	if len(c.violations) == 0 {
		close(c.violated)
	}
	if len(c.violations) < maxViolations {
		c.violations = append(c.violations, violation)
	}
}

// report adds a violation that an event has found.
func (c *checker) report(violation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(violation)
}

func (c *checker) found() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.violations)
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
