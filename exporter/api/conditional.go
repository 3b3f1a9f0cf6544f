package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// tag is the ETag of a row's cached answer. It changes with everything that the
// answer is made of: the view's row in the catalog, which every refresh changes
// whoever did it, what is said of its freshness, the names in its row, and the
// key, so that the tag of one URL says nothing about another. It is the same
// from every replica of the exporter.
func (f *recalled) tag(values []string) string {
	var room [256]byte
	fixed := room[:0]
	for _, n := range []uint32{f.oid, f.class.Uint32} {
		fixed = binary.BigEndian.AppendUint32(fixed, n)
	}
	fixed = binary.BigEndian.AppendUint64(fixed, uint64(f.shape.Int64)) //nolint:gosec // any bits will do
	fixed = appendTimestamp(fixed, f.refreshedAt)
	fixed = appendDuration(append(fixed, ' '), f.durationMS)
	fixed = appendTimestamp(append(fixed, ' '), f.dataAsOf)
	for _, text := range values {
		// With its length, or ("a", "bc") would be ("ab", "c").
		fixed = append(strconv.AppendInt(append(fixed, ' '), int64(len(text)), 10), text...)
	}
	sum := sha256.Sum256(fixed)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:15]) + `"`
}

// age is how old the data is at a moment of the database's clock, and whether
// that is known.
func (f *recalled) age(now time.Time) (time.Duration, bool) {
	if !f.dataAsOf.Valid || f.dataAsOf.InfinityModifier != pgtype.Finite {
		return 0, false
	}
	return max(now.Sub(f.dataAsOf.Time), 0), true
}

// freshEnough reports whether data of at most this age will do.
func (p rowParameters) freshEnough(f *recalled, now time.Time) bool {
	if p.maxAge == nil {
		return true
	}
	age, known := f.age(now)
	return known && age <= *p.maxAge
}

// describe sets what HTTP says of a cached answer. Caches may keep it, but must
// ask each time: only the database knows of the next refresh.
func (f *recalled) describe(w http.ResponseWriter, tag string, now time.Time) {
	header := w.Header()
	header["Cache-Control"] = mustRevalidate
	header["Etag"] = []string{tag}
	if age, known := f.age(now); known {
		// Rounded up: freshness is never overstated.
		header["Age"] = []string{strconv.FormatInt(int64((age+time.Second-1)/time.Second), 10)}
	}
}

var mustRevalidate = []string{"private, no-cache"}

// wantedTags is the If-None-Match of a request, "" if there is none. It is a
// list, over one header or several.
func wantedTags(r *http.Request) string {
	given := r.Header["If-None-Match"]
	if len(given) == 1 {
		return strings.TrimSpace(given[0])
	}
	return strings.TrimSpace(strings.Join(given, ","))
}

// matches reports whether a list of entity tags has this one, by the weak
// comparison of RFC 9110, section 8.8.3.2. A list that is none matches nothing
// from there on.
func matches(list, tag string) bool {
	for {
		list = strings.TrimLeft(list, " \t,")
		list = strings.TrimPrefix(list, "W/")
		if !strings.HasPrefix(list, `"`) {
			return false
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if list[:end+2] == tag {
			return true
		}
		list = strings.TrimLeft(list[end+2:], " \t")
		if list != "" && list[0] != ',' {
			return false
		}
	}
}
