package refresh

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/store"
)

// Skipping bounds how far a request may go without a refresh if nothing that the
// view reads has changed. It requires PostgreSQL 15: before that the counters of
// changes lag without bound.
type Skipping struct {
	// MaxLag is how old a skip may leave the data_as_of that it can prove; if it
	// would be older, the view is refreshed.
	MaxLag time.Duration
	// FullAfter is how long after the last refresh the next is made in any case.
	FullAfter time.Duration
	// Lag is the least lag of what a skip can prove, 0 for [CommitLag]. Less is only
	// right if all who write to what the view reads have their changes counted before
	// their commit is acknowledged, by pg_stat_force_next_flush.
	Lag time.Duration
}

// CommitLag is the least lag of what a skip can prove. A session counts its
// changes after the commit: at once, or up to 60 seconds later if it counted
// others just before or if another one is in its way (PGSTAT_MAX_INTERVAL in
// pgstat.c, PostgreSQL 15 and later). A second more is for the clocks.
const CommitLag = 61 * time.Second

// CheckSkipping says why no refresh can be skipped on this server, or nil.
func CheckSkipping(ctx context.Context, db store.DB) error {
	var version int
	if err := db.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if major := version / 10000; major < postgres.MinMajorForSkipping {
		return fmt.Errorf("the server is PostgreSQL %d, and skip_unchanged requires %d or later: before that a session that stays connected may keep its counts of changes to itself without a limit",
			major, postgres.MinMajorForSkipping)
	}
	if err := postgres.CheckTested(version); err != nil {
		return fmt.Errorf("%w: skip_unchanged relies on the server's internals, which another major may have changed", err)
	}
	return nil
}

// skipUnchanged skips the refresh if it is certain that it would change nothing, and
// records that. Otherwise it notes why not, and what the query reads at this moment,
// before the refresh's snapshot, for the next time.
func (a *attempt) skipUnchanged(ctx context.Context) (result Result, skipped bool) {
	result, why, err := a.trySkip(ctx)
	if err == nil && why == "" {
		return result, true
	}
	if err == nil {
		a.notSkipped = why
		a.inputs, err = a.readInputs(ctx)
	}
	if err != nil { // of whichever kind, a refresh is right; one without a connection will fail itself
		a.notSkipped, a.inputs = "whether anything has changed is unknown: "+postgres.Message(err), nil
	}
	if a.inputs != nil && a.inputs.Doubt != "" {
		a.notSkipped = a.inputs.Doubt
	}
	return Result{}, false
}

// withNotSkipped puts why the refresh was not skipped before why this method.
func (a *attempt) withNotSkipped(method string) string {
	if a.notSkipped == "" {
		return method
	}
	return "not skipped: " + a.notSkipped + "; " + method
}

// trySkip returns why the view must be refreshed, or "" if that was skipped.
func (a *attempt) trySkip(ctx context.Context) (result Result, why string, err error) {
	conn := a.conn.Conn()
	check, err := a.readCheck(ctx, conn)
	if err != nil {
		if reason := CheckSkipping(ctx, conn); reason != nil {
			err = reason
		}
		return Result{}, "", err
	}
	if why = check.changed(a.request.Settings); why != "" {
		return Result{}, why, nil
	}
	asOf := check.Provable
	if check.last.ReadsViews {
		// Their as-of is read between two checks: if nothing has changed by the second,
		// they are what they were at our last refresh.
		upstreams, err := a.store.UpstreamAsOf(ctx, conn, *check.state.ViewOID)
		if err != nil {
			return Result{}, "", err
		}
		again, err := a.readCheck(ctx, conn)
		if err != nil {
			return Result{}, "", err
		}
		if why = again.changed(a.request.Settings); why != "" {
			return Result{}, why, nil
		}
		if !again.state.DataAsOf.Equal(*check.state.DataAsOf) || *again.state.ViewXmin != *check.state.ViewXmin {
			return Result{}, refreshedMeanwhile, nil
		}
		asOf = *cmp.Or(oldest(asOf, upstreams, upstreams), check.state.DataAsOf)
	}
	if asOf.Before(*check.state.DataAsOf) {
		asOf = *check.state.DataAsOf
	}
	if why = check.due(asOf, *a.request.SkipUnchanged); why != "" {
		return Result{}, why, nil
	}
	return a.recordSkip(ctx, conn, check, asOf)
}

const refreshedMeanwhile = "it was refreshed meanwhile"

