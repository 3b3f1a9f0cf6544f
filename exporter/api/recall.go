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
	shape pgtype.Int8 // of names in the row that can change without a refresh
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
	fmt.Fprintf(&b, `(SELECT c.xmin FROM pg_catalog.pg_class AS c WHERE c.oid = $1::oid), %s,
    (SELECT s.xmin FROM %s AS s WHERE s.view_name = $2::text)`, rel.shapeSQL(), h.table("state"))
	for i := range rel.names {
		fmt.Fprintf(&b, `,
    (SELECT l.xmin FROM %s AS l WHERE l.view_name = $%d::text)`, h.table("log"), 3+i)
	}
	return b.String()
}

// shapeSQL is a hash of what ALTER … RENAME COLUMN, ATTRIBUTE and VALUE change:
// none of them touches the view's row in pg_class.
func (rel *relation) shapeSQL() string {
	rows := append([]int64{int64(rel.oid)}, rel.composites...)
	sql := fmt.Sprintf(`(SELECT sum(hashtext(concat(a.attrelid, '.', a.attnum, a.attname))) FROM pg_catalog.pg_attribute AS a
     WHERE a.attrelid = ANY ('%s'::oid[]) AND a.attnum > 0)`, oids(rows))
	if len(rel.enums) == 0 {
		return sql
	}
	return sql + fmt.Sprintf(` +
    (SELECT sum(hashtext(concat(e.oid, e.enumlabel))) FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = ANY ('%s'::oid[]))`, oids(rel.enums))
}

// oids is an array of PostgreSQL.
func oids(of []int64) string {
	return "{" + strings.Trim(strings.ReplaceAll(fmt.Sprint(of), " ", ","), "[]") + "}"
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
	into := slices.Concat(before, []any{&m.class, &m.shape, &m.state})
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
	reading lookups[*recalled] // of the read model
	current lookups[seen]      // of the mark
}

// recall gives the freshness that belongs to a mark, if it is known.
func (m *memory) recall(at mark) *recalled {
	known := m.last.Load()
	if known == nil || known.mark != at || time.Since(known.readAt) > recallLifetime {
		return nil
	}
	return known
}

// readFreshness asks the read model, once for all who wait here, and remembers
// the answer. It touches nothing of the view itself, so that a lock on that
// holds nobody up.
func (h *Handler) readFreshness(ctx context.Context, r *route, rel *relation) error {
	_, err := r.memory.reading.wait(ctx, func(ctx context.Context) (*recalled, error) {
		found := &recalled{readAt: time.Now()}
		var viewOID, resolved pgtype.Uint32
		into := found.scan(rel, &viewOID, &resolved, &found.refreshedAt, &found.durationMS, &found.dataAsOf)
		if _, err := readRow(ctx, h.Pool, h.Timeout, rel.freshnessSQL, rel.markArgs(), into...); err != nil {
			return nil, err
		}
		if viewOID.Uint32 != rel.oid || resolved.Uint32 != rel.oid {
			return nil, viewMissing(r.View).because(errReplaced)
		}
		found.oid = rel.oid
		r.memory.last.Store(found)
		return found, nil
	})
	return err
}

// freshnessSQL reads what the mark stands for.
func (h *Handler) freshnessSQL(rel *relation) string {
	return fmt.Sprintf("SELECT f.view_oid, %s, f.last_refreshed_at, f.refresh_duration_ms, f.data_as_of, %s FROM %s AS f WHERE f.view_name = $2::text",
		rel.resolvedSQL(), h.markSQL(rel), postgres.QuoteIdent(h.Schema, "materialized_view_freshness"))
}

func (h *Handler) table(of string) string {
	return postgres.QuoteIdent(h.Schema, "materialized_view_refresh_"+of)
}

// lookups lets requests that wait at the same moment share one look at the
// database, and its failure. Each gets the result of one that began after it had
// asked.
type lookups[T any] struct {
	mu      sync.Mutex
	next    *lookup[T] // has not begun
	looking bool
}

type lookup[T any] struct {
	done  chan struct{}
	found T
	err   error
}

// gathering is how long a look that follows another waits for more requests to
// share it, be it at rows or at freshness; a request that comes alone waits for
// nobody. Without it, most looks under load are for the few who asked while the
// answers of the one before were being written; with more than about 50 µs the
// database is idle.
const gathering = 30 * time.Microsecond

// wait looks, or waits for somebody's look, until ctx is done. There is one look
// at a time: meanwhile the answers of the one before are written, and the more
// requests come for the next.
func (l *lookups[T]) wait(ctx context.Context, look func(context.Context) (T, error)) (T, error) {
	l.mu.Lock()
	if l.next == nil {
		l.next = &lookup[T]{done: make(chan struct{})}
	}
	mine := l.next
	if !l.looking {
		l.looking = true
		// What one starts, others wait for: it goes on when that one hangs up.
		go l.run(context.WithoutCancel(ctx), look)
	}
	l.mu.Unlock()
	select {
	case <-mine.done:
		return mine.found, mine.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (l *lookups[T]) run(ctx context.Context, look func(context.Context) (T, error)) {
	for again := false; ; again = true {
		if again {
			time.Sleep(gathering)
		}
		l.mu.Lock()
		now := l.next
		l.next = nil
		if now == nil {
			l.looking = false
		}
		l.mu.Unlock()
		if now == nil {
			return
		}
		now.found, now.err = look(ctx)
		close(now.done)
	}
}

// seen is how fresh a view is at a moment of the database's clock.
type seen struct {
	freshness *recalled
	now       time.Time
}

// currentFreshness is how fresh the route's view is right now, without its row.
func (h *Handler) currentFreshness(ctx context.Context, r *route) (seen, error) {
	return r.memory.current.wait(ctx, func(ctx context.Context) (seen, error) {
		rel, err := h.relationOf(ctx, r, false)
		if err != nil {
			return seen{}, err
		}
		for range attemptsToAgree {
			var at mark
			var now time.Time
			var resolved pgtype.Uint32
			if _, err := readRow(ctx, h.Pool, h.Timeout, rel.currentSQL, rel.markArgs(), at.scan(rel, &now, &resolved)...); err != nil {
				return seen{}, err
			}
			if at.oid = resolved.Uint32; at.oid != rel.oid {
				return seen{}, viewMissing(r.View).because(errReplaced)
			}
			if known := r.memory.recall(at); known != nil {
				return seen{known, now}, nil
			}
			if err := h.readFreshness(ctx, r, rel); err != nil {
				return seen{}, err
			}
		}
		return seen{}, errUnsettled
	})
}

// currentSQL reads the mark alone.
func (h *Handler) currentSQL(rel *relation) string {
	return fmt.Sprintf("SELECT clock_timestamp(), %s, %s", rel.resolvedSQL(), h.markSQL(rel))
}

// errUnsettled says that the view is refreshed faster than it can be read about.
var errUnsettled = errors.New("the view changes all the time")
