package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/store"
)

func (r *viewResource) create(ctx context.Context, plan *viewModel, indexes map[string]matview.Index) (memory viewMemory, err error) {
	spec := matview.Spec{
		Name:       plan.name(),
		Definition: plan.Definition.ValueString(), ColumnNames: plan.columnNames(), Storage: plan.storage(),
		Owner:    plan.Owner.ValueString(),
		Comment:  plan.Comment.ValueString(),
		Indexes:  indexes,
		WithData: plan.WithData.ValueBool(),
	}
	planned := *plan
	err = r.client.inTransaction(ctx, func(tx pgx.Tx) error {
		*plan = planned
		population, err := refresh.BeginPopulation(ctx, tx, r.client.logSchema)
		if err != nil {
			return err
		}
		if err := matview.Create(ctx, tx, spec); err != nil {
			return err
		}
		if spec.WithData {
			if _, err := refresh.RecordPopulation(ctx, tx, r.client.logSchema, population, spec.Name, "create"); err != nil {
				return err
			}
		}
		v, err := readBack(ctx, tx, spec.Name)
		if err != nil {
			return err
		}
		plan.set(v)
		memory, err = plan.remember(ctx, tx, v)
		return err
	}, spec.Name)
	return memory, err
}

func (r *viewResource) drop(ctx context.Context, name matview.Name) (behind []string, err error) {
	err = r.client.inTransaction(ctx, func(tx pgx.Tx) error {
		v, err := matview.Read(ctx, tx, name)
		if err != nil || v == nil {
			return err
		}
		names, err := store.New(r.client.logSchema).KnownAs(ctx, tx, v.ID)
		if err != nil {
			return err
		}
		if err := matview.Drop(ctx, tx, v); err != nil {
			return err
		}
		behind, err = store.New(r.client.logSchema).DeleteRows(ctx, tx, names)
		return err
	}, name)
	return behind, err
}

func readBack(ctx context.Context, tx pgx.Tx, name matview.Name) (*matview.View, error) {
	v, err := matview.Read(ctx, tx, name)
	if err == nil && v == nil {
		err = fmt.Errorf("materialized view %s is not there; it was dropped or renamed since it was planned, plan again", name)
	}
	return v, err
}

// viewChange is one update of a view.
type viewChange struct {
	client      *client
	from        matview.Name
	plan        *viewModel
	newText     bool                     // of the definition
	indexes     map[string]matview.Index // nil: not managed
	indexesWere map[string]matview.Index
	// memory is of the view as it was planned: others may have changed it since.
	memory viewMemory

	// parsed has the hashes that the view and what it reads had when the planned
	// text was last known to be its query.
	parsed viewMemory
	twin   *matview.View // that was made to replace the view, before it had its name
}

// apply brings the view to the plan in one transaction, and fills in what the
// plan left unknown. behind are the tables whose rows could not follow a rename.
func (c *viewChange) apply(ctx context.Context) (memory viewMemory, behind []string, err error) {
	to := c.plan.name()
	swapped := false
	planned := *c.plan
	err = c.client.inTransaction(ctx, func(tx pgx.Tx) error {
		*c.plan, c.twin, swapped, behind = planned, nil, false, nil
		v, err := readBack(ctx, tx, c.from)
		if err != nil {
			return err
		}
		c.parsed = c.memory
		replace, err := c.needsReplacement(ctx, tx, v)
		if err != nil {
			return err
		}
		if c.newText {
			c.parsed = memoryOf(v) // which was read before the text was parsed
		}
		switch {
		case replace && c.plan.OnDefinitionChange.ValueString() == onChangeSwap:
			swapped = true
			behind, err = c.swap(ctx, tx, v)
		case replace:
			behind, err = c.replace(ctx, tx, v)
		default:
			behind, err = c.alter(ctx, tx, v)
		}
		if err != nil || swapped {
			return err
		}
		memory, err = c.readBack(ctx, tx)
		return err
	}, c.from, to)
	if err == nil && swapped {
		// Readers wait from the exchange to the commit: not also for this.
		err = c.client.inTransaction(ctx, func(tx pgx.Tx) error {
			// Keeps others from changing the view while it is read.
			if err := matview.Comment(ctx, tx, to, c.plan.Comment.ValueString()); err != nil {
				return err
			}
			*c.plan = planned
			memory, err = c.readBack(ctx, tx)
			return err
		}, to)
		var changed *changedError
		if err != nil && !errors.As(err, &changed) {
			err = &swappedError{view: to, err: err}
		}
	}
	return memory, behind, err
}

