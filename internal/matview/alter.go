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

// Rename gives a view another name, another schema or both. Readers wait until
// tx ends, as they do for all of the following.
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
	// One name after the other: the halfway name must be free as well.
	halfway := Name{Schema: to.Schema, Relation: from.Relation}
	steps := []Name{halfway, to}
	if from.Schema != to.Schema && from.Relation != to.Relation && refuseExisting(ctx, tx, halfway) != nil {
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

// SetOwner gives a view to another role, as ALTER … OWNER TO does: grants by
// the old owner become grants by the new one.
func SetOwner(ctx context.Context, tx pgx.Tx, name Name, owner string) error {
	if _, err := tx.Exec(ctx, "ALTER MATERIALIZED VIEW "+name.SQL()+" OWNER TO "+postgres.QuoteIdent(owner)); err != nil {
		return &RoleError{Role: owner, Err: fmt.Errorf("give materialized view %s to it: %w", name, err)}
	}
	return nil
}

// SetIndexes makes the indexes of a view those in want, and no others. It
// builds anew the ones in changed. All are built, while readers go on, before
// any is dropped, for which readers wait until tx ends; see [LockOutReaders].
//
// They are not built CONCURRENTLY, which would serve nobody better. That is for
// tables that are written to meanwhile: it takes SHARE UPDATE EXCLUSIVE in place
// of SHARE, and the only writer of a materialized view, REFRESH, takes EXCLUSIVE
// or ACCESS EXCLUSIVE, which wait for both; readers wait for neither. But it scans
// twice, waits for every older transaction, and cannot be undone with the rest; and
// a REFRESH that waits for it has its snapshot already, for which it waits in turn:
// one of the two fails of a deadlock.
func SetIndexes(ctx context.Context, tx pgx.Tx, view *View, want map[string]Index, changed []string) error {
	kept := map[string]bool{}
	replaced := map[string]string{} // name to the name that its successor is built under
	var drop []string
	for _, x := range view.Indexes {
		_, wanted := want[x.Name]
		switch {
		case !wanted:
			drop = append(drop, x.Name)
		case !x.Valid || slices.Contains(changed, x.Name):
			replaced[x.Name] = randomName()
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
		if aside, ok := replaced[name]; ok {
			as = aside
		}
		if err := createIndex(ctx, tx, view.Name, name, as, want[name]); err != nil {
			return err
		}
	}
	if len(drop) > 0 {
		if err := LockOutReaders(ctx, tx, view, Patience); err != nil {
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
