package refresh

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/schedule"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// prepare opens the transaction, takes the view's advisory lock, which is a
// statement of its own as the snapshot of any later one must follow it, and
// reads history and catalog. One round trip.
func (a *attempt) prepare(ctx context.Context, conn *pgx.Conn) (pgx.Tx, facts, error) {
	batch := &pgx.Batch{}
	// Explicitly: a default of REPEATABLE READ would put the snapshot before the lock.
	batch.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err := a.queueSettings(batch); err != nil {
		return nil, facts{}, fmt.Errorf("apply its settings: %w", err)
	}
	a.store.QueueAttemptLock(batch, a.id)
	matview.QueueLock(batch, a.view)
	a.store.QueuePastRefreshes(batch, a.view, recentRefreshes)
	a.queueFacts(batch) // the last, as it reads the clock
	defer a.watchLockWait().stop()
	results := conn.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	for _, step := range []string{"begin", "apply its settings", "lock its attempt", "wait for another refresh of it"} {
		if _, err := results.Exec(); err != nil {
			return nil, facts{}, fmt.Errorf("%s: %w", step, err)
		}
	}
	past, err := store.CollectPastRefreshes(results.Query())
	if err != nil {
		return nil, facts{}, fmt.Errorf("read its last refreshes: %w", err)
	}
	f, err := collectFacts(results.Query())
	if err != nil {
		return nil, facts{}, err
	}
	if err := results.Close(); err != nil {
		return nil, facts{}, err
	}
	if !f.MayRefresh {
		return nil, facts{}, a.missingRight(ctx, conn, f)
	}
	f.Recent = recentOf(past)
	return results.Tx(), f, nil
}

// idleTimeout ends a transaction whose client went silent between two
// statements, if the client is gone but its connection still seems open.
const idleTimeout = "10s"

// queueSettings sets what holds for this transaction only.
func (a *attempt) queueSettings(batch *pgx.Batch) error {
	set := map[string]string{
		"idle_in_transaction_session_timeout": idleTimeout,
		"lock_timeout":                        millis(a.request.LockTimeout),
		// If it is on, CONCURRENTLY fails: it appends to a name that is quoted then
		// (make_temptable_name_n in matview.c).
		"quote_all_identifiers": "off",
	}
	for name, value := range a.request.Settings {
		if err := schedule.CheckSettingName(name); err != nil {
			return &statedError{err, pgerrcode.InsufficientPrivilege}
		}
		if strings.EqualFold(name, "search_path") {
			value = schedule.SafePath(value)
		}
		set[name] = value
	}
	if a.request.StatementTimeout > 0 {
		set["statement_timeout"] = millis(a.request.StatementTimeout)
	}
	names := make([]string, 0, len(set))
	values := make([]string, 0, len(set))
	for name, value := range set {
		names, values = append(names, name), append(values, value)
	}
	// client_connection_check_interval (14+) ends the backend of a killed client
	// within a second, in the middle of its statement. matview.own keeps the event
	// trigger for the refreshes of others from recording this one too.
	batch.Queue(`
SELECT set_config(s.name, s.value, true)
FROM (SELECT unnest($1::text[]) AS name, unnest($2::text[]) AS value
      UNION ALL
      SELECT 'client_connection_check_interval', '1s' WHERE current_setting('server_version_num')::int >= 140000
      UNION ALL
      SELECT 'matview.own', txid_current()::text) AS s`,
		names, values)
	return nil
}

func millis(d time.Duration) string { return fmt.Sprintf("%dms", store.CeilMilliseconds(d)) }
