package api

import (
	"context"
	"errors"
	"fmt"
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
// of our record of it, and with every log row about it.
type mark struct {
	oid       uint32
	filenode  uint32
	xmin      uint32
	populated bool
	stateXmin pgtype.Uint32
	stateTID  pgtype.TID
	logs      pgtype.Text
}

// markSQL is the mark of the view of OID $1 and canonical name $2, to which log
// rows may refer by the names $3. A row version is known by the transaction that
// wrote it and by its place.
const markSQL = `c.oid, c.relfilenode, c.xmin, c.relispopulated, s.xmin, s.ctid,
    (SELECT string_agg(concat(l.xmin, l.ctid), ' ') FROM %[1]s AS l WHERE l.view_name = ANY ($3::text[]))`

const markedSQL = `pg_catalog.pg_class AS c
LEFT JOIN %[2]s AS s ON s.view_name = $2::text`

// sameViewSQL is false once the name $4 is another view's.
const sameViewSQL = `c.oid = $1::oid AND c.oid = pg_catalog.to_regclass($4::text)::oid`

// scan gives where to scan a mark to.
func (m *mark) scan() []any {
	return []any{&m.oid, &m.filenode, &m.xmin, &m.populated, &m.stateXmin, &m.stateTID, &m.logs}
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
	var viewOID pgtype.Uint32
	sql := fmt.Sprintf(`SELECT f.view_oid, f.last_refreshed_at, f.refresh_duration_ms, f.data_as_of, `+markSQL+`
FROM `+markedSQL+`
JOIN %[3]s AS f ON f.view_name = $2::text
WHERE `+sameViewSQL, h.logTable(), h.stateTable(), h.readModel())
	into := append([]any{&viewOID, &found.refreshedAt, &found.durationMS, &found.dataAsOf}, found.scan()...)
	if _, err := readRow(ctx, h.Pool, h.Timeout, sql, rel.markArgs(), into...); err != nil {
		return err
	}
	if viewOID.Uint32 != rel.oid {
		return viewMissing(r.View).because(errOutdated)
	}
	r.memory.last.Store(found)
	return nil
}

// markArgs are the parameters of markSQL and sameViewSQL.
func (rel *relation) markArgs() []any { return []any{rel.oid, rel.viewName, rel.names, rel.sql} }

func (h *Handler) logTable() string {
	return postgres.QuoteIdent(h.Schema, "materialized_view_refresh_log")
}

func (h *Handler) stateTable() string {
	return postgres.QuoteIdent(h.Schema, "materialized_view_refresh_state")
}

func (h *Handler) readModel() string {
	return postgres.QuoteIdent(h.Schema, "materialized_view_freshness")
}

// lookups lets requests that wait at the same moment share one look at the
// database. Each gets the result of one that began after it had asked.
type lookups struct {
	mu      sync.Mutex
	next    *lookup // has not begun
	running bool
}

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
	if !l.running {
		l.running = true
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
		l.running = now != nil
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
		sql := fmt.Sprintf("SELECT clock_timestamp(), "+markSQL+" FROM "+markedSQL+" WHERE "+sameViewSQL, h.logTable(), h.stateTable())
		for range 2 {
			var seen mark
			var now time.Time
			found, err := readRow(background, h.Pool, h.Timeout, sql, rel.markArgs(), append([]any{&now}, seen.scan()...)...)
			if err != nil {
				return nil, now, err
			}
			if !found {
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
