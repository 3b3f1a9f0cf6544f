package provider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// viewPrivate is the private state of a view. It tells without a lock on the view
// whether the definition and the indexes are still those that the state describes
// in the user's words.
type viewPrivate struct {
	// Definition is the [definitionDigest] that the view had when its definition was
	// last compared with the state's.
	Definition string `json:"definition,omitempty"`
	// Query is the [matview.View.DefinitionHash] that the view had then: it stays the
	// same if only what the query reads is renamed or gets columns.
	Query string `json:"query,omitempty"`
	// Invalid says that the state's definition, as text, is not valid any more. Then one of
	// the same meaning takes its place.
	Invalid bool `json:"invalid,omitempty"`
	// Applied is the digest of the definition that was last applied, as text.
	Applied string                  `json:"applied,omitempty"`
	Indexes map[string]indexPrivate `json:"indexes,omitempty"`
	// Major is the server's version when canonical_definition was written.
	Major int `json:"major,omitempty"`
	// Imported says that the state has indexes and storage parameters of an import,
	// which are not managed if the configuration leaves them out.
	Imported bool `json:"imported,omitempty"`
	// Equivalent is the digest of a configured definition and indexes whose text
	// differs from the state's, but whose meaning was found to be the same. A plan
	// of that text does not ask the server again.
	Equivalent string `json:"equivalent,omitempty"`
}

type indexPrivate struct {
	Hash   string `json:"hash"`   // [matview.IndexState.Hash]
	Digest string `json:"digest"` // [indexDigest] of the index as the server writes it
}

const viewPrivateKey = "view"

type privateReader interface {
	GetKey(ctx context.Context, key string) ([]byte, diag.Diagnostics)
}

type privateWriter interface {
	SetKey(ctx context.Context, key string, value []byte) diag.Diagnostics
}

// readPrivate sets value to what the private state has of key. It leaves value as it
// is if there is none, or none that this release can read: what is not known is
// compared again.
func readPrivate(ctx context.Context, private privateReader, key string, value any, diags *diag.Diagnostics) {
	data, d := private.GetKey(ctx, key)
	diags.Append(d...)
	if data != nil {
		_ = json.Unmarshal(data, value)
	}
}

func writePrivate(ctx context.Context, private privateWriter, key string, value any, diags *diag.Diagnostics) {
	data, err := json.Marshal(value)
	if err != nil {
		addError(diags, "Cannot write the private state", err)
		return
	}
	diags.Append(private.SetKey(ctx, key, data)...)
}

// readViewPrivate returns an empty viewPrivate after an import.
func readViewPrivate(ctx context.Context, private privateReader, diags *diag.Diagnostics) (p viewPrivate) {
	readPrivate(ctx, private, viewPrivateKey, &p, diags)
	return p
}

func (p viewPrivate) save(ctx context.Context, private privateWriter, diags *diag.Diagnostics) {
	writePrivate(ctx, private, viewPrivateKey, p, diags)
}

func (p *viewPrivate) setDefinition(v *matview.View) {
	p.Definition, p.Query, p.Major = definitionDigest(v), v.DefinitionHash, v.Major
}

// setIndexes takes the indexes as the server writes them. Invalid ones are never
// those that the state describes.
func (p *viewPrivate) setIndexes(v *matview.View, indexes map[string]matview.Index) {
	p.Indexes = make(map[string]indexPrivate, len(indexes))
	for _, x := range v.Indexes {
		if x.Valid {
			p.Indexes[x.Name] = indexPrivate{Hash: x.Hash, Digest: indexDigest(indexes[x.Name])}
		}
	}
}

// hasIndexes reports whether the indexes of v are those that were last compared.
func (p *viewPrivate) hasIndexes(v *matview.View) bool {
	if len(v.Indexes) != len(p.Indexes) {
		return false
	}
	for _, x := range v.Indexes {
		if known, ok := p.Indexes[x.Name]; !ok || !x.Valid || known.Hash != x.Hash {
			return false
		}
	}
	return true
}

// definitionDigest changes with the definition of v and with what it reads.
func definitionDigest(v *matview.View) string {
	return digest(v.DefinitionHash, v.SourcesHash)
}

// indexDigest is the same for indexes that are [matview.Index.Equal].
func indexDigest(x matview.Index) string {
	return digest(fmt.Sprintf("%q %t %q %q %q %t %q %q", x.Keys, x.Unique, x.Method, x.Include, x.Where, x.NullsNotDistinct, x.Parameters, x.Tablespace))
}

// textDigest is the same for models whose definitions and indexes have the same
// text.
func textDigest(m viewModel) string {
	return digest(m.Definition.String(), m.ColumnNames.String(), m.Indexes.String())
}

// definitionText is the same for models whose definitions have the same text.
func definitionText(m viewModel) string { return digest(m.Definition.String(), m.ColumnNames.String()) }

func digest(parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return base64.RawStdEncoding.EncodeToString(sum[:16])
}
