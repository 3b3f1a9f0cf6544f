package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

// Population is a materialized view that is about to be filled by other means
// than a refresh: it is created or replaced with data.
type Population struct {
	StartedAt time.Time // by the database's clock
	installed bool
	// All materialized views, tables and plain views there are: which of them the
	// new one reads is known only once it exists.
	asOf      store.AsOf
	relations allRelations
}

// BeginPopulation reads, in tx and before the statement that fills the view,
// what its as-of will rest on. tx must be READ COMMITTED. It locks no
// materialized view.
func BeginPopulation(ctx context.Context, tx pgx.Tx, schema string) (p Population, err error) {
	if err := migrations.CheckRecorder(ctx, tx, schema); err != nil {
		return p, err
	}
	version, err := migrations.Installed(ctx, tx, schema)
	if err != nil {
		return p, err
	}
	p.installed = version > 0
	if p.installed {
		if p.asOf, err = store.New(schema).AllAsOf(ctx, tx); err != nil {
			return p, postgres.Vanished(err)
		}
	}
	// The setting tells the event trigger for the refreshes of others that a REFRESH
	// in this transaction is ours.
	if err := tx.QueryRow(ctx, "SELECT clock_timestamp(), set_config('matview.own', txid_current()::text, true)").Scan(&p.StartedAt, nil); err != nil {
		return p, err
	}
	if p.installed {
		err = p.relations.scan(tx.QueryRow(ctx, allRelationsSQL))
	}
	return p, err
}

// RecordPopulation records in tx, the transaction that filled the view, one
// succeeded attempt by Terraform. method is for the history: "create" or
// "recreate". It does nothing and returns false if the tables of matview are
// not installed in schema.
func RecordPopulation(ctx context.Context, tx pgx.Tx, schema string, p Population, name matview.Name, method string) (recorded bool, err error) {
	if !p.installed {
		return false, nil
	}
	if err := p.record(ctx, tx, store.New(schema), name, method); err != nil {
		// The tables were there when it began.
		return false, postgres.Vanished(fmt.Errorf("record the population of %s: %w", name, err))
	}
	return true, nil
}

func (p Population) record(ctx context.Context, tx pgx.Tx, s *store.Store, name matview.Name, method string) error {
	done := filled{Success: store.Success{Trigger: TriggerTerraform, AttemptedBy: "terraform", Method: method, StartedAt: p.StartedAt}}
	var oid uint32
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1)::oid", name.SQL()).Scan(&oid); err != nil {
		return err
	}
	view, err := matview.CanonicalName(ctx, tx, name)
	if err != nil {
		return err
	}
	done.View = view
	if _, _, err := done.readBack(tx.QueryRow(ctx, readBackSQL, oid)); err != nil {
		return err
	}
	after, err := s.UpstreamAsOf(ctx, tx, oid)
	if err != nil {
		return err
	}
	done.DataAsOf = oldest(p.StartedAt, p.asOf, after)
	read, err := collectRelations(tx.Query(ctx, relationsSQL, oid))
	if err != nil {
		return err
	}
	var rewritten *rewrittenError
	if errors.As(p.relations.rewritten(read), &rewritten) {
		done.DataAsOf, done.NoLogDuration = nil, true
		done.Warning = fmt.Sprintf("its data is of an unknown time until it is refreshed: %s was truncated, rewritten, detached or replaced meanwhile, so that not all of it could be read", rewritten.table)
	}
	done.Duration = done.FinishedAt.Sub(done.StartedAt)
	batch := &pgx.Batch{}
	s.QueueSuccess(batch, done.Success)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return recordError(err)
	}
	return nil
}
