package provider

import (
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// swap replaces the view by one with the new definition, and makes the other
// changes.
func (c *viewChange) swap(ctx context.Context, tx pgx.Tx, v *matview.View) (unwritable []string, err error) {
	pool, err := c.client.open(ctx)
	if err != nil {
		return nil, err
	}
	var population refresh.Population
	comment := c.plan.Comment.ValueString()
	s := matview.Swap{
		View: v, Definition: c.plan.Definition.ValueString(), ColumnNames: c.plan.columnNames(), Storage: c.plan.storage(), Comment: &comment,
		NoData: !v.Populated && !c.plan.WithData.ValueBool(), Timeout: matview.LockTimeout, Pool: pool,
		Started: func(ctx context.Context) error {
			population, err = refresh.BeginPopulation(ctx, tx, c.client.logSchema)
			return err
		},
		Filled: func(ctx context.Context, replacement matview.Name, _ uint32) error {
			if c.replacement, err = readExisting(ctx, tx, replacement); err == nil {
				c.compared.setDefinition(c.replacement)
			}
			return err
		},
	}
	if c.indexes != nil {
		if s.Build, s.Drop, err = c.swappedIndexes(ctx, tx, v); err != nil {
			return nil, err
		}
	}
	if err := s.Run(ctx, tx); err != nil {
		return nil, err
	}
	if unwritable, err = c.setOwnerAndName(ctx, tx, v); err != nil || s.NoData {
		return unwritable, err
	}
	_, err = refresh.RecordPopulation(ctx, tx, c.client.logSchema, population, c.plan.name(), "swap")
	return unwritable, err
}

// swappedIndexes returns the indexes to build on a replacement, and the names of
// those of v that it does not copy.
func (c *viewChange) swappedIndexes(ctx context.Context, tx pgx.Tx, v *matview.View) (build map[string]matview.Index, drop []string, err error) {
	changed, err := c.changedIndexes(ctx, tx, v)
	if err != nil {
		return nil, nil, err
	}
	reworded, err := c.rewordedIndexes(ctx, tx, v)
	if err != nil {
		return nil, nil, err
	}
	changed = append(changed, reworded...)
	build = maps.Clone(c.indexes)
	for _, x := range v.Indexes {
		if _, planned := build[x.Name]; planned && x.Valid && !slices.Contains(changed, x.Name) {
			delete(build, x.Name)
		} else {
			drop = append(drop, x.Name)
		}
	}
	return build, drop, nil
}

// changedIndexes returns the indexes to build again, because their text was changed
// or the index is not the one that Terraform last saw.
func (c *viewChange) changedIndexes(ctx context.Context, tx pgx.Tx, v *matview.View) (changed []string, err error) {
	var equal map[string]bool
	if c.indexesWere == nil {
		if equal, err = c.equalIndexes(ctx, tx, v); err != nil {
			return nil, err
		}
	}
	for _, x := range v.Indexes {
		was, managed := c.indexesWere[x.Name]
		seen := c.private.Indexes[x.Name].Hash == x.Hash
		if want, ok := c.indexes[x.Name]; ok && !equal[x.Name] && (!managed || !seen || !was.Equal(want)) {
			changed = append(changed, x.Name)
		}
	}
	return changed, nil
}

// rewordedIndexes returns the indexes that the server writes otherwise than when
// Terraform last saw them, because somebody renamed a column of the view. The new
// view has the old column name again, so they cannot be copied.
func (c *viewChange) rewordedIndexes(ctx context.Context, tx pgx.Tx, v *matview.View) (names []string, err error) {
	if c.private.Major != v.Major { // another major writes the same index in other words
		return nil, nil
	}
	stored, err := matview.ReadIndexes(ctx, tx, v.OID)
	for name, x := range stored {
		if known, ok := c.private.Indexes[name]; ok && known.Digest != indexDigest(x) {
			names = append(names, name)
		}
	}
	return names, err
}

// equalIndexes reports which indexes of a view whose indexes were not managed are
// already as planned. They stay, with their comments.
func (c *viewChange) equalIndexes(ctx context.Context, tx pgx.Tx, v *matview.View) (map[string]bool, error) {
	if len(c.indexes) == 0 || len(v.Indexes) == 0 {
		return nil, nil
	}
	n, err := matview.Normalize(ctx, tx, c.plan.Definition.ValueString(), c.plan.columnNames()...)
	if err != nil || n.Definition == "" {
		return nil, err
	}
	planned, err := matview.NormalizeIndexes(ctx, tx, v.Name, n.Definition, c.indexes)
	if err != nil {
		return nil, err
	}
	stored, err := matview.ReadIndexes(ctx, tx, v.OID)
	if err != nil {
		return nil, err
	}
	equal := map[string]bool{}
	for _, x := range v.Indexes {
		p, ok := planned[x.Name]
		equal[x.Name] = ok && x.Valid && p.Equal(stored[x.Name])
	}
	return equal, nil
}
