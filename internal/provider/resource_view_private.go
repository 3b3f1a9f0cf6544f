package provider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// viewMemory is what is remembered of a view beside its state, to tell without
// touching the view whether it is still the one that the state describes.
// Terraform copies it for every instance of the resource that it plans: it is as
// short as it can be.
type viewMemory struct {
	// Facts are the definition, and what it reads, as [factsOf] has them.
	Facts   string                 `json:"facts,omitempty"`
	Indexes map[string]indexMemory `json:"indexes,omitempty"`
	// Major is the server's when canonical_definition was written.
	Major int `json:"major,omitempty"`
	// Found says that the state has what was there at the import, which is not
	// managed where the configuration leaves it out.
	Found bool `json:"imported,omitempty"`
	// Equivalent is the digest of a configuration's definition and indexes that
	// differ in text from the state's, but were found to have the same meaning. A
	// plan need not ask the server again.
	Equivalent string `json:"equivalent,omitempty"`
}

// indexMemory is an index as the server writes it, where the state has the
// user's text.
type indexMemory struct {
	Hash string `json:"hash"` // of the catalog
	Text string `json:"text"` // as indexText has it
}

// factsOf changes with the definition of v and with what that reads.
func factsOf(v *matview.View) string {
	return digest(v.DefinitionHash, v.SourcesHash)
}

// indexText is the same for indexes that are [matview.Index.Equal].
func indexText(x matview.Index) string {
	return digest(fmt.Sprintf("%q %t %q %q %q %t %q %q", x.Keys, x.Unique, x.Method, x.Include, x.Where, x.NullsNotDistinct, x.Parameters, x.Tablespace))
}

// textOf is the same for configurations whose definitions and indexes are written
// the same.
func textOf(m viewModel) string {
	return digest(m.Definition.String(), m.ColumnNames.String(), m.Indexes.String())
}

func digest(parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return base64.RawStdEncoding.EncodeToString(sum[:16])
}

const memoryKey = "view"

type privateReader interface {
	GetKey(ctx context.Context, key string) ([]byte, diag.Diagnostics)
}

type privateWriter interface {
	SetKey(ctx context.Context, key string, value []byte) diag.Diagnostics
}

// recall is empty after an import.
func recall(ctx context.Context, private privateReader, diags *diag.Diagnostics) viewMemory {
	var memory viewMemory
	data, d := private.GetKey(ctx, memoryKey)
	diags.Append(d...)
	if data != nil {
		// What cannot be read is compared anew.
		_ = json.Unmarshal(data, &memory)
	}
	return memory
}

func (memory viewMemory) save(ctx context.Context, private privateWriter, diags *diag.Diagnostics) {
	data, err := json.Marshal(memory)
	if err != nil {
		addError(diags, "Cannot remember the materialized view", err)
		return
	}
	diags.Append(private.SetKey(ctx, memoryKey, data)...)
}

// memoryOf has what is remembered of the definition of v.
func memoryOf(v *matview.View) viewMemory {
	return viewMemory{Facts: factsOf(v), Major: v.Major}
}

// remember reads what a view that was just created or changed is by the server's
// own account. tx has locked the view, so none of this waits.
func (m *viewModel) remember(ctx context.Context, db matview.DB, v *matview.View) (viewMemory, error) {
	memory := memoryOf(v)
	canonical, err := matview.Definition(ctx, db, v.OID)
	if err != nil {
		return memory, err
	}
	m.CanonicalDefinition = types.StringValue(canonical)
	if m.Indexes.IsNull() {
		return memory, nil
	}
	indexes, err := matview.ReadIndexes(ctx, db, v.OID)
	memory.rememberIndexes(v, indexes)
	// One that somebody made meanwhile is for the next plan to find.
	known := m.Indexes.Elements()
	maps.DeleteFunc(memory.Indexes, func(name string, _ indexMemory) bool { return known[name] == nil })
	return memory, err
}

func (memory *viewMemory) rememberIndexes(v *matview.View, indexes map[string]matview.Index) {
	memory.Indexes = make(map[string]indexMemory, len(indexes))
	for _, x := range v.Indexes {
		if x.Valid {
			memory.Indexes[x.Name] = indexMemory{Hash: x.Hash, Text: indexText(indexes[x.Name])}
		}
	}
}

// compareDefinition tells whether the stored query is still what the state says,
// by meaning, and puts the stored one into the state where it is not.
func (m *viewModel) compareDefinition(ctx context.Context, db matview.DB, v *matview.View, memory *viewMemory, diags *diag.Diagnostics) {
	if !m.Definition.IsNull() && memory.Facts == factsOf(v) {
		return
	}
	stored, err := matview.Definition(ctx, db, v.OID)
	imported := m.Definition.IsNull() // there is nothing to go by
	if !imported && busy(diags, path.Root("definition"), v, err) {
		return
	}
	same := false
	if err == nil && !imported {
		same, err = m.means(ctx, db, v, stored, memory.Major)
	}
	if !imported && busy(diags, path.Root("definition"), v, err) {
		return
	}
	if err != nil {
		addViewError(diags, fmt.Sprintf("Cannot read the definition of materialized view %s", v.ID), err)
		return
	}
	if !same {
		m.ColumnNames = types.ListNull(types.StringType) // the stored query names its columns
		m.Definition = types.StringValue(stored)
	}
	m.CanonicalDefinition = types.StringValue(stored)
	memory.Facts, memory.Major, memory.Equivalent = factsOf(v), v.Major, ""
}

