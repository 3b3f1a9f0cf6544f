package provider

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// readBack fills in what the plan left unknown. Where the view is not what this
// made of it, the state is to stay as it was: the next plan compares.
func (c *viewChange) readBack(ctx context.Context, tx pgx.Tx) (memory viewMemory, err error) {
	v, err := readBack(ctx, tx, c.plan.name())
	if err != nil {
		return memory, err
	}
	if c.twin != nil && (c.twin.OID != v.OID || c.twin.DefinitionHash != v.DefinitionHash || !slices.Equal(indexHashes(c.twin), indexHashes(v))) {
		return memory, &changedError{view: v.ID, when: "right after this apply had replaced it"}
	}
	planned := c.plan.CanonicalDefinition
	c.plan.set(v)
	if memory, err = c.plan.remember(ctx, tx, v); err != nil {
		return memory, err
	}
	if !planned.IsUnknown() && !planned.Equal(c.plan.CanonicalDefinition) {
		return memory, &changedError{view: v.ID, when: "since this was planned"}
	}
	if memory.Facts != c.parsed.Facts {
		// Its text may mean something else by now: that is for the next plan to tell.
		memory.Facts, memory.Major = c.parsed.Facts, c.parsed.Major
	}
	memory.Equivalent = c.memory.Equivalent
	return memory, nil
}

// indexHashes leave out the names, which a twin's indexes do not have yet.
func indexHashes(v *matview.View) []string {
	hashes := make([]string, len(v.Indexes))
	for i, x := range v.Indexes {
		hashes[i] = x.Hash
	}
	slices.Sort(hashes)
	return hashes
}

// changedError says that somebody else made another view of it.
type changedError struct{ view, when string }

func (e *changedError) Error() string {
	return fmt.Sprintf("%s was changed by somebody else %s, and is not what this apply would record; plan again, to see what there is to do", e.view, e.when)
}

// swappedError says that a view was replaced, and that what came after failed.
type swappedError struct {
	view matview.Name
	err  error
}

func (e *swappedError) Error() string {
	return fmt.Sprintf("%s was replaced by a view of the new definition, but could not be read back for Terraform's state: %s", e.view, e.err)
}

func (e *swappedError) Unwrap() error { return e.err }
