package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// rowFreshness is how fresh the rows of a view are, as of one snapshot.
type rowFreshness struct {
	oid         uint32
	xmin        pgtype.Uint32 // of the view's row in pg_class: every refresh changes it
	shape       pgtype.Int8   // hash of the names in a row that can change without a refresh
	now         time.Time     // by the database's clock
	refreshedAt pgtype.Timestamptz
	durationMS  *int64
	dataAsOf    pgtype.Timestamptz
}

// freshnessColumns selects a rowFreshness from c (pg_class) and f (the read model).
func (rel *relation) freshnessColumns() string {
	return "c.oid, c.xmin, " + rel.shapeSQL() + ", clock_timestamp(), f.last_refreshed_at, f.refresh_duration_ms, f.data_as_of"
}

func (f *rowFreshness) scan() []any {
	return []any{&f.oid, &f.xmin, &f.shape, &f.now, &f.refreshedAt, &f.durationMS, &f.dataAsOf}
}

// source is the FROM and WHERE of every read of a view: no row if the name $2 no
// longer stands for the view of OID $1. join is what to join.
func (h *Handler) source(join string) string {
	return fmt.Sprintf(` FROM pg_catalog.pg_class AS c CROSS JOIN LATERAL %s(c.oid) AS f %s
WHERE c.oid = $1::oid AND c.oid = pg_catalog.to_regclass($2::text)::oid`, postgres.QuoteIdent(h.Schema, "materialized_view_freshness_of"), join)
}

// shapeSQL is a hash of what ALTER … RENAME COLUMN, ATTRIBUTE and VALUE change:
// none of them touches the view's row in pg_class.
func (rel *relation) shapeSQL() string {
	rows := append([]int64{int64(rel.oid)}, rel.composites...)
	sql := fmt.Sprintf(`(SELECT sum(hashtext(concat(a.attrelid, '.', a.attnum, a.attname))) FROM pg_catalog.pg_attribute AS a
     WHERE a.attrelid = ANY ('%s'::oid[]) AND a.attnum > 0)`, oidArray(rows))
	if len(rel.enums) == 0 {
		return sql
	}
	return sql + fmt.Sprintf(` +
    (SELECT sum(hashtext(concat(e.oid, e.enumlabel))) FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = ANY ('%s'::oid[]))`, oidArray(rel.enums))
}

// oidArray is an array of PostgreSQL.
func oidArray(of []int64) string {
	return "{" + strings.Trim(strings.ReplaceAll(fmt.Sprint(of), " ", ","), "[]") + "}"
}

// currentFreshness reads how fresh the route's view is, without a lock on the view.
func (h *Handler) currentFreshness(ctx context.Context, r *route) (*rowFreshness, error) {
	rel, err := h.relationOf(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	f := &rowFreshness{}
	for range 2 {
		found, err := h.readRow(ctx, rel.freshnessSQL, []any{rel.oid, rel.sql}, f.scan()...)
		if err == nil && !found {
			err = viewMissing(r.View).because(errReplaced)
		}
		if err != nil {
			return nil, err
		}
		if f.dataAsOf.Valid { // else perhaps only because a refresh was committed while it was read
			break
		}
	}
	return f, nil
}

// tag is the ETag of a row's cached answer. It changes with everything that the
// answer is made of, and with the key, so that the tag of one URL says nothing
// about another. Every replica of the exporter gives the same one.
func (f *rowFreshness) tag(values []string) string {
	var buffer [256]byte
	text := buffer[:0]
	for _, n := range []uint32{f.oid, f.xmin.Uint32} {
		text = binary.BigEndian.AppendUint32(text, n)
	}
	text = binary.BigEndian.AppendUint64(text, uint64(f.shape.Int64)) //nolint:gosec // any bits will do
	text = appendTimestamp(text, f.refreshedAt)
	text = appendDuration(append(text, ' '), f.durationMS)
	text = appendTimestamp(append(text, ' '), f.dataAsOf)
	for _, value := range values {
		// With its length, or ("a", "bc") would be ("ab", "c").
		text = append(strconv.AppendInt(append(text, ' '), int64(len(value)), 10), value...)
	}
	sum := sha256.Sum256(text)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:15]) + `"`
}

// age is how old the data is, and whether that is known.
func (f *rowFreshness) age() (time.Duration, bool) {
	if !f.dataAsOf.Valid || f.dataAsOf.InfinityModifier != pgtype.Finite {
		return 0, false
	}
	return max(f.now.Sub(f.dataAsOf.Time), 0), true
}

// satisfies reports whether the data is no older than a request allows.
func (f *rowFreshness) satisfies(p rowParameters) bool {
	if p.maxAge == nil {
		return true
	}
	age, known := f.age()
	return known && age <= *p.maxAge
}

// setHeaders sets what HTTP says of a cached answer. Caches may keep it, but must
// revalidate it each time: only the database knows of the next refresh.
func (f *rowFreshness) setHeaders(w http.ResponseWriter, tag string) {
	header := w.Header()
	header.Set("Cache-Control", "private, no-cache")
	header.Set("Etag", tag)
	if age, known := f.age(); known {
		// Rounded up: freshness is never overstated.
		header.Set("Age", strconv.FormatInt(int64((age+time.Second-1)/time.Second), 10))
	}
}
