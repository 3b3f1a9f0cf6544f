package matview

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Rename gives a view another name, another schema or both. It takes ACCESS
// EXCLUSIVE.
func Rename(ctx context.Context, tx pgx.Tx, from, to Name) error {
	if from == to {
		return nil
	}
	if err := refuseExisting(ctx, tx, to); err != nil {
		var exists *ExistsError
		if errors.As(err, &exists) {
			exists.Renamed = from
		}
		return err
	}
	// Two statements are needed to change both, so the name in between must be free.
	between := Name{Schema: to.Schema, Relation: from.Relation}
	steps := []Name{between, to}
	if from.Schema != to.Schema && from.Relation != to.Relation && refuseExisting(ctx, tx, between) != nil {
		steps[0] = Name{Schema: from.Schema, Relation: to.Relation}
	}
	at := from
	for _, next := range steps {
		sql := ""
		switch {
		case next.Schema != at.Schema:
			sql = " SET SCHEMA " + postgres.QuoteIdent(next.Schema)
		case next.Relation != at.Relation:
			sql = " RENAME TO " + postgres.QuoteIdent(next.Relation)
		default:
			continue
		}
		if _, err := tx.Exec(ctx, "ALTER MATERIALIZED VIEW "+at.SQL()+sql); err != nil {
			return fmt.Errorf("rename materialized view %s to %s: %w", from, to, err)
		}
		at = next
	}
	return nil
}

// SetOwner changes the owner of a view. Grants by the old owner become grants by the
// new one. It takes ACCESS EXCLUSIVE.
func SetOwner(ctx context.Context, tx pgx.Tx, name Name, owner string) error {
	if _, err := tx.Exec(ctx, "ALTER MATERIALIZED VIEW "+name.SQL()+" OWNER TO "+postgres.QuoteIdent(owner)); err != nil {
		return &RoleError{Role: owner, Err: fmt.Errorf("set the owner of materialized view %s: %w", name, err)}
	}
	return nil
}

// SetIndexes makes the indexes of a view exactly those in want, and rebuilds those in
// changed. It builds all indexes, for which readers do not wait, before it drops any,
// for which it takes ACCESS EXCLUSIVE; see [LockAccessExclusive].
//
// CREATE INDEX CONCURRENTLY would have no advantage. It exists for tables that are
// written to during the build: it takes SHARE UPDATE EXCLUSIVE rather than SHARE, and
// the only writer of a materialized view, REFRESH, waits for both. But it scans the
// view twice, waits for every older transaction, and cannot be rolled back with the
// other changes. And it deadlocks with a REFRESH that waits for it, since it waits
// for the snapshot that this REFRESH already has.
func SetIndexes(ctx context.Context, tx pgx.Tx, view *View, want map[string]Index, changed []string) error {
	kept := map[string]bool{}
	replaced := map[string]string{} // name to the temporary name of the new index
	var drop []string
	for _, x := range view.Indexes {
		_, wanted := want[x.Name]
		switch {
		case !wanted:
			drop = append(drop, x.Name)
		case !x.Valid || slices.Contains(changed, x.Name):
			replaced[x.Name] = temporaryName()
			drop = append(drop, x.Name)
		default:
			kept[x.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if kept[name] {
			continue
		}
		as := name
		if temporary, ok := replaced[name]; ok {
			as = temporary
		}
		if err := want[name].create(ctx, tx, view.Name, name, view.Name, as); err != nil {
			return err
		}
	}
	if len(drop) > 0 {
		if err := LockAccessExclusive(ctx, tx, view, LockTimeout); err != nil {
			return err
		}
	}
	for _, name := range drop {
		if _, err := tx.Exec(ctx, "DROP INDEX "+Name{view.Name.Schema, name}.SQL()); err != nil {
			return fmt.Errorf("drop index %q of %s: %w", name, view.Name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(replaced)) {
		sql := "ALTER INDEX " + Name{view.Name.Schema, replaced[name]}.SQL() + " RENAME TO " + postgres.QuoteIdent(name)
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("replace index %q of %s: %w", name, view.Name, err)
		}
	}
	return nil
}
