package refresh

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Skipping bounds how far a request may go without a refresh where nothing that
// the view reads has changed. It needs PostgreSQL 15: before that the counters of
// changes lag without bound.
type Skipping struct {
	// MaxLag is how old a skip may leave the data_as_of that it can prove; where
	// it would be older, the view is refreshed.
	MaxLag time.Duration
	// FullAfter is how long after the last refresh the next is made in any case.
	FullAfter time.Duration
	// Lag is the least lag of what a skip can prove, 0 for [CommitLag]. Less is only
	// right where all who write to what the view reads have their changes counted
	// before their commit is acknowledged, by pg_stat_force_next_flush.
	Lag time.Duration
}

// CommitLag is the least lag of what a skip can prove. A session counts its
// changes after the commit: at once, or up to 60 seconds later if it counted
// others just before or if another one is in its way (PGSTAT_MAX_INTERVAL in
// pgstat.c, PostgreSQL 15 and later). A second more is for the clocks.
const CommitLag = 61 * time.Second

// CheckSkipping says why no refresh can be skipped on this server, or nil.
func CheckSkipping(ctx context.Context, db session) error {
	var version int
	if err := db.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version < 150000 {
		return fmt.Errorf("the server is PostgreSQL %d, and skip_unchanged needs 15 or later: before that a session that stays connected may keep its counts of changes to itself without a limit", version/10000)
	}
	return nil
}

//go:embed unchanged_reads.sql
var queryReadsSQL string

//go:embed unchanged.sql
var fingerprintSQL string

// counted is what the state remembers of what the view's query reads: read
// before the snapshot of the last refresh, so that the view has at least the
// changes that were counted by then.
type counted struct {
	view uint32 // its OID: another one has a query of its own
	// Doubt is why its result may change although the fingerprint does not.
	Doubt       string            `json:"doubt"`
	Relations   []uint32          `json:"relations"`
	Functions   []uint32          `json:"functions"`
	Operators   []uint32          `json:"operators"`
	Collations  []uint32          `json:"collations"`
	ReadsViews  bool              `json:"reads_views"` // materialized ones, which have an as-of of their own
	Settings    map[string]string `json:"settings"`    // those of the refresh
	Fingerprint map[string]string `json:"fingerprint"`
}

// standing is how the view stands before it is refreshed.
type standing struct {
	now         time.Time
	asOf        *time.Time
	refreshedAt *time.Time
	oid, xmin   *uint32
	counted     *counted
	intact      bool // the data is that of our last refresh
	logged      bool
	doubt       string // about the server or the login
	// provable is until when all commits are in the counters that are read after
	// it; busy is the session that it waits for, 0 if it is only the clock.
	provable time.Time
	busy     int
}

// A session that is not idle may hold back the counts of what it committed since
// it became busy, and of 61 seconds before: a procedure that commits as it goes,
// or one that is idle in a transaction. So may one that went idle a moment ago,
// of its last statement. Only a client's session says when it is idle.
const standingSQL = `
SELECT statement_timestamp(), st.data_as_of, st.logged_refreshed_at, st.view_oid, st.view_xmin, st.change_counters,
       coalesce(c.relispopulated AND st.view_oid = c.oid AND st.view_filenode = c.relfilenode AND st.view_xmin = c.xmin, false),
       EXISTS (SELECT FROM %[2]s() AS l WHERE l.view_name = $1),
       CASE WHEN current_setting('track_counts') = 'off'
              OR EXISTS (SELECT FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c
                         WHERE c ILIKE 'track_counts=%%' AND c NOT ILIKE 'track_counts=on' AND c NOT ILIKE 'track_counts=true')
                THEN 'the setting track_counts is off, so that PostgreSQL does not count changes'
            WHEN NOT pg_has_role('pg_read_all_stats', 'USAGE')
                THEN format('%%I may not see what other sessions do: GRANT pg_read_all_stats TO %%1$I', current_user)
            ELSE '' END,
       coalesce(least(b.since, statement_timestamp() - $4::interval), statement_timestamp() - $4::interval),
       CASE WHEN b.since < statement_timestamp() - $4::interval THEN b.pid ELSE 0 END
FROM (SELECT) AS one
LEFT JOIN %[1]s AS st ON st.view_name = $1
LEFT JOIN (pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = $2) ON c.relname = $3 AND c.relkind = 'm'
LEFT JOIN LATERAL (
    SELECT a.pid, CASE
               WHEN a.backend_type NOT IN ('client backend', 'walsender') OR a.state IS DISTINCT FROM 'idle'
                   THEN coalesce(least(a.xact_start, a.query_start), a.backend_start) - $4::interval
               WHEN a.state_change > statement_timestamp() - $4::interval THEN a.query_start
           END AS since
    FROM pg_stat_activity AS a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
    ORDER BY since LIMIT 1
) AS b ON true`

