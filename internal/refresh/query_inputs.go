package refresh

import (
	"context"
	_ "embed"
	"encoding/json"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/store"
)

//go:embed query_inputs.sql
var queryInputsSQL string

//go:embed query_fingerprint.sql
var queryFingerprintSQL string

// queryInputs are what the query of a view reads and calls, and a fingerprint of
// that. The state keeps those of the last refresh, read before its snapshot, so that
// the view has at least the changes that were counted by then.
type queryInputs struct {
	view uint32 // its OID: another view has a query of its own
	// Doubt is why the result may change although the fingerprint does not.
	Doubt       string            `json:"doubt"`
	Relations   []uint32          `json:"relations"`
	Functions   []uint32          `json:"functions"`
	Operators   []uint32          `json:"operators"`
	Collations  []uint32          `json:"collations"`
	ReadsViews  bool              `json:"reads_views"` // materialized ones, which have an as-of of their own
	Settings    map[string]string `json:"settings"`    // those of the refresh
	Fingerprint map[string]string `json:"fingerprint"` // of each relation, by name, and of all else, as "=what it is"
}

func parseInputs(text json.RawMessage) (inputs *queryInputs, err error) {
	if text != nil {
		err = json.Unmarshal(text, &inputs)
	}
	return inputs, err
}

// readInputs reads what the query reads and its fingerprint, under one snapshot of
// the catalogs; the counters may be later than that, but never than a snapshot
// that is taken afterwards.
func (a *attempt) readInputs(ctx context.Context) (*queryInputs, error) {
	tx, err := a.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, pinSQL); err != nil {
		return nil, err
	}
	var oid uint32
	err = tx.QueryRow(ctx, "SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
		a.name.Schema, a.name.Relation).Scan(&oid)
	if err != nil {
		return nil, err
	}
	i := &queryInputs{view: oid, Settings: a.request.Settings}
	if err := tx.QueryRow(ctx, a.store.SQL(queryInputsSQL), oid).Scan(&i.Doubt, &i.Relations, &i.Functions, &i.Operators, &i.Collations, &i.ReadsViews); err != nil {
		return nil, err
	}
	if err := tx.QueryRow(ctx, a.store.SQL(queryFingerprintSQL), pgx.NamedArgs{"inputs": i}).Scan(&i.Fingerprint); err != nil {
		return nil, err
	}
	return i, tx.Commit(ctx)
}

// queueLastFingerprint reads the present fingerprint of what the query read at the
// last refresh.
func (a *attempt) queueLastFingerprint(batch *pgx.Batch) {
	sql := strings.Replace(queryFingerprintSQL, "@inputs::jsonb", store.ChangeCountersSQL+"::jsonb", 1)
	batch.Queue(a.store.SQL(sql), pgx.NamedArgs{"view": a.view})
}

// differences names what is not the same in the fingerprint and in current.
func (i *queryInputs) differences(current map[string]string) (names []string) {
	for _, fingerprint := range []map[string]string{i.Fingerprint, current} {
		for name := range fingerprint {
			was, known := i.Fingerprint[name]
			is, still := current[name]
			if (was != is || known != still) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	for n, name := range names {
		names[n] = strings.TrimPrefix(name, "=")
	}
	return names
}
