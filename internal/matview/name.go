// Package matview reads a materialized view from the catalog: its name, its
// definition and the normal form of that, its indexes, its properties and what
// depends on it. It creates, alters, swaps and drops the view, and takes the lock
// that keeps our refreshes out meanwhile. Refreshing is left to package refresh, one
// of whose methods is [Swap].
package matview

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// PublicSchema is the schema of an unqualified name.
const PublicSchema = "public"

// Name is the name of a materialized view, unquoted.
type Name struct {
	Schema   string
	Relation string
}

// ParseName reads a view name as the tables, import IDs and command lines write
// it: `job_progress`, `analytics.daily`, `"Odd name"`, `"my.schema"."my.view"`.
// An unqualified name is in schema public. Unquoted parts are not folded to lower
// case, since other programs write names that they never quoted.
func ParseName(s string) (Name, error) {
	parts, err := splitQualified(s)
	if err != nil {
		return Name{}, fmt.Errorf("view name %q: %w", s, err)
	}
	switch len(parts) {
	case 1:
		return Name{Schema: PublicSchema, Relation: parts[0]}, nil
	case 2:
		return Name{Schema: parts[0], Relation: parts[1]}, nil
	default:
		return Name{}, fmt.Errorf("view name %q: has %d parts, want name or schema.name (quote a part that holds a dot)", s, len(parts))
	}
}

// maxIdentifier is the length in bytes to which PostgreSQL truncates a name
// (NAMEDATALEN - 1).
const maxIdentifier = 63

func splitQualified(s string) ([]string, error) {
	var parts []string
	for rest := s; ; {
		part, tail, err := cutPart(rest)
		if err != nil {
			return nil, err
		}
		if part == "" {
			return nil, fmt.Errorf("has an empty part")
		}
		if len(part) > maxIdentifier {
			return nil, fmt.Errorf("%q is longer than the %d bytes that PostgreSQL keeps", part, maxIdentifier)
		}
		if strings.ContainsRune(part, 0) {
			return nil, fmt.Errorf("holds a NUL character")
		}
		parts = append(parts, part)
		if tail == "" {
			return parts, nil
		}
		rest = tail[1:] // the dot
	}
}

// cutPart splits the first identifier off s; tail is empty or starts with a dot.
func cutPart(s string) (part, tail string, err error) {
	if !strings.HasPrefix(s, `"`) {
		part, _, _ = strings.Cut(s, ".")
		if strings.Contains(part, `"`) {
			return "", "", fmt.Errorf("has a quote within a part; double it and quote the whole part")
		}
		return part, s[len(part):], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		tail = s[i+1:]
		if tail != "" && tail[0] != '.' {
			return "", "", fmt.Errorf("has %q after a closing quote", tail)
		}
		return b.String(), tail, nil
	}
	return "", "", fmt.Errorf("has no closing quote")
}

// SQL is the qualified name quoted for use in a statement.
func (n Name) SQL() string {
	return pgx.Identifier{n.Schema, n.Relation}.Sanitize()
}

// String is the name for messages, and for input that [ParseName] reads. It is not the
// canonical name, for which the server's quote_ident knows the reserved words of its
// version; see [CanonicalName].
func (n Name) String() string {
	if n.Schema == PublicSchema {
		return quoteIfNeeded(n.Relation)
	}
	return quoteIfNeeded(n.Schema) + "." + quoteIfNeeded(n.Relation)
}

func quoteIfNeeded(s string) string {
	plain := s != ""
	for i, r := range s {
		if r == '_' || (r >= 'a' && r <= 'z') || (i > 0 && r >= '0' && r <= '9') {
			continue
		}
		plain = false
	}
	if plain {
		return s
	}
	return pgx.Identifier{s}.Sanitize()
}

// temporaryName is random and short: one derived from the name of the view could
// exceed 63 bytes.
func temporaryName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "matview_" + hex.EncodeToString(b[:])
}