func (s *standing) scan(row pgx.Row) error {
	return row.Scan(&s.now, &s.asOf, &s.refreshedAt, &s.oid, &s.xmin, &s.counted, &s.intact, &s.logged, &s.doubt, &s.provable, &s.busy)
}

// unchanged skips the refresh where it is sure that it would change nothing, and
// records that. Otherwise it says why not, and remembers what the query reads at
// this moment, before the refresh's snapshot, for the next time.
func (a *attempt) unchanged(ctx context.Context) (result Result, skipped bool) {
	result, why, err := a.skip(ctx)
	if err == nil && why == "" {
		return result, true
	}
	if err == nil {
		a.because = why
		a.counted, err = a.count(ctx)
	}
	if err != nil { // whatever it is, a refresh is right; one without the connection will say so
		a.because, a.counted = "it could not be told whether anything has changed: "+postgres.Message(err), nil
	}
	if a.counted != nil && a.counted.Doubt != "" {
		a.because = a.counted.Doubt
	}
	return Result{}, false
}

// whyRefreshed puts why it was not skipped before why this method.
func (a *attempt) whyRefreshed(method string) string {
	if a.because == "" {
		return method
	}
	return "not skipped: " + a.because + "; " + method
}

// skip returns why the view must be refreshed, or "" if that was skipped.
func (a *attempt) skip(ctx context.Context) (result Result, why string, err error) {
	conn := a.conn.Conn()
	s, current, err := a.stand(ctx, conn)
	if err != nil {
		if reason := CheckSkipping(ctx, conn); reason != nil {
			err = reason
		}
		return Result{}, "", err
	}
	if why = s.changed(current, a.request.Settings); why != "" {
		return Result{}, why, nil
	}
	provable := s.provable
	if s.counted.ReadsViews {
		// Theirs is read first: they are then what they were at our last refresh,
		// if they are that afterwards.
		asOf, err := upstreams(ctx, conn, a.schema, *s.oid)
		if err != nil {
			return Result{}, "", err
		}
		if oldest := oldest(provable, asOf, asOf); oldest == nil {
			provable = *s.asOf
		} else {
			provable = *oldest
		}
		again, current, err := a.stand(ctx, conn)
		if err != nil {
			return Result{}, "", err
		}
		if why = again.changed(current, a.request.Settings); why != "" {
			return Result{}, why, nil
		}
		if !again.asOf.Equal(*s.asOf) || *again.xmin != *s.xmin {
			return Result{}, "it was refreshed meanwhile", nil
		}
	}
	if provable.Before(*s.asOf) {
		provable = *s.asOf
	}
	if why = s.due(provable, *a.request.SkipUnchanged); why != "" {
		return Result{}, why, nil
	}
	return a.recordSkipped(ctx, conn, s, provable)
}