// recordSkip records in one transaction that the view is as fresh as it was found
// to be, or returns why it must be refreshed after all.
func (a *attempt) recordSkip(ctx context.Context, conn *pgx.Conn, check skipCheck, asOf time.Time) (result Result, why string, err error) {
	skip := Result{
		View: a.view, Skipped: true, Reason: "nothing that it reads has changed since its last refresh", AsOf: &asOf, FinishedAt: check.Now,
	}
	a.unconfirmed = &skip
	startedAt, finishedAt, err := a.store.RecordSkip(ctx, conn, store.Skip{
		Attempt: a.id, View: a.view, Reason: skip.Reason, DataAsOf: asOf, WasAsOf: *check.state.DataAsOf, WasXmin: *check.state.ViewXmin,
	})
	if errors.Is(err, pgx.ErrNoRows) {
		a.unconfirmed = nil
		return Result{}, refreshedMeanwhile, nil
	}
	if err != nil {
		return Result{}, "", recordError(err)
	}
	skip.FinishedAt, skip.Duration = finishedAt, finishedAt.Sub(startedAt)
	return skip, "", nil
}

// skipCheck is what decides about a skip.
type skipCheck struct {
	activity
	state   store.State
	last    *queryInputs      // at the last refresh
	current map[string]string // the fingerprint now
}

// activity is what sessions do, and whether the counters of changes can be relied on.
type activity struct {
	Now   time.Time
	Doubt string // about the server or the login
	// Provable is until when all commits are in the counters that are read after it;
	// BusyPID is the session that it waits for, 0 if it is only the clock.
	Provable time.Time
	BusyPID  int
}

// pinSQL is for a transaction of our own statements only. Their estimates grow with the
// number of partitions: 200 of them made the server compile for 1.3 to 2.8 s what takes
// 15 to 28 ms. The names that a fingerprint has must not depend on the login.
const pinSQL = `SELECT set_config('jit', 'off', true), set_config('quote_all_identifiers', 'off', true)`

//go:embed activity.sql
var activitySQL string

// readCheck reads the activity, the state and the fingerprint, in this order and in
// one round trip: what is idle at first has counted its changes by then.
func (a *attempt) readCheck(ctx context.Context, conn *pgx.Conn) (c skipCheck, err error) {
	batch := &pgx.Batch{}
	batch.Queue(pinSQL)
	batch.Queue(a.store.SQL(activitySQL), pgx.NamedArgs{"lag": cmp.Or(a.request.SkipUnchanged.Lag, CommitLag)})
	a.store.QueueState(batch, a.view, a.name.Schema, a.name.Relation)
	a.queueLastFingerprint(batch)
	results := conn.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	if _, err := results.Exec(); err != nil {
		return c, err
	}
	rows, err := results.Query()
	if err != nil {
		return c, err
	}
	if c.activity, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[activity]); err != nil {
		return c, err
	}
	if c.state, err = store.CollectState(results.Query()); err != nil {
		return c, err
	}
	if c.last, err = parseInputs(c.state.ChangeCounters); err != nil {
		return c, err
	}
	if err := results.QueryRow().Scan(&c.current); err != nil {
		return c, err
	}
	return c, results.Close()
}

// changed is what may have changed since the last refresh, or "".
func (c skipCheck) changed(settings map[string]string) string {
	switch {
	case c.Doubt != "":
		return c.Doubt
	case c.last == nil || c.state.LoggedRefreshedAt == nil:
		return "nothing is known of what it read at its last refresh"
	case c.last.Doubt != "":
		return c.last.Doubt
	case !c.state.Intact:
		return "it was refreshed, altered or replaced by somebody else"
	case !c.state.Logged:
		return "its row in the log is gone"
	case c.state.DataAsOf == nil:
		return "its as-of is not known"
	case c.state.DataAsOf.After(c.Now):
		return "its as-of is later than the clock, which was set back"
	case !maps.Equal(c.last.Settings, settings):
		return "its schedule has other settings now"
	}
	names := c.last.differences(c.current)
	if len(names) == 0 {
		return ""
	}
	const maxNames = 3
	if len(names) > maxNames {
		names = append(names[:maxNames], fmt.Sprintf("%d more", len(names)-maxNames))
	}
	return "changed since: " + strings.Join(names, ", ")
}

// due is why a view is refreshed although nothing has changed, or "".
func (c skipCheck) due(asOf time.Time, bounds Skipping) string {
	if age := c.Now.Sub(*c.state.LoggedRefreshedAt); age >= bounds.FullAfter || age < 0 {
		return fmt.Sprintf("unchanged, but refreshed in any case %s after the last time", bounds.FullAfter)
	}
	lag := c.Now.Sub(asOf)
	if lag <= bounds.MaxLag {
		return ""
	}
	why := fmt.Sprintf("unchanged, but only until %s ago for certain, and its max_staleness or target_staleness leaves %s",
		lag.Round(time.Second), max(bounds.MaxLag, 0).Round(time.Second))
	if c.BusyPID != 0 {
		why += fmt.Sprintf(": the session of process %d may hold changes back", c.BusyPID)
	}
	return why
}
