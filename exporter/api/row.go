package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// row answers with the one row of the key in the path.
func (h *Handler) row(w http.ResponseWriter, req *http.Request, r *route) error {
	live, err := wantsLive(req.URL)
	if err != nil {
		return err
	}
	values := make([]string, len(r.Columns()))
	for i, column := range r.Columns() {
		values[i] = req.PathValue("k" + strconv.Itoa(i))
		if !isText(values[i]) {
			return invalidKey(column, "text")
		}
	}
	if live {
		return h.liveRow(w, req, r, values)
	}
	// A client that hangs up must not cost a connection: the query is short.
	ctx := context.WithoutCancel(req.Context())
	found, err := h.cachedRow(ctx, r, values)
	if err != nil {
		return err
	}
	writeBody(w, found.json())
	return nil
}

// wantsLive reads ?real_time; other parameters are not ours.
func wantsLive(u *url.URL) (bool, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return false, invalidParameter("The query string does not parse.")
	}
	given, found := query["real_time"]
	if !found {
		return false, nil
	}
	if len(given) == 1 && (given[0] == "true" || given[0] == "false") {
		return given[0] == "true", nil
	}
	return false, invalidParameter("real_time must be true or false, once.")
}

// isText is what PostgreSQL can hold as text.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// cachedRow is a row of the view and how fresh it is, of one snapshot.
type cachedRow struct {
	viewOID     uint32
	columns     []byte // a JSON object; nil: there is no such row
	refreshedAt pgtype.Timestamptz
	durationMS  *int64
	dataAsOf    pgtype.Timestamptz
}

// cachedSQL is one statement, hence one snapshot; see beginSQL.
func (h *Handler) cachedSQL(rel *relation) string {
	return fmt.Sprintf(`
SELECT f.view_oid, row_to_json(v)::text, f.last_refreshed_at, f.refresh_duration_ms, f.data_as_of
FROM %s AS f
LEFT JOIN LATERAL (SELECT * FROM %s AS w WHERE %s LIMIT 2) AS v ON true
WHERE f.view_name = $1`,
		postgres.QuoteIdent(h.Schema, "materialized_view_freshness"), rel.sql, rel.condition("w", 2))
}

// cachedRow reads the row, once more if the view turns out to be another than
// the one known.
func (h *Handler) cachedRow(ctx context.Context, r *route, values []string) (*cachedRow, error) {
	for retried := false; ; retried = true {
		rel, err := h.relationOf(ctx, r, retried)
		if err != nil {
			return nil, err
		}
		found, err := h.readCached(ctx, rel, values)
		switch {
		case err == nil && found != nil && found.viewOID == rel.oid:
			if found.columns == nil {
				return nil, noSuchRow()
			}
			return found, nil
		case err != nil && (retried || !isOutdated(err)):
			return nil, h.explain(ctx, rel, values, err)
		case retried:
			return nil, viewMissing(r.View) // it comes and goes
		}
	}
}

// isOutdated reports whether err may come from a view that was replaced or
// altered since its relation was read: then its key may be of another type too.
func isOutdated(err error) bool {
	state := postgres.SQLState(err)
	if isDataException(state) {
		return true
	}
	switch state {
	case postgres.UndefinedTable, postgres.UndefinedColumn, postgres.UndefinedFunction, postgres.UndefinedObject,
		postgres.InvalidSchemaName, "0A000": // cached plan must not change result type
		return true
	}
	return false
}

func (h *Handler) readCached(ctx context.Context, rel *relation, values []string) (*cachedRow, error) {
	var found *cachedRow
	args := append([]any{rel.viewName}, asArgs(values)...)
	err := read(ctx, h.Pool, h.Timeout, h.cachedSQL(rel), args, func(rows pgx.Rows) error {
		for rows.Next() {
			if found != nil {
				return ambiguousRow()
			}
			found = &cachedRow{}
			if err := rows.Scan(&found.viewOID, &found.columns, &found.refreshedAt, &found.durationMS, &found.dataAsOf); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return found, err
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

const notPopulatedState = "55000"

// explain tells an error of the key from one of the view.
func (h *Handler) explain(ctx context.Context, rel *relation, values []string, err error) error {
	state := postgres.SQLState(err)
	switch {
	case state == notPopulatedState:
		return notPopulated(rel.viewName)
	case state == postgres.InsufficientRight:
		return misconfigured(fmt.Errorf("read %s: %w; GRANT SELECT ON %s to the exporter's login, and USAGE on its schema, or make it one of reader_roles", rel.viewName, err, rel.sql))
	case isDataException(state), strings.HasPrefix(state, "42"):
		if wrong := h.wrongKey(ctx, rel, values); wrong != nil {
			return wrong
		}
	}
	return err
}

// wrongKey finds the value that is none of its column's type, if one is.
func (h *Handler) wrongKey(ctx context.Context, rel *relation, values []string) error {
	for i, k := range rel.keys {
		err := read(ctx, h.Pool, h.Timeout, "SELECT $1::"+k.typ+" IS NULL", []any{values[i]}, func(rows pgx.Rows) error {
			rows.Close()
			return rows.Err()
		})
		// 42 is what the types of names raise, such as regclass.
		if state := postgres.SQLState(err); isDataException(state) || strings.HasPrefix(state, "42") {
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
	if c.durationMS == nil {
		body = append(body, "null"...)
	} else {
		body = strconv.AppendInt(body, *c.durationMS, 10)
	}
	body = append(body, `,"cache_data_as_of":`...)
	body = appendTimestamp(body, c.dataAsOf)
	return append(body, "}\n"...)
}

// openObject is a JSON object ready for more fields.
func openObject(object []byte) []byte {
	return append(object[:len(object)-1], ',')
}

func appendTimestamp(body []byte, t pgtype.Timestamptz) []byte {
	if !t.Valid || t.InfinityModifier != pgtype.Finite {
		return append(body, "null"...)
	}
	body = append(body, '"')
	body = t.Time.UTC().AppendFormat(body, timestampLayout)
	return append(body, '"')
}
