package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/migrations"
)

// Population is a materialized view that is about to be filled by other means
// than a refresh: it is created or replaced with data.
type Population struct {
	StartedAt time.Time // by the database's clock
	installed bool
	// asOf of every materialized view there is: which of them the new one reads
	// is known only once it exists.
	asOf map[uint32]upstream
	made made
}

// BeginPopulation reads, in tx and before the statement that fills the view,
// what its as-of will rest on. tx must be READ COMMITTED. It locks no
// materialized view.
func BeginPopulation(ctx context.Context, tx pgx.Tx, schema string) (p Population, err error) {
	version, err := migrations.Installed(ctx, tx, schema)
	if err != nil {
		return p, err
	}
	p.installed = version > 0
	if p.installed {
		views, err := freshness.All(ctx, tx, schema)
		if err != nil {
			return p, postgres.Vanished(err)
		}
		p.asOf = make(map[uint32]upstream, len(views))
		for _, v := range views {
			if v.OID != nil {
				p.asOf[*v.OID] = upstream{asOf: v.DataAsOf}
			}
		}
	}
	// The mark tells the event trigger for the refreshes of others that a REFRESH
	// in this transaction is ours.
	if err := tx.QueryRow(ctx, "SELECT clock_timestamp(), set_config('matview.own', txid_current()::text, true)").Scan(&p.StartedAt, nil); err != nil {
		return p, err
	}
	if p.installed {
		err = p.made.scan(tx.QueryRow(ctx, madeSQL))
	}
	return p, err
}

// RecordPopulation records in tx, the transaction that filled the view, one
// succeeded attempt by Terraform. method is for the history: "create" or
// "recreate". It does nothing and returns false where the tables of matview are
// not installed in schema.
func RecordPopulation(ctx context.Context, tx pgx.Tx, schema string, p Population, name matview.Name, method string) (recorded bool, err error) {
	if !p.installed {
		return false, nil
	}
	// The tables were there when it began.
	defer func() { err = postgres.Vanished(err) }()
	var oid uint32
	var view string
	err = tx.QueryRow(ctx, "SELECT view_oid, view_name FROM "+postgres.QuoteIdent(schema, "materialized_view_names")+
		" WHERE schema_name = $1 AND relation_name = $2 AND preference = 0", name.Schema, name.Relation).Scan(&oid, &view)
	if err != nil {
		return false, fmt.Errorf("record the population of %s: %w", name, err)
	}
	done := refreshed{startedAt: p.StartedAt}
	if err := done.readBack(tx.QueryRow(ctx, readBackSQL, oid)); err != nil {
		return false, fmt.Errorf("record the population of %s: %w", name, err)
	}
	after, err := upstreams(ctx, tx, schema, oid)
	if err != nil {
		return false, fmt.Errorf("record the population of %s: %w", name, err)
	}
	done.asOf = oldest(p.StartedAt, p.asOf, after)
	tables, err := scanTables(tx.Query(ctx, tablesSQL, oid))
	if err != nil {
		return false, fmt.Errorf("record the population of %s: %w", name, err)
	}
	warning := ""
	var rewritten *rewrittenError
	if errors.As(p.made.unchanged(tables), &rewritten) {
		done.asOf, done.partial = nil, true
		warning = fmt.Sprintf("of what time its data is cannot be told until it is refreshed: %s was truncated, rewritten, detached or replaced meanwhile, so that not all of it could be seen", rewritten.table)
	}
	batch := &pgx.Batch{}
	record(batch, schema, view, done, outcome{
		trigger: TriggerTerraform, method: Method(method), warning: warning, attemptedBy: "terraform", duration: done.finishedAt.Sub(done.startedAt),
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return false, fmt.Errorf("record the population of %s: %w", name, recordError(err))
	}
	return true, nil
}
