package refresh

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Querier is a connection, a pool or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Order sorts views, by canonical name, so that each comes after those of them
// that its query reads, also through plain views and through materialized views
// that are not among them. Independent ones stay in the order given.
func Order(ctx context.Context, db Querier, schema string, views []string) ([]string, error) {
	if len(views) < 2 {
		return views, nil
	}
	rows, err := db.Query(ctx, fmt.Sprintf(`
SELECT v.view_name, u.view_name
FROM %[1]s AS v
CROSS JOIN LATERAL %[2]s(v.view_oid) AS up(oid)
JOIN %[1]s AS u ON u.view_oid = up.oid AND u.preference = 0
WHERE v.preference = 0`,
		postgres.QuoteIdent(schema, "materialized_view_names"), postgres.QuoteIdent(schema, "materialized_view_upstreams")))
	if err != nil {
		return nil, fmt.Errorf("read the dependencies between views: %w", err)
	}
	reads := map[string][]string{}
	var view, upstream string
	_, err = pgx.ForEachRow(rows, []any{&view, &upstream}, func() error {
		reads[view] = append(reads[view], upstream)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the dependencies between views: %w", err)
	}
	return sortByUpstream(views, reads), nil
}

// sortByUpstream walks depth first. The catalog knows no cycles.
func sortByUpstream(views []string, reads map[string][]string) []string {
	sorted := make([]string, 0, len(views))
	seen, wanted := map[string]bool{}, map[string]bool{}
	for _, view := range views {
		wanted[view] = true
	}
	var visit func(string)
	visit = func(view string) {
		if seen[view] {
			return
		}
		seen[view] = true
		for _, upstream := range reads[view] {
			visit(upstream)
		}
		if wanted[view] {
			sorted = append(sorted, view)
		}
	}
	for _, view := range views {
		visit(view)
	}
	return sorted
}
