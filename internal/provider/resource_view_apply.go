package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/refresh"
	"github.com/matview/terraform-provider-matview/internal/store"
)

func (r *viewResource) create(ctx context.Context, plan *viewModel, indexes map[string]matview.Index) (private viewPrivate, err error) {
	spec := plan.spec(indexes)
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
		v, err := readExisting(ctx, tx, spec.Name)
		if err != nil {
			return err
		}
		plan.set(v)
		private, err = plan.readApplied(ctx, tx, v)
		return err
	}, spec.Name)
	return private, err
}

// drop returns those of our tables from which the view's rows could not be
// deleted.
func (r *viewResource) drop(ctx context.Context, name matview.Name) (unwritable []string, err error) {
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
		unwritable, err = store.New(r.client.logSchema).DeleteRows(ctx, tx, names)
		return err
	}, name)
	return unwritable, err
}

// readExisting is [matview.Read] of a view that must exist.
func readExisting(ctx context.Context, tx pgx.Tx, name matview.Name) (*matview.View, error) {
	v, err := matview.Read(ctx, tx, name)
	if err == nil && v == nil {
		err = fmt.Errorf("materialized view %s is not there; it was dropped or renamed since it was planned, plan again", name)
	}
	return v, err
}

// viewChange is an update of a view.
type viewChange struct {
	client      *client
	from        matview.Name
	plan        *viewModel
	newText     bool                     // of the definition
	indexes     map[string]matview.Index // nil: not managed
	indexesWere map[string]matview.Index
	// private is of the view as it was planned: others may have changed it since.
	private viewPrivate

	// compared is of the view when the planned text was last known to be its query.
	compared viewPrivate
	// replacement is the view that a swap built, before it got its name.
	replacement *matview.View
}

// apply brings the view to the plan in one transaction, and sets what the plan left
// unknown. It returns those of our tables whose rows could not follow a rename.
func (c *viewChange) apply(ctx context.Context) (private viewPrivate, unwritable []string, err error) {
	to := c.plan.name()
	swapped := false
	planned := *c.plan
	err = c.client.inTransaction(ctx, func(tx pgx.Tx) error {
		*c.plan, c.replacement, c.compared, swapped = planned, nil, c.private, false
		v, err := readExisting(ctx, tx, c.from)
		if err != nil {
			return err
		}
		replace, err := c.needsReplacement(ctx, tx, v)
		if err != nil {
			return err
		}
		if c.newText {
			c.compared.setDefinition(v) // v was read before the text was parsed
		}
		switch {
		case replace && c.plan.OnDefinitionChange.ValueString() == onChangeSwap:
			swapped = true
			unwritable, err = c.swap(ctx, tx, v)
			return err
		case replace:
			unwritable, err = c.recreate(ctx, tx, v)
		default:
			unwritable, err = c.alter(ctx, tx, v)
		}
		if err == nil {
			private, err = c.readChanged(ctx, tx)
		}
		return err
	}, c.from, to)
	if err != nil || !swapped {
		return private, unwritable, err
	}
	// Readers wait from the exchange until its commit, so this has a transaction of
	// its own.
	err = c.client.inTransaction(ctx, func(tx pgx.Tx) error {
		// The comment's lock keeps others from changing the view while it is read.
		if err := matview.Comment(ctx, tx, to, c.plan.Comment.ValueString()); err != nil {
			return err
		}
		*c.plan = planned
		private, err = c.readChanged(ctx, tx)
		return err
	}, to)
	var changed *changedError
	if err != nil && !errors.As(err, &changed) {
		err = &swappedError{view: to, err: err}
	}
	return private, unwritable, err
}

// needsReplacement compares the definitions again: the apply may be able to compare
// what the plan was not.
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

// readChanged sets what the plan left unknown. If the view is not what this change
// made of it, it returns a changedError and the state stays: the next plan compares.
func (c *viewChange) readChanged(ctx context.Context, tx pgx.Tx) (private viewPrivate, err error) {
	v, err := readExisting(ctx, tx, c.plan.name())
	if err != nil {
		return private, err
	}
	if r := c.replacement; r != nil && (r.OID != v.OID || r.DefinitionHash != v.DefinitionHash || !slices.Equal(indexHashes(r), indexHashes(v))) {
		return private, &changedError{view: v.ID, when: "right after this apply had replaced it"}
	}
	planned := c.plan.CanonicalDefinition
	c.plan.set(v)
	if private, err = c.plan.readApplied(ctx, tx, v); err != nil {
		return private, err
	}
	if !planned.IsUnknown() && !planned.Equal(c.plan.CanonicalDefinition) {
		return private, &changedError{view: v.ID, when: "since this was planned"}
	}
	if private.Definition != c.compared.Definition {
		// What the view reads has changed since the text was parsed, and the text may
		// mean something else by now: the next plan compares.
		private.Definition, private.Major = c.compared.Definition, c.compared.Major
	}
	private.Equivalent = c.private.Equivalent
	if !c.newText {
		private.Applied, private.Invalid = c.private.Applied, c.private.Invalid
	}
	return private, nil
}

// indexHashes leave out the names: the indexes of a replacement get theirs later.
func indexHashes(v *matview.View) []string {
	hashes := make([]string, len(v.Indexes))
	for i, x := range v.Indexes {
		hashes[i] = x.Hash
	}
	slices.Sort(hashes)
	return hashes
}

// changedError says that somebody else changed the view.
type changedError struct{ view, when string }

func (e *changedError) Error() string {
	return fmt.Sprintf("%s was changed by somebody else %s, and is not what this apply would record; plan again, to see what there is to do", e.view, e.when)
}

// swappedError says that a view was replaced, but could not be read afterwards.
type swappedError struct {
	view matview.Name
	err  error
}

func (e *swappedError) Error() string {
	return fmt.Sprintf("%s was replaced by a view of the new definition, but could not be read back for Terraform's state: %s", e.view, e.err)
}

func (e *swappedError) Unwrap() error { return e.err }
