package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Reading one view's row of materialized_view_freshness computes the freshness
// of all views. So each route remembers what it read last, together with a mark
// of everything that the answer was made of, and asks again only when the mark
// has changed. The mark comes with the row, in the same snapshot; the rules stay
// where they are, in the read model.

// mark changes with every refresh of a view, whoever does it, with every change
// of our record of it, and with every log row about it. Of each row it is the
// transaction that wrote it, of which only one version can be seen.
type mark struct {
	oid   uint32 // of the view that the name stands for
	class pgtype.Uint32
	state pgtype.Uint32
	logs  [maxNames]pgtype.Uint32
}

// maxNames is by how many names materialized_view_names knows a view at most.
const maxNames = 5

// markSQL selects the mark of the view of OID $1 and canonical name $2, to which
// log rows may refer by the names from $3 on. These are subselects since a join
// of the same tables costs as much as the row itself.
func (h *Handler) markSQL(rel *relation) string {
	var b strings.Builder
	fmt.Fprintf(&b, `(SELECT c.xmin FROM pg_catalog.pg_class AS c WHERE c.oid = $1::oid),
    (SELECT s.xmin FROM %s AS s WHERE s.view_name = $2::text)`, h.table("state"))
	for i := range rel.names {
		fmt.Fprintf(&b, `,
    (SELECT l.xmin FROM %s AS l WHERE l.view_name = $%d::text)`, h.table("log"), 3+i)
	}
	return b.String()
}

// resolvedSQL is the OID of the view that the name stands for now. The name
// follows the parameters of the mark.
func (rel *relation) resolvedSQL() string {
	return fmt.Sprintf("pg_catalog.to_regclass($%d::text)::oid", len(rel.markArgs()))
}

// markArgs are the parameters of markSQL, and the view's name.
func (rel *relation) markArgs() []any {
	args := make([]any, 0, 3+maxNames+len(rel.keys))
	args = append(args, rel.oid, rel.viewName)
	for _, name := range rel.names {
		args = append(args, name)
	}
	return append(args, rel.sql)
}

// scan gives where to scan a mark to.
func (m *mark) scan(rel *relation, before ...any) []any {
	into := slices.Concat(before, []any{&m.class, &m.state})
	for i := range rel.names {
		into = append(into, &m.logs[i])
	}
	return into
}

// recalled is the freshness of a view while its mark stays.
type recalled struct {
	mark
	readAt      time.Time
	refreshedAt pgtype.Timestamptz
	durationMS  *int64
	dataAsOf    pgtype.Timestamptz
}

// recallLifetime bounds for how long a remembered answer is given: a row
// version of the same transaction number and place could come after four
// billion transactions, and a log row dated in the future is believed once its
// time has come. Neither the data nor its as-of moves while the mark stays.
const recallLifetime = 10 * time.Second

// memory is what a route remembers of its view's freshness.
type memory struct {
	last    atomic.Pointer[recalled]
	reading chan struct{} // held by the one who asks the read model
	current lookups
}

func newMemory() memory { return memory{reading: make(chan struct{}, 1)} }

// recall gives the freshness that belongs to a mark, if it is known.
func (m *memory) recall(at mark) *recalled {
	known := m.last.Load()
	if known == nil || known.mark != at || time.Since(known.readAt) > recallLifetime {
		return nil
	}
	return known
}

// readFreshness asks the read model once for all who wait here. It touches
// nothing of the view itself, so that a lock on that holds nobody up.
func (h *Handler) readFreshness(ctx context.Context, r *route, rel *relation, wanted mark) error {
	select {
	case r.memory.reading <- struct{}{}:
		defer func() { <-r.memory.reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.memory.recall(wanted) != nil {
		return nil // somebody else has asked
	}
	found := &recalled{readAt: time.Now()}
	var resolved pgtype.Uint32
	sql := fmt.Sprintf("SELECT f.view_oid, %s, f.last_refreshed_at, f.refresh_duration_ms, f.data_as_of, %s FROM %s AS f WHERE f.view_name = $2::text",
		rel.resolvedSQL(), h.markSQL(rel), postgres.QuoteIdent(h.Schema, "materialized_view_freshness"))
	var viewOID pgtype.Uint32
	into := found.scan(rel, &viewOID, &resolved, &found.refreshedAt, &found.durationMS, &found.dataAsOf)
	if _, err := readRow(ctx, h.Pool, h.Timeout, sql, rel.markArgs(), into...); err != nil {
		return err
	}
	if viewOID.Uint32 != rel.oid || resolved.Uint32 != rel.oid {
		return viewMissing(r.View).because(errOutdated)
	}
	found.oid = rel.oid
	r.memory.last.Store(found)
	return nil
}

func (h *Handler) table(of string) string {
	return postgres.QuoteIdent(h.Schema, "materialized_view_refresh_"+of)
}

// lookups lets requests that wait at the same moment share one look at the
// database. Each gets the result of one that began after it had asked.
type lookups struct {
	mu      sync.Mutex
	next    *lookup // has not begun
	looking int
}

// mostLooks keeps the database busy while answers are written.
const mostLooks = 2

type lookup struct {
	done      chan struct{}
	freshness *recalled
	now       time.Time
	err       error
}

func (l *lookups) wait(ctx context.Context, look func() (*recalled, time.Time, error)) (*recalled, time.Time, error) {
	l.mu.Lock()
	if l.next == nil {
		l.next = &lookup{done: make(chan struct{})}
	}
	mine := l.next
	if l.looking < mostLooks {
		l.looking++
		go l.run(look)
	}
	l.mu.Unlock()
	select {
	case <-mine.done:
		return mine.freshness, mine.now, mine.err
	case <-ctx.Done():
		return nil, time.Time{}, ctx.Err()
	}
}

func (l *lookups) run(look func() (*recalled, time.Time, error)) {
	for {
		l.mu.Lock()
		now := l.next
		l.next = nil
		if now == nil {
			l.looking--
		}
		l.mu.Unlock()
		if now == nil {
			return
		}
		now.freshness, now.now, now.err = look()
		close(now.done)
	}
}

// currentFreshness is how fresh the route's view is right now, without its row,
// and the database's time.
func (h *Handler) currentFreshness(ctx context.Context, r *route) (*recalled, time.Time, error) {
	// What one starts, others wait for: it goes on when that one hangs up.
	background := context.WithoutCancel(ctx)
	return r.memory.current.wait(ctx, func() (*recalled, time.Time, error) {
		rel, err := h.relationOf(background, r, false)
		if err != nil {
			return nil, time.Time{}, err
		}
		sql := fmt.Sprintf("SELECT clock_timestamp(), %s, %s", rel.resolvedSQL(), h.markSQL(rel))
		for range attemptsToAgree {
			var seen mark
			var now time.Time
			var resolved pgtype.Uint32
			if _, err := readRow(background, h.Pool, h.Timeout, sql, rel.markArgs(), seen.scan(rel, &now, &resolved)...); err != nil {
				return nil, now, err
			}
			if seen.oid = resolved.Uint32; seen.oid != rel.oid {
				return nil, now, viewMissing(r.View).because(errOutdated)
			}
			if known := r.memory.recall(seen); known != nil {
				return known, now, nil
			}
			if err := h.readFreshness(background, r, rel, seen); err != nil {
				return nil, now, err
			}
		}
		return nil, time.Time{}, errUnsettled
	})
}

// errUnsettled says that the view is refreshed faster than it can be read about.
var errUnsettled = errors.New("the view changes all the time")
