package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Requests that come while others are being read are read together, by one
// statement: that spares both sides most of the work, and its rows are of one
// snapshot like any other's. A request that comes alone waits for nobody.

const (
	// readersOfView is how many statements may read one view at a time. More of
	// them would only read fewer rows each, and where the view is locked they
	// would hold the connections that other views need.
	readersOfView = 2
	mostTogether  = 64
)

// queue is the requests for rows of a view.
type queue struct {
	mu      sync.Mutex
	waiting []*wanted
	readers int
}

// wanted is a row that a request waits for.
type wanted struct {
	ctx    context.Context //nolint:containedctx // of the request, to see whether it still waits
	values []string
	alone  bool       // the key may be none of its type, and would fail a statement for others
	row    *cachedRow // nil without an error: it was not there, and then was
	err    error
	done   chan struct{}
}

// readOnce gives the row and its mark, or why it did not until ctx was done.
func (h *Handler) readOnce(ctx context.Context, rel *relation, values []string) (*cachedRow, error) {
	mine := &wanted{ctx: ctx, values: values, alone: !rel.takes(values), done: make(chan struct{})}
	q := &rel.queue
	q.mu.Lock()
	q.waiting = append(q.waiting, mine)
	reads := q.readers < readersOfView
	if reads {
		q.readers++
	}
	q.mu.Unlock()
	if reads {
		// Others wait for what one starts, so it does not end with that one.
		go h.readQueue(context.WithoutCancel(ctx), rel)
	}
	select {
	case <-mine.done:
		return mine.row, mine.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// readQueue reads what waits until nothing does.
func (h *Handler) readQueue(ctx context.Context, rel *relation) {
	for again := false; ; again = true {
		if again {
			time.Sleep(gathering)
		}
		batch := rel.queue.take()
		if len(batch) == 0 {
			return
		}
		h.readWanted(ctx, rel, batch)
	}
}

// take gives what to read next by one statement; nothing, if the reader may go.
func (q *queue) take() []*wanted {
	q.mu.Lock()
	defer q.mu.Unlock()
	// Those who have given up need no row.
	q.waiting = slices.DeleteFunc(q.waiting, func(w *wanted) bool { return w.ctx.Err() != nil })
	if len(q.waiting) == 0 {
		q.readers--
		return nil
	}
	n := 1
	for !q.waiting[0].alone && n < min(len(q.waiting), mostTogether) && !q.waiting[n].alone {
		n++
	}
	batch := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return batch
}

func (h *Handler) readWanted(ctx context.Context, rel *relation, batch []*wanted) {
	var err error
	if len(batch) > 1 {
		err = h.readBatch(ctx, rel, batch)
	}
	for _, w := range batch {
		switch {
		case len(batch) == 1, mayBeOfOneKey(err):
			w.row, w.err = h.readAlone(ctx, rel, w)
		case err != nil:
			w.row, w.err = nil, err
		}
		close(w.done)
	}
}

// mayBeOfOneKey reports whether the key of one request may have failed a
// statement for all: by its type's input, or a check, or a name it stands for.
func mayBeOfOneKey(err error) bool {
	state := postgres.SQLState(err)
	return len(state) == 5 && slices.Contains([]string{"0A", "22", "23", "42", "54", "P0"}, state[:2])
}

// cachedSQL is one statement, hence one snapshot; see beginSQL.
func (h *Handler) cachedSQL(rel *relation) string {
	return fmt.Sprintf("SELECT row_to_json(w.*)::text, w.tableoid, clock_timestamp(), %s FROM %s AS w WHERE %s LIMIT 2",
		h.markSQL(rel), rel.sql, rel.condition("w", parameters(rel.firstKey()-1)))
}

// absentSQL is what a mark goes with where there is no row.
func (h *Handler) absentSQL(rel *relation) string {
	return fmt.Sprintf("SELECT EXISTS (SELECT FROM %s AS w WHERE %s), %s, clock_timestamp(), %s",
		rel.sql, rel.condition("w", parameters(rel.firstKey())), rel.resolvedSQL(), h.markSQL(rel))
}

// batchSQL takes an array for each column of the key.
func (h *Handler) batchSQL(rel *relation) string {
	arrays, columns := make([]string, len(rel.keys)), make([]string, len(rel.keys))
	for i := range rel.keys {
		arrays[i] = fmt.Sprintf("$%d::text[]", rel.firstKey()+i)
		columns[i] = fmt.Sprintf("k%d", i)
	}
	return fmt.Sprintf(`SELECT k.n, v.body, v.oid, %s, clock_timestamp(), %s
FROM unnest(%s) WITH ORDINALITY AS k(%s, n)
LEFT JOIN LATERAL (SELECT row_to_json(w.*)::text AS body, w.tableoid AS oid FROM %s AS w WHERE %s LIMIT 2) AS v ON true`,
		rel.resolvedSQL(), h.markSQL(rel), strings.Join(arrays, ", "), strings.Join(columns, ", "), rel.sql,
		rel.condition("w", func(i int) string { return "k." + columns[i] }))
}

// firstKey is the number of the parameter after those of markArgs.
func (rel *relation) firstKey() int { return 4 + len(rel.names) }

// readAlone gives nil if the row was not there, and then was.
func (h *Handler) readAlone(ctx context.Context, rel *relation, w *wanted) (*cachedRow, error) {
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	row := &cachedRow{}
	args := rel.markArgs()
	args = append(args[:len(args)-1], asArgs(w.values)...) // the row itself says which view it is of
	found, err := readRow(ctx, h.Pool, h.Timeout, rel.cachedSQL, args, row.scan(rel, &row.columns, &row.oid, &row.now)...)
	if err != nil || found {
		return row, err
	}
	var exists bool
	var resolved pgtype.Uint32
	args = append(rel.markArgs(), asArgs(w.values)...)
	_, err = readRow(ctx, h.Pool, h.Timeout, rel.absentSQL, args, row.scan(rel, &exists, &resolved, &row.now)...)
	if err != nil || exists {
		return nil, err
	}
	row.oid = resolved.Uint32
	return row, nil
}

func (h *Handler) readBatch(ctx context.Context, rel *relation, batch []*wanted) error {
	args := rel.markArgs()
	for i := range rel.keys {
		values := make([]string, len(batch))
		for n, w := range batch {
			values[n] = w.values[i]
		}
		args = append(args, values)
	}
	var shared cachedRow
	var resolved pgtype.Uint32
	full := shared.scan(rel, nil, nil, nil, &resolved, &shared.now)
	return readRows(ctx, h.Pool, h.Timeout, rel.batchSQL, args, func(rows pgx.Rows) error {
		into := full
		for rows.Next() {
			var n int
			var body []byte
			var oid pgtype.Uint32
			into[0], into[1], into[2] = &n, &body, &oid
			if err := rows.Scan(into...); err != nil {
				return err
			}
			into = make([]any, len(full)) // the rest is the same in every row
			row := shared
			row.columns, row.oid = body, resolved.Uint32
			if oid.Valid {
				row.oid = oid.Uint32
			}
			w := batch[n-1]
			if w.row != nil {
				w.err = ambiguousRow()
			}
			w.row = &row
		}
		return rows.Err()
	})
}