// needsReplacement compares once more: what the plan could not compare, it may
// compare now.
func (c *viewChange) needsReplacement(ctx context.Context, tx pgx.Tx, v *matview.View) (bool, error) {
	if !c.newText {
		return false, nil
	}
	n, err := matview.Normalize(ctx, tx, c.plan.Definition.ValueString(), c.plan.columnNames()...)
	if err == nil && n.Incomparable != "" {
		n, err = matview.NormalizeFor(ctx, tx, v, c.plan.Definition.ValueString(), c.plan.columnNames()...)
	}
	if err != nil {
		return false, err
	}
	stored, err := matview.Definition(ctx, tx, v.OID)
	if err != nil {
		return false, err
	}
	same, err := n.EquivalentTo(ctx, tx, stored)
	if same || err != nil {
		return false, err
	}
	return true, n.RefuseSelfReference(v)
}

// replace drops the view and creates it again as it was, but for its definition
// and its managed indexes; then it makes the other changes.
func (c *viewChange) replace(ctx context.Context, tx pgx.Tx, v *matview.View) (behind []string, err error) {
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
	spec := matview.Spec{
		Name: v.Name, Definition: c.plan.Definition.ValueString(), ColumnNames: c.plan.columnNames(), Storage: c.storage(v), Owner: v.Owner, Comment: c.plan.Comment.ValueString(),
		Indexes: c.indexes, WithData: v.Populated || c.plan.WithData.ValueBool(),
	}
	if err := matview.Create(ctx, tx, spec); err != nil {
		return nil, err
	}
	created, err := readBack(ctx, tx, v.Name)
	if err != nil {
		return nil, err
	}
	c.parsed = memoryOf(created)
	if err := kept.Restore(ctx, tx, created); err != nil {
		return nil, err
	}
	if behind, err = c.give(ctx, tx, created); err != nil {
		return nil, err
	}
	if spec.WithData {
		_, err = refresh.RecordPopulation(ctx, tx, c.client.logSchema, population, c.plan.name(), "recreate")
	}
	return behind, err
}

