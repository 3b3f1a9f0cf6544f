package provider

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// alter makes the changes that keep the view and its rows. What is recorded of the
// last refresh stays true.
func (c *viewChange) alter(ctx context.Context, tx pgx.Tx, v *matview.View) (unwritable []string, err error) {
	if !v.Populated && c.plan.WithData.ValueBool() {
		// Before anything of the view is locked: see matview.Populate.
		if err := c.fill(ctx, tx, v); err != nil {
			return nil, err
		}
	}
	// This locks out every REFRESH, but no reader.
	if err := matview.Comment(ctx, tx, v.Name, c.plan.Comment.ValueString()); err != nil {
		return nil, err
	}
	intact, err := store.New(c.client.logSchema).IsIntact(ctx, tx, v.ID, v.OID)
	if err != nil {
		return nil, err
	}
	if c.indexes != nil {
		changed, err := c.changedIndexes(ctx, tx, v)
		if err != nil {
			return nil, err
		}
		if err := matview.SetIndexes(ctx, tx, v, c.indexes, changed); err != nil {
			return nil, err
		}
	}
	if err := matview.SetStorage(ctx, tx, v, c.plan.storage()); err != nil {
		return nil, err
	}
	if unwritable, err = c.setOwnerAndName(ctx, tx, v); err != nil || !intact {
		return unwritable, err
	}
	renamed, err := readExisting(ctx, tx, c.plan.name())
	if err != nil {
		return nil, err
	}
	return unwritable, store.New(c.client.logSchema).KeepIntact(ctx, tx, renamed.ID, v.OID)
}

// fill populates a view that has lost its data, or never had any.
func (c *viewChange) fill(ctx context.Context, tx pgx.Tx, v *matview.View) error {
	population, err := refresh.BeginPopulation(ctx, tx, c.client.logSchema)
	if err != nil {
		return err
	}
	if err := matview.Populate(ctx, tx, v); err != nil {
		return err
	}
	_, err = refresh.RecordPopulation(ctx, tx, c.client.logSchema, population, v.Name, string(refresh.Blocking))
	return err
}

// recreate drops the view and creates it again with the planned definition and
// indexes. Everything else stays as it was, and is changed afterwards.
func (c *viewChange) recreate(ctx context.Context, tx pgx.Tx, v *matview.View) (unwritable []string, err error) {
	kept, err := matview.Keep(ctx, tx, v, c.indexes == nil)
	if err != nil {
		return nil, err
	}
	if err := matview.Drop(ctx, tx, v); err != nil {
		return nil, err
	}
	// The clock is read after the wait for the lock.
	population, err := refresh.BeginPopulation(ctx, tx, c.client.logSchema)
	if err != nil {
		return nil, err
	}
	spec := c.plan.spec(c.indexes)
	spec.Name, spec.Owner, spec.Storage = v.Name, v.Owner, v.Storage.With(c.plan.storage())
	spec.WithData = spec.WithData || v.Populated
	if err := matview.Create(ctx, tx, spec); err != nil {
		return nil, err
	}
	created, err := readExisting(ctx, tx, v.Name)
	if err != nil {
		return nil, err
	}
	c.compared.setDefinition(created)
	if err := kept.Restore(ctx, tx, created); err != nil {
		return nil, err
	}
	if unwritable, err = c.setOwnerAndName(ctx, tx, created); err != nil {
		return nil, err
	}
	if spec.WithData {
		_, err = refresh.RecordPopulation(ctx, tx, c.client.logSchema, population, c.plan.name(), "recreate")
	}
	return unwritable, err
}

// setOwnerAndName gives the view the planned owner and name, for which readers
// wait. It returns those of our tables whose rows could not follow.
func (c *viewChange) setOwnerAndName(ctx context.Context, tx pgx.Tx, v *matview.View) (unwritable []string, err error) {
	owner, to := c.plan.Owner.ValueString(), c.plan.name()
	newOwner := owner != "" && owner != v.Owner
	if newOwner || to != v.Name {
		if err := matview.LockAccessExclusive(ctx, tx, v, matview.LockTimeout); err != nil {
			return nil, err
		}
	}
	if newOwner {
		if err := matview.SetOwner(ctx, tx, v.Name, owner); err != nil {
			return nil, err
		}
	}
	if to == v.Name {
		return nil, nil
	}
	names, err := store.New(c.client.logSchema).KnownAs(ctx, tx, v.ID)
	if err != nil {
		return nil, err
	}
	if err := matview.Rename(ctx, tx, v.Name, to); err != nil {
		return nil, err
	}
	id, err := matview.CanonicalName(ctx, tx, to)
	if err != nil {
		return nil, err
	}
	return store.New(c.client.logSchema).RenameRows(ctx, tx, names, id)
}
