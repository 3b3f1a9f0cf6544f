package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Requests that come while others are being read are read together, by one
// statement: that spares both sides most of the work, and its rows are of one
// snapshot like any other's. A request that comes alone waits for nobody.

const (
	// readersOfView is how many statements may read one view at a time. More of
	// them would only read fewer rows each.
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
	values []string
	row    *cachedRow // nil without an error: it was not there, and then was
	err    error
	done   chan struct{}
}

// readOnce gives the row and its mark.
func (h *Handler) readOnce(ctx context.Context, rel *relation, values []string) (*cachedRow, error) {
	mine := &wanted{values: values, done: make(chan struct{})}
	q := &rel.queue
	q.mu.Lock()
	q.waiting = append(q.waiting, mine)
	reads := q.readers < readersOfView
	if reads {
		q.readers++
	}
	q.mu.Unlock()
	if reads {
		h.readQueue(ctx, rel)
	}
	<-mine.done // each statement has its timeout
	return mine.row, mine.err
}

// readQueue reads what waits, and lets somebody else go on with what has come
// meanwhile.
func (h *Handler) readQueue(ctx context.Context, rel *relation) {
	q := &rel.queue
	q.mu.Lock()
	batch := q.waiting[:min(len(q.waiting), mostTogether)]
	q.waiting = q.waiting[len(batch):]
	if len(batch) == 0 {
		q.readers--
	}
	q.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	if len(batch) == 1 {
		batch[0].row, batch[0].err = h.readAlone(ctx, rel, batch[0].values)
	} else if err := h.readBatch(ctx, rel, batch); err != nil {
		for _, w := range batch {
			w.row, w.err = nil, err
			if mayBeOfOneKey(err) {
				w.row, w.err = h.readAlone(ctx, rel, w.values)
			}
		}
	}
	for _, w := range batch {
		close(w.done)
	}
	q.mu.Lock()
	more := len(q.waiting) > 0
	if !more {
		q.readers--
	}
	q.mu.Unlock()
	if more {
		go h.readQueue(context.WithoutCancel(ctx), rel)
	}
}

// mayBeOfOneKey reports whether the key of one request may have failed a
// statement for all: by its type's input, or a check, or a name it stands for.
func mayBeOfOneKey(err error) bool {
	state := postgres.SQLState(err)
	return len(state) == 5 && slices.Contains([]string{"0A", "22", "23", "42", "P0"}, state[:2])
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
func (h *Handler) readAlone(ctx context.Context, rel *relation, values []string) (*cachedRow, error) {
	row := &cachedRow{relation: rel}
	args := rel.markArgs()
	args = append(args[:len(args)-1], asArgs(values)...) // the row itself says which view it is of
	found, err := readRow(ctx, h.Pool, h.Timeout, rel.cachedSQL, args, row.scan(rel, &row.columns, &row.oid, &row.now)...)
	if err != nil || found {
		return row, err
	}
	var exists bool
	var resolved pgtype.Uint32
	args = append(rel.markArgs(), asArgs(values)...)
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
	shared := cachedRow{relation: rel}
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