// alter makes the changes that leave the view's rows alone. What is recorded of
// its last refresh stays true.
func (c *viewChange) alter(ctx context.Context, tx pgx.Tx, v *matview.View) (behind []string, err error) {
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
	if behind, err = c.give(ctx, tx, v); err != nil {
		return nil, err
	}
	if intact {
		renamed, err := readBack(ctx, tx, c.plan.name())
		if err != nil {
			return nil, err
		}
		err = store.New(c.client.logSchema).KeepIntact(ctx, tx, renamed.ID, v.OID)
		if err != nil {
			return nil, err
		}
	}
	return behind, nil
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

// storage is all of what the plan asks for, and what v has for the rest.
func (c *viewChange) storage(v *matview.View) matview.Storage {
	return v.Storage.With(c.plan.storage())
}

// swap replaces the view by one with the new definition, and makes the other
// changes.
func (c *viewChange) swap(ctx context.Context, tx pgx.Tx, v *matview.View) (behind []string, err error) {
	var population refresh.Population
	comment := c.plan.Comment.ValueString()
	s := matview.Swap{
		View: v, Definition: c.plan.Definition.ValueString(), ColumnNames: c.plan.columnNames(), Storage: c.plan.storage(), Comment: &comment,
		NoData: !v.Populated && !c.plan.WithData.ValueBool(), Timeout: matview.LockTimeout, Pool: c.client.pool,
		Started: func(ctx context.Context) error {
			population, err = refresh.BeginPopulation(ctx, tx, c.client.logSchema)
			return err
		},
		Filled: func(ctx context.Context, twin matview.Name, _ uint32) error {
			if c.twin, err = readBack(ctx, tx, twin); err == nil {
				c.parsed = memoryOf(c.twin)
			}
			return err
		},
	}
	if c.indexes != nil {
		s.Build = maps.Clone(c.indexes)
		changed, err := c.changedIndexes(ctx, tx, v)
		if err != nil {
			return nil, err
		}
		reworded, err := c.reworded(ctx, tx, v)
		if err != nil {
			return nil, err
		}
		changed = append(changed, reworded...)
		for _, x := range v.Indexes {
			if _, wanted := c.indexes[x.Name]; wanted && x.Valid && !slices.Contains(changed, x.Name) {
				delete(s.Build, x.Name)
			} else {
				s.Drop = append(s.Drop, x.Name)
			}
		}
	}
	if err := s.Run(ctx, tx); err != nil {
		return nil, err
	}
	if behind, err = c.give(ctx, tx, v); err != nil || s.NoData {
		return behind, err
	}
	_, err = refresh.RecordPopulation(ctx, tx, c.client.logSchema, population, c.plan.name(), "swap")
	return behind, err
}

// changedIndexes are those to build anew: their text was changed, or the index
// is not the one that Terraform last saw.
func (c *viewChange) changedIndexes(ctx context.Context, tx pgx.Tx, v *matview.View) (changed []string, err error) {
	var equal map[string]bool
	if c.indexesWere == nil {
		if equal, err = c.adopted(ctx, tx, v); err != nil {
			return nil, err
		}
	}
	for _, x := range v.Indexes {
		was, managed := c.indexesWere[x.Name]
		seen := c.memory.Indexes[x.Name].Hash == x.Hash
		if want, ok := c.indexes[x.Name]; ok && !equal[x.Name] && (!managed || !seen || !was.Equal(want)) {
			changed = append(changed, x.Name)
		}
	}
	return changed, nil
}

// reworded are the indexes that the server writes otherwise than when Terraform
// last saw them: somebody renamed a column of the view. The new view has the old
// name again, so they cannot be copied.
func (c *viewChange) reworded(ctx context.Context, tx pgx.Tx, v *matview.View) (names []string, err error) {
	if c.memory.Major != v.Major { // which has its own words for what is the same
		return nil, nil
	}
	stored, err := matview.ReadIndexes(ctx, tx, v.OID)
	for name, x := range stored {
		if known, ok := c.memory.Indexes[name]; ok && known.Text != indexText(x) {
			names = append(names, name)
		}
	}
	return names, err
}

// adopted are the indexes of a view whose indexes were not managed that are what
// the plan asks for already: they stay, and their comments with them.
func (c *viewChange) adopted(ctx context.Context, tx pgx.Tx, v *matview.View) (map[string]bool, error) {
	if len(c.indexes) == 0 || len(v.Indexes) == 0 {
		return nil, nil
	}
	n, err := matview.Normalize(ctx, tx, c.plan.Definition.ValueString(), c.plan.columnNames()...)
	if err != nil || n.Definition == "" {
		return nil, err
	}
	want, err := matview.NormalizeIndexes(ctx, tx, v.Name, n.Definition, c.indexes)
	if err != nil {
		return nil, err
	}
	stored, err := matview.ReadIndexes(ctx, tx, v.OID)
	if err != nil {
		return nil, err
	}
	equal := map[string]bool{}
	for _, x := range v.Indexes {
		w, ok := want[x.Name]
		equal[x.Name] = ok && x.Valid && w.Equal(stored[x.Name])
	}
	return equal, nil
}

// give gives the view the planned owner and name, for which readers wait.
func (c *viewChange) give(ctx context.Context, tx pgx.Tx, v *matview.View) (behind []string, err error) {
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
