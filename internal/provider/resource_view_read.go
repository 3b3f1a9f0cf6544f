package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// read brings the state up to date with the catalog.
func (m *viewModel) read(ctx context.Context, pool *pgxpool.Pool, v *matview.View, private *viewPrivate, diags *diag.Diagnostics) {
	if m.Definition.IsNull() { // it was just imported
		private.Imported = true
		if len(v.Indexes) > 0 {
			m.Indexes = indexesValue(nil)
		}
		if len(v.Storage.Parameters) > 0 {
			m.StorageParameters = stringMap(nil) // set fills it
		}
	}
	m.set(v)
	m.readDefinition(ctx, pool, v, private, diags)
	m.readIndexes(ctx, pool, v, private, diags)
}

// readDefinition keeps the state's text if it still has the meaning of the stored
// query, and otherwise replaces it by that.
func (m *viewModel) readDefinition(ctx context.Context, db matview.DB, v *matview.View, private *viewPrivate, diags *diag.Diagnostics) {
	imported := m.Definition.IsNull()
	if !imported && private.Definition == definitionDigest(v) {
		return
	}
	same := false
	stored, err := matview.Definition(ctx, db, v.OID)
	if err == nil && !imported {
		same, err = m.hasMeaning(ctx, db, v, stored, private.Major)
	}
	private.Invalid = false
	var invalid *matview.SQLError
	if errors.As(err, &invalid) && !matview.IsLockTimeout(err) {
		// The view is as it was applied: only its text cannot be written any more.
		if err = nil; private.Query == v.DefinitionHash {
			same, private.Invalid = true, true
			warnInvalidText(diags, v, invalid, stored)
		}
	}
	if !imported && warnLocked(diags, path.Root("definition"), v, err) {
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
	private.setDefinition(v)
	private.Equivalent = ""
}

// hasMeaning reports whether the state's text, parsed today, is the stored query.
// If major, which wrote the state's canonical_definition, is not the server's, that
// text counts too: an upgrade keeps a view as it was written before, and some of
// that can no longer be written. Since 14, extract() is a function of its own, and
// substring(a FROM b) is kept as written.
func (m *viewModel) hasMeaning(ctx context.Context, db matview.DB, v *matview.View, stored string, major int) (bool, error) {
	n, err := matview.Normalize(ctx, db, m.Definition.ValueString(), m.columnNames()...)
	var sqlErr *matview.SQLError
	switch {
	case err != nil: // for example of a name that was changed since
		return false, err
	case n.Incomparable != "":
		return stored == m.CanonicalDefinition.ValueString() && sameNames(n.Columns, v.Columns), nil
	}
	same, err := n.EquivalentTo(ctx, db, stored)
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
	return n.EquivalentTo(ctx, db, stored)
}

// sameNames tells a SELECT * whose table has a new column from one whose table
// has not.
func sameNames(a, b []matview.Column) bool {
	return slices.EqualFunc(a, b, func(x, y matview.Column) bool { return x.Name == y.Name })
}

// warnInvalidText says that the text of an applied definition is not valid any more.
func warnInvalidText(diags *diag.Diagnostics, v *matview.View, err *matview.SQLError, stored string) {
	diags.AddAttributeWarning(path.Root("definition"), fmt.Sprintf("The definition of materialized view %s is not valid any more", v.ID),
		"What it reads has been changed since it was applied, for example renamed:\n"+err.Explain()+
			"\n\nThe view itself is as it was, and is refreshed. Nothing is planned for it until the text is changed. Its query now is:\n\n"+stored)
}

// readIndexes keeps the state's text of each index that has not changed.
func (m *viewModel) readIndexes(ctx context.Context, db matview.DB, v *matview.View, private *viewPrivate, diags *diag.Diagnostics) {
	if m.Indexes.IsNull() {
		return
	}
	warnInvalid(v, diags)
	if private.hasIndexes(v) {
		return
	}
	stored, err := matview.ReadIndexes(ctx, db, v.OID)
	if warnLocked(diags, path.Root("indexes"), v, err) {
		return
	}
	if err != nil {
		addViewError(diags, fmt.Sprintf("Cannot read the indexes of materialized view %s", v.ID), err)
		return
	}
	state := m.indexes(ctx, diags)
	current := make(map[string]matview.Index, len(stored))
	for _, x := range v.Indexes {
		index := stored[x.Name]
		known, ok := private.Indexes[x.Name]
		text, inState := state[x.Name]
		switch {
		case !x.Valid:
			// Unlike any configuration, so that it is planned to be dropped or built again.
			index.Keys = append(slices.Clone(index.Keys), "(invalid)")
		case ok && inState && known.Digest == indexDigest(index):
			index = text
		}
		current[x.Name] = index
	}
	m.Indexes = indexesValue(current)
	private.setIndexes(v, stored)
	private.Equivalent = ""
}

// warnInvalid says why a plan builds an index that exists.
func warnInvalid(v *matview.View, diags *diag.Diagnostics) {
	for _, x := range v.Indexes {
		if !x.Valid {
			diags.AddAttributeWarning(path.Root("indexes"), fmt.Sprintf("Index %q of materialized view %s is invalid", x.Name, v.ID),
				"It is what is left of a CREATE INDEX CONCURRENTLY or REINDEX CONCURRENTLY that failed or is still running; no query uses it. Unless the configuration leaves indexes out, the next apply drops it, and builds it again if it is among them.")
		}
	}
}

// warnLocked reports whether err says that a lock prevented a comparison, and
// warns of that. A plan does not wait for a refresh; the next plan compares.
func warnLocked(diags *diag.Diagnostics, attribute path.Path, v *matview.View, err error) bool {
	if !matview.IsLockTimeout(err) {
		return false
	}
	diags.AddAttributeWarning(attribute, fmt.Sprintf("Materialized view %s is locked", v.ID),
		"It was changed since Terraform last saw it, or what it reads was, but a refresh or another change holds a lock, so this plan cannot tell how. "+
			"It goes by what Terraform last saw. Plan again when the lock is gone.")
	return true
}

// readApplied sets canonical_definition of a view that was just created or
// changed, and returns its private state. The transaction has locked the view, so
// nothing of this waits.
func (m *viewModel) readApplied(ctx context.Context, db matview.DB, v *matview.View) (private viewPrivate, err error) {
	private.setDefinition(v)
	private.Applied = definitionText(*m)
	canonical, err := matview.Definition(ctx, db, v.OID)
	if err != nil {
		return private, err
	}
	m.CanonicalDefinition = types.StringValue(canonical)
	if m.Indexes.IsNull() {
		return private, nil
	}
	indexes, err := matview.ReadIndexes(ctx, db, v.OID)
	private.setIndexes(v, indexes)
	// The next plan finds an index that somebody else created meanwhile.
	planned := m.Indexes.Elements()
	maps.DeleteFunc(private.Indexes, func(name string, _ indexPrivate) bool { return planned[name] == nil })
	return private, err
}
