package refresh

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/store"
)

// Reads says which materialized views the query of each one reads, itself or
// through plain views, by canonical names. The catalog knows no cycles.
type Reads map[string][]string

//go:embed dependencies.sql
var readsSQL string

// ReadReads reads the dependencies between all materialized views of the
// database, with our tables in schema. It reads catalogs only, and waits for no
// refresh.
func ReadReads(ctx context.Context, db store.DB, schema string) (Reads, error) {
	rows, err := db.Query(ctx, store.New(schema).SQL(readsSQL))
	if err != nil {
		return nil, fmt.Errorf("read the dependencies between views: %w", err)
	}
	reads := Reads{}
	var view, upstream string
	_, err = pgx.ForEachRow(rows, []any{&view, &upstream}, func() error {
		reads[view] = append(reads[view], upstream)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the dependencies between views: %w", err)
	}
	return reads, nil
}

// Sort puts each view after those of them that it reads, also through views that
// are not among them. Independent ones stay in the order given.
func (r Reads) Sort(views []string) []string {
	wanted, sorted := set(views), make([]string, 0, len(views))
	for _, view := range views {
		for _, v := range append(r.Upstreams(view), view) {
			if wanted[v] {
				sorted = append(sorted, v)
				delete(wanted, v)
			}
		}
	}
	return sorted
}

// Upstreams are all that a view reads, also through other materialized views,
// each after those that it reads itself.
func (r Reads) Upstreams(view string) []string {
	var found []string
	seen := map[string]bool{view: true}
	var visit func(string)
	visit = func(view string) {
		for _, upstream := range r[view] {
			if !seen[upstream] {
				seen[upstream] = true
				visit(upstream)
				found = append(found, upstream)
			}
		}
	}
	visit(view)
	return found
}

func set(views []string) map[string]bool {
	s := make(map[string]bool, len(views))
	for _, view := range views {
		s[view] = true
	}
	return s
}
