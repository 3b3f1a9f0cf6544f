package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// row answers with the one row of the key in the path.
func (h *Handler) row(w http.ResponseWriter, req *http.Request, r *route) error {
	asked, err := readRowParameters(req.URL)
	if err != nil {
		return err
	}
	values, err := keyOf(req, r)
	if err != nil {
		return err
	}
	// However many ways are tried, and whatever is waited for.
	deadline := time.Now().Add(max(h.Timeout, h.Config.RealTime.StatementTimeout) + grace)
	live := func() error {
		ctx, cancel := context.WithDeadline(req.Context(), deadline)
		defer cancel()
		return h.liveRow(ctx, w, r, values)
	}
	if asked.live {
		return live()
	}
	// A client that hangs up must not cost a connection: the query is short.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), h.Timeout+grace)
	defer cancel()
	tags := ifNoneMatch(req)
	if tags != "" && tags != "*" || asked.maxAge != nil && h.RealTimePool != nil {
		// The freshness alone may decide, without waiting while the view is locked.
		// If it cannot be read, reading the row gives the error.
		f, err := h.currentFreshness(ctx, r)
		switch {
		case err != nil:
		case !f.satisfies(asked) && h.RealTimePool != nil:
			return live()
		case f.satisfies(asked) && matches(tags, f.tag(values)):
			f.setHeaders(w, f.tag(values))
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	found, err := h.cachedRow(ctx, r, values)
	if asked.maxAge != nil && (isNotPopulated(err) || err == nil && !found.satisfies(asked)) {
		switch {
		case h.RealTimePool != nil:
			return live()
		case err != nil:
			return err
		case !found.refreshedAt.Valid:
			return neverRefreshed()
		}
		return notFreshEnough()
	}
	if err != nil {
		return err
	}
	return found.write(w, values, tags)
}

// write answers with the row, or with 304 if the client has it: tags is the
// If-None-Match of the request.
func (c *cachedRow) write(w http.ResponseWriter, values []string, tags string) error {
	if c.columns == nil {
		return noSuchRow()
	}
	tag := c.tag(values)
	c.setHeaders(w, tag)
	if tags == "*" || matches(tags, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	writeBody(w, c.json())
	return nil
}

// keyOf is the values in the path.
func keyOf(req *http.Request, r *route) ([]string, error) {
	columns := r.Columns()
	values := make([]string, len(columns))
	for i, column := range columns {
		values[i] = req.PathValue("k" + strconv.Itoa(i))
		if !isText(values[i]) {
			return nil, invalidKey(column, "text")
		}
	}
	return values, nil
}

// isText is what PostgreSQL can hold as text.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// cachedRow is a row of the view and how fresh it is, of one snapshot.
type cachedRow struct {
	rowFreshness
	columns []byte // a JSON object; nil: there is no such row
}

// cachedRow reads the row, again if the view turns out to be another than the
// one known: each replacement makes a new one.
func (h *Handler) cachedRow(ctx context.Context, r *route, values []string) (*cachedRow, error) {
	// However long the view is locked, other views have connections left.
	if err := acquire(ctx, r.readers); err != nil {
		return nil, err
	}
	defer r.readers.Release(1)
	var outdated *relation
	for attempt := 1; ; attempt++ {
		rel, err := h.relationOf(ctx, r, outdated)
		if err != nil {
			return nil, err
		}
		row := &cachedRow{}
		found, err := h.readRow(ctx, rel.rowSQL, append([]any{rel.oid, rel.sql}, asArgs(values)...), append(row.scan(), &row.columns)...)
		if err == nil && !found {
			err = viewMissing(r.View).because(errReplaced)
		}
		if err == nil {
			return row, nil
		}
		if ctx.Err() != nil {
			return nil, timedOut(err) // also where it was the pool that took too long
		}
		if !mayBeFound(ctx, attempt, err) {
			return nil, h.explain(ctx, rel, values, err)
		}
		outdated = rel
	}
}

// rowSQL is one statement, hence one snapshot; see beginSQL.
func (h *Handler) rowSQL(rel *relation) string {
	return "SELECT " + rel.freshnessColumns() + ", row_to_json(v.*)::text" + h.source(fmt.Sprintf(
		"LEFT JOIN LATERAL (SELECT * FROM %s AS w WHERE %s LIMIT 2) AS v ON true", rel.sql, rel.condition("w", 3)))
}

// mayBeFound reports whether another attempt may find the view after err, when
// it is time for that.
func mayBeFound(ctx context.Context, attempt int, err error) bool {
	if attempt <= 2 && isOutdated(err) {
		return true
	}
	return errors.Is(err, errReplaced) && pause(ctx, attempt)
}

// pause waits before the next attempt, and reports whether there is one.
func pause(ctx context.Context, attempt int) bool {
	if attempt >= attemptsToFind {
		return false
	}
	timer := time.NewTimer(time.Duration(attempt) * pauseToFind)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

const (
	// attemptsToFind is how often a view may be replaced while a row of it is read.
	attemptsToFind = 20
	// pauseToFind grows with each attempt: where a name keeps standing for two
	// views, all attempts together take a second, not the whole time.
	pauseToFind = 5 * time.Millisecond
)

// isOutdated reports whether err may come from a view that was replaced or
// altered since its relation was read: then its key may be of another type too.
func isOutdated(err error) bool {
	state := postgres.SQLState(err)
	if isDataException(state) || errors.Is(err, errReplaced) {
		return true
	}
	switch state {
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedColumn, pgerrcode.UndefinedFunction, pgerrcode.UndefinedObject,
		pgerrcode.InvalidSchemaName, pgerrcode.FeatureNotSupported: // cached plan must not change result type
		return true
	}
	return false
}

// asArgs binds the key as text: the server casts it, by the type's own rules.
func asArgs(values []string) []any {
	args := make([]any, len(values))
	for i, v := range values {
		args[i] = v
	}
	return args
}

// isDataException is what casting a key can raise, and what computing a live
// row can: invalid_text_representation, numeric_value_out_of_range and so on.
func isDataException(state string) bool { return strings.HasPrefix(state, "22") }

// isOfType reports whether the input of a type may raise this: beside data
// exceptions, 42 is what the types of names do, such as regclass, and 54 those
// that nest, such as ltree.
func isOfType(state string) bool {
	return isDataException(state) || strings.HasPrefix(state, "42") || strings.HasPrefix(state, "54")
}

func isNotPopulated(err error) bool {
	var p *problem
	return errors.As(err, &p) && p.Type == problemType+"not-populated"
}

// explain tells an error of the key from one of the view.
func (h *Handler) explain(ctx context.Context, rel *relation, values []string, err error) error {
	state := postgres.SQLState(err)
	switch {
	case state == pgerrcode.ObjectNotInPrerequisiteState:
		return notPopulated(rel.viewName)
	case state == pgerrcode.InsufficientPrivilege:
		return misconfigured(fmt.Errorf("read %s: %w; GRANT SELECT ON %s to the exporter's login, and USAGE on its schema, or make it one of reader_roles", rel.viewName, err, rel.sql))
	case isOfType(state):
		if wrong := h.wrongKey(ctx, rel, values); wrong != nil {
			return wrong
		}
	}
	return err
}

// wrongKey finds the value that is none of its column's type, if one is.
func (h *Handler) wrongKey(ctx context.Context, rel *relation, values []string) error {
	for i, k := range rel.keys {
		err := h.readRows(ctx, "SELECT $1::"+k.typ+" IS NULL", []any{values[i]}, func(rows pgx.Rows) error {
			rows.Close()
			return rows.Err()
		})
		if isOfType(postgres.SQLState(err)) {
			return invalidKey(k.column, k.typ)
		}
	}
	return nil
}

// json is the columns and then what the answer adds.
func (c *cachedRow) json() []byte {
	body := openObject(c.columns)
	body = append(body, `"data_source":"cached","cache_refreshed_at":`...)
	body = appendTimestamp(body, c.refreshedAt)
	body = append(body, `,"cache_refresh_duration_ms":`...)
	body = appendDuration(body, c.durationMS)
	body = append(body, `,"cache_data_as_of":`...)
	body = appendTimestamp(body, c.dataAsOf)
	return append(body, "}\n"...)
}

// openObject is a JSON object ready for more fields.
func openObject(object []byte) []byte {
	return append(object[:len(object)-1], ',')
}

func appendDuration(body []byte, ms *int64) []byte {
	if ms == nil {
		return append(body, "null"...)
	}
	return strconv.AppendInt(body, *ms, 10)
}

func appendTimestamp(body []byte, t pgtype.Timestamptz) []byte {
	if !t.Valid || t.InfinityModifier != pgtype.Finite {
		return append(body, "null"...)
	}
	body = append(body, '"')
	body = t.Time.UTC().AppendFormat(body, timestampLayout)
	return append(body, '"')
}