// stand reads how the view stands and the fingerprint, in this order and in one
// round trip: what is idle at first has counted its changes by then.
func (a *attempt) stand(ctx context.Context, conn *pgx.Conn) (s standing, current map[string]string, err error) {
	state := postgres.QuoteIdent(a.schema, "materialized_view_refresh_state")
	batch := &pgx.Batch{}
	batch.Queue(fmt.Sprintf(standingSQL, state, postgres.QuoteIdent(a.schema, "materialized_view_refresh_log_rows")),
		a.view, a.name.Schema, a.name.Relation, cmp.Or(a.request.SkipUnchanged.Lag, CommitLag))
	batch.Queue(strings.Replace(fingerprintSQL, "$1::jsonb", "(SELECT change_counters FROM "+state+" WHERE view_name = $1)", 1), a.view)
	results := conn.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	if err := s.scan(results.QueryRow()); err != nil {
		return standing{}, nil, err
	}
	if err := results.QueryRow().Scan(&current); err != nil {
		return standing{}, nil, err
	}
	return s, current, results.Close()
}

// count reads what the query reads and its fingerprint, under one snapshot of
// the catalogs; the counters may be later than that, but never than a snapshot
// that is taken afterwards.
func (a *attempt) count(ctx context.Context) (*counted, error) {
	tx, err := a.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var oid uint32
	err = tx.QueryRow(ctx, "SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
		a.name.Schema, a.name.Relation).Scan(&oid)
	if err != nil {
		return nil, err
	}
	c := &counted{view: oid, Settings: a.request.Settings}
	if err := tx.QueryRow(ctx, queryReadsSQL, oid).Scan(&c.Doubt, &c.Relations, &c.Functions, &c.Operators, &c.Collations, &c.ReadsViews); err != nil {
		return nil, err
	}
	if err := tx.QueryRow(ctx, fingerprintSQL, c).Scan(&c.Fingerprint); err != nil {
		return nil, err
	}
	return c, tx.Commit(ctx)
}

// changed is what may have changed since the last refresh, or "".
func (s standing) changed(current, settings map[string]string) string {
	switch {
	case s.doubt != "":
		return s.doubt
	case s.counted == nil || s.refreshedAt == nil:
		return "nothing is known of what it read at its last refresh"
	case s.counted.Doubt != "":
		return s.counted.Doubt
	case !s.intact:
		return "it was refreshed, altered or replaced by somebody else"
	case !s.logged:
		return "its row in the log is gone"
	case s.asOf == nil:
		return "its as-of is not known"
	case s.asOf.After(s.now):
		return "its as-of is later than the clock, which was set back"
	case !maps.Equal(s.counted.Settings, settings):
		return "its schedule has other settings now"
	}
	var names []string
	for _, fingerprints := range []map[string]string{s.counted.Fingerprint, current} {
		for name := range fingerprints {
			was, known := s.counted.Fingerprint[name]
			is, still := current[name]
			if (was != is || known != still) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	const shown = 3
	if len(names) > shown {
		names = append(names[:shown], fmt.Sprintf("%d more", len(names)-shown))
	}
	for i, name := range names {
		names[i] = strings.TrimPrefix(name, "=")
	}
	if len(names) == 0 {
		return ""
	}
	return "changed since: " + strings.Join(names, ", ")
}

// due is why a view is refreshed although nothing has changed, or "".
func (s standing) due(provable time.Time, bounds Skipping) string {
	if age := s.now.Sub(*s.refreshedAt); age >= bounds.FullAfter || age < 0 {
		return fmt.Sprintf("unchanged, but refreshed in any case %s after the last time", bounds.FullAfter)
	}
	lag := s.now.Sub(provable)
	if lag <= bounds.MaxLag {
		return ""
	}
	why := fmt.Sprintf("unchanged, but only until %s ago for certain, and its max_staleness or target_staleness leaves %s",
		lag.Round(time.Second), max(bounds.MaxLag, 0).Round(time.Second))
	if s.busy != 0 {
		why += fmt.Sprintf(": the session of process %d may hold changes back", s.busy)
	}
	return why
}