// means tells whether the text in the state, parsed today, is the stored query;
// or, where major is not the server's, whether the query is the one that the state
// has in the words of that major. An upgrade keeps a view as it was written then,
// and some of it cannot be written so any more: since 14 extract() is a function
// of its own, and substring(a FROM b) is kept as written.
func (m *viewModel) means(ctx context.Context, db matview.DB, v *matview.View, stored string, major int) (bool, error) {
	n, err := matview.Normalize(ctx, db, m.Definition.ValueString(), m.columnNames()...)
	var sqlErr *matview.SQLError
	switch {
	case matview.IsLockTimeout(err):
		return false, err
	case errors.As(err, &sqlErr):
		return false, nil // it names a column, say, that has another name now
	case err != nil:
		return false, err
	case n.Incomparable != "":
		return stored == m.CanonicalDefinition.ValueString() && sameNames(n.Columns, v.Columns), nil
	}
	same, err := n.Means(ctx, db, stored)
	if same || err != nil || major == 0 || major == v.Major || !sameNames(n.Columns, v.Columns) {
		return same, err
	}
	n, err = matview.Normalize(ctx, db, m.CanonicalDefinition.ValueString())
	if errors.As(err, &sqlErr) && !matview.IsLockTimeout(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return n.Means(ctx, db, stored)
}

// sameNames tells a SELECT * whose table has grown from one that has not.
func sameNames(a, b []matview.Column) bool {
	return slices.EqualFunc(a, b, func(x, y matview.Column) bool { return x.Name == y.Name })
}

// compareIndexes does for the indexes what compareDefinition does for the query.
func (m *viewModel) compareIndexes(ctx context.Context, db matview.DB, v *matview.View, memory *viewMemory, diags *diag.Diagnostics) {
	if !m.Indexes.IsNull() {
		warnInvalid(v, diags)
	}
	if m.Indexes.IsNull() || memory.hasIndexes(v) {
		return
	}
	stored, err := matview.ReadIndexes(ctx, db, v.OID)
	if busy(diags, path.Root("indexes"), v, err) {
		return
	}
	if err != nil {
		addViewError(diags, fmt.Sprintf("Cannot read the indexes of materialized view %s", v.ID), err)
		return
	}
	state := m.indexes(ctx, diags)
	now := make(map[string]matview.Index, len(stored))
	for _, x := range v.Indexes {
		now[x.Name] = stored[x.Name]
		if !x.Valid {
			// Unlike any configuration: it is dropped, or built again.
			invalid := stored[x.Name]
			invalid.Keys = append(slices.Clone(invalid.Keys), "(invalid)")
			now[x.Name] = invalid
			continue
		}
		known, ok := memory.Indexes[x.Name]
		if text, inState := state[x.Name]; ok && inState && known.Text == indexText(stored[x.Name]) {
			now[x.Name] = text
		}
	}
	m.Indexes = indexesValue(now)
	memory.rememberIndexes(v, stored)
	memory.Equivalent = ""
}

// warnInvalid says why an index that is there is planned to be built.
func warnInvalid(v *matview.View, diags *diag.Diagnostics) {
	for _, x := range v.Indexes {
		if !x.Valid {
			diags.AddAttributeWarning(path.Root("indexes"), fmt.Sprintf("Index %q of materialized view %s is invalid", x.Name, v.ID),
				"It is what is left of a CREATE INDEX CONCURRENTLY or REINDEX CONCURRENTLY that failed or is still running; no query uses it. Unless the configuration leaves indexes out, the next apply drops it, and builds it again if it is among them.")
		}
	}
}

func (memory *viewMemory) hasIndexes(v *matview.View) bool {
	if len(v.Indexes) != len(memory.Indexes) {
		return false
	}
	for _, x := range v.Indexes {
		if known, ok := memory.Indexes[x.Name]; !ok || !x.Valid || known.Hash != x.Hash {
			return false
		}
	}
	return true
}

// busy reports that something could not be compared because of a lock. A plan
// does not wait for a refresh; the next one compares.
func busy(diags *diag.Diagnostics, attribute path.Path, v *matview.View, err error) bool {
	if !matview.IsLockTimeout(err) {
		return false
	}
	diags.AddAttributeWarning(attribute, fmt.Sprintf("Materialized view %s is locked", v.ID),
		"It was changed since Terraform last saw it, or what it reads was, but a refresh or another change holds a lock, so this plan cannot tell how. "+
			"It goes by what Terraform last saw. Plan again when the lock is gone.")
	return true
}
