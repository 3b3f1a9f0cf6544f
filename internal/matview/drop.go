package matview

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Drop drops a view in tx, which holds its [Lock]. What depends on it is never
// dropped with it: that is a [DependentsError].
func Drop(ctx context.Context, tx pgx.Tx, view *View) error {
	if err := refuseDependents(ctx, tx, view); err != nil {
		return fmt.Errorf("drop materialized view: %w", err)
	}
	if _, err := tx.Exec(ctx, "DROP MATERIALIZED VIEW "+view.Name.SQL()+" RESTRICT"); err != nil {
		return fmt.Errorf("drop materialized view %s: %w", view.Name, err)
	}
	return nil
}
