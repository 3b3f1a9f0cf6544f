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
	tags := wantedTags(req)
	if tags != "" && tags != "*" && h.unchanged(ctx, w, r, values, asked, tags) {
		return nil
	}
	if asked.maxAge != nil && h.RealTimePool != nil && h.tooOld(ctx, r, asked) {
		return live()
	}
	found, err := h.cachedRow(ctx, r, values)
	if asked.maxAge != nil && (isNotPopulated(err) || err == nil && !asked.freshEnough(found.freshness, found.now)) {
		switch {
		case h.RealTimePool != nil:
			return live()
		case err != nil:
			return err
		case !found.freshness.refreshedAt.Valid:
			return neverRefreshed()
		}
		return notFreshEnough()
	}
	if err != nil {
		return err
	}
	if found.columns == nil {
		return noSuchRow()
	}
	tag := found.freshness.tag(values)
	found.freshness.describe(w, tag, found.now)
	if tags == "*" || matches(tags, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	writeBody(w, found.json())
	return nil
}

// tooOld reports whether the cached row is known to be older than asked for,
// without a look at the view: while that is locked, the live answer need not
// wait. What goes wrong here the look at the row will tell.
func (h *Handler) tooOld(ctx context.Context, r *route, asked rowParameters) bool {
	current, err := h.currentFreshness(ctx, r)
	return err == nil && !asked.freshEnough(current.freshness, current.now)
}

// unchanged answers 304, and reports that it did, if the client has the row as
// it is. That takes no look at the row: only a refresh changes it. What goes
// wrong here the full answer will tell.
func (h *Handler) unchanged(ctx context.Context, w http.ResponseWriter, r *route, values []string, asked rowParameters, tags string) bool {
	current, err := h.currentFreshness(ctx, r)
	if err != nil || !asked.freshEnough(current.freshness, current.now) {
		return false
	}
	tag := current.freshness.tag(values)
	if !matches(tags, tag) {
		return false
	}
	current.freshness.describe(w, tag, current.now)
	w.WriteHeader(http.StatusNotModified)
	return true
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
	mark
	columns   []byte // a JSON object; nil: there is no such row
	now       time.Time
	freshness *recalled
}

// cachedRow reads the row, again if the view turns out to be another than the
// one known: each swap replaces it.
func (h *Handler) cachedRow(ctx context.Context, r *route, values []string) (*cachedRow, error) {
	for attempt := 1; ; attempt++ {
		rel, err := h.relationOf(ctx, r, attempt > 1)
		if err != nil {
			return nil, err
		}
		found, err := h.readCached(ctx, r, rel, values)
		if attempt > 1 && postgres.SQLState(err) == pgerrcode.UndefinedTable {
			// The log may be missing for a while, if its users recreate it.
			found, err = h.readTogether(ctx, r, rel, values)
		}
		if err == nil {
			return found, nil
		}
		if !mayBeFound(ctx, attempt, err) {
			return nil, h.explain(ctx, rel, values, err)
		}
	}
}

// mayBeFound reports whether another attempt may find the view after err, when
// it is time for that.
func mayBeFound(ctx context.Context, attempt int, err error) bool {
	if attempt == 1 && isOutdated(err) {
		return ctx.Err() == nil
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

// readCached reads the row together with the mark of its freshness, and the
// freshness where the mark is new; then the row again, until the two agree.
func (h *Handler) readCached(ctx context.Context, r *route, rel *relation, values []string) (*cachedRow, error) {
	for range attemptsToAgree {
		row, err := h.readOnce(ctx, rel, values)
		if err != nil {
			return nil, err
		}
		if row == nil {
			continue
		}
		if row.oid != rel.oid {
			return nil, viewMissing(r.View).because(errReplaced)
		}
		if row.freshness = r.memory.recall(row.mark); row.freshness != nil {
			return row, nil
		}
		if err := h.readFreshness(ctx, r, rel); err != nil {
			return nil, err
		}
	}
	return h.readTogether(ctx, r, rel, values)
}

// attemptsToAgree is how often a row may be overtaken by a refresh while its
// freshness is read.
const attemptsToAgree = 3

// readTogether reads row and freshness in one statement: slower among many
// views, but nothing overtakes it, and only the read model need be there.
func (h *Handler) readTogether(ctx context.Context, r *route, rel *relation, values []string) (*cachedRow, error) {
	row := &cachedRow{freshness: &recalled{}}
	f := row.freshness
	sql := fmt.Sprintf(`
SELECT row_to_json(v.*)::text, clock_timestamp(), f.last_refreshed_at, f.refresh_duration_ms, f.data_as_of, c.oid, c.xmin, %s
FROM pg_catalog.pg_class AS c
JOIN %s AS f ON f.view_oid = c.oid AND f.view_name = $2::text
LEFT JOIN LATERAL (SELECT * FROM %s AS w WHERE %s LIMIT 2) AS v ON true
WHERE c.oid = $1::oid AND c.oid = pg_catalog.to_regclass($3::text)::oid`,
		rel.shapeSQL(), postgres.QuoteIdent(h.Schema, "materialized_view_freshness"), rel.sql, rel.condition("w", parameters(4)))
	args := append([]any{rel.oid, rel.viewName, rel.sql}, asArgs(values)...)
	found, err := readRow(ctx, h.Pool, h.Timeout, sql, args,
		&row.columns, &row.now, &f.refreshedAt, &f.durationMS, &f.dataAsOf, &f.oid, &f.class, &f.shape)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, viewMissing(r.View).because(errReplaced)
	}
	return row, nil
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
		err := readRows(ctx, h.Pool, h.Timeout, "SELECT $1::"+k.typ+" IS NULL", []any{values[i]}, func(rows pgx.Rows) error {
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
	body = appendTimestamp(body, c.freshness.refreshedAt)
	body = append(body, `,"cache_refresh_duration_ms":`...)
	body = appendDuration(body, c.freshness.durationMS)
	body = append(body, `,"cache_data_as_of":`...)
	body = appendTimestamp(body, c.freshness.dataAsOf)
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
