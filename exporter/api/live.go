package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// OpenRealTime makes the pool of [Options.RealTimePool], without connecting. It
// names no prepared statement: a function that the view calls could put another
// one under that name (PREPARE), and so forge the answer about somebody else's
// view.
func OpenRealTime(ctx context.Context, c config.RealTime) (*pgxpool.Pool, error) {
	open, err := postgres.Config{URL: c.URL, ApplicationName: "matview-exporter real-time", MaxConnections: c.MaxConcurrent}.PoolConfig()
	if err != nil {
		return nil, fmt.Errorf("real_time.url: %w", err)
	}
	open.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	return postgres.OpenPool(ctx, open)
}

// liveQuery is a view's own query for one key.
type liveQuery struct {
	fingerprint string
	sql         string
}

// fingerprintSQL changes with everything that the text of the view's query is
// made of: its parse tree, and the names of its columns and of what it reads.
// pg_get_viewdef gives the text itself, but waits while the view is refreshed.
const fingerprintSQL = `
SELECT c.oid::text || encode(sha256(convert_to(concat(r.ev_action,
    (SELECT string_agg(a.attname, ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0),
    (SELECT string_agg(o.identity, ',' ORDER BY d.refclassid, d.refobjid, d.refobjsubid)
     FROM pg_catalog.pg_depend AS d CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) AS o
     WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid)), 'UTF8')), 'hex')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = c.oid
WHERE c.oid = $1`

// liveRow answers with what the view's query gives right now, or that ctx had
// no time left for that. A client that hangs up cancels the query.
func (h *Handler) liveRow(ctx context.Context, w http.ResponseWriter, r *route, values []string) error {
	if h.RealTimePool == nil {
		return realTimeNotOffered()
	}
	select {
	case h.live <- struct{}{}:
		defer func() { <-h.live }()
	default:
		return tooManyLive()
	}
	var columns []byte
	var err error
	var outdated *relation
	for attempt := 1; ; attempt++ {
		known := r.relation.Load()
		columns, err = h.readLive(ctx, r, values, outdated)
		if err == nil || !mayBeLive(ctx, attempt, err) {
			break
		}
		outdated = known
	}
	if err != nil {
		return err
	}
	if columns == nil {
		return noSuchRow()
	}
	writeBody(w, append(openObject(columns), "\"data_source\":\"real_time\"}\n"...))
	return nil
}

var (
	// errOutdated is within an error that a fresh look at the catalog may mend.
	errOutdated = errors.New("the view may have changed")
	// errReplaced is within an error that it surely will, unless the view is gone.
	errReplaced = errors.New("the view has been replaced")
)

// mayBeLive reports whether another attempt may get an answer after err: not
// where the view's own query has failed by what it computes.
func mayBeLive(ctx context.Context, attempt int, err error) bool {
	if errors.Is(err, errReplaced) {
		return pause(ctx, attempt)
	}
	return attempt == 1 && ctx.Err() == nil && (errors.Is(err, errOutdated) || isOutdated(err) && !isDataException(postgres.SQLState(err)))
}

// liveQueryOf is the route's live query, from memory while nothing has changed.
func (h *Handler) liveQueryOf(ctx context.Context, r *route, rel *relation) (*liveQuery, error) {
	// The fingerprint first: a change in between makes the next request ask again.
	query := &liveQuery{}
	var err error
	if query.fingerprint, err = h.fingerprint(ctx, r, rel); err != nil {
		return nil, err
	}
	if known := r.live.Load(); known != nil && known.fingerprint == query.fingerprint {
		return known, nil
	}
	var definition string
	err = withConn(ctx, h.Pool, func(conn *pgx.Conn) (err error) {
		definition, err = matview.Definition(ctx, conn, rel.oid)
		return err
	})
	if err != nil {
		// A view that went meanwhile has no definition, in several words.
		if _, gone := h.fingerprint(ctx, r, rel); errors.Is(gone, errReplaced) {
			return nil, gone
		}
		return nil, err
	}
	query.sql = fmt.Sprintf("SELECT row_to_json(q.*)::text FROM (\n%s\n) AS q WHERE %s LIMIT 2", definition, rel.condition("q", 1))
	r.live.Store(query)
	return query, nil
}

// fingerprint is that of the view's query as it is now.
func (h *Handler) fingerprint(ctx context.Context, r *route, rel *relation) (string, error) {
	var fingerprint string
	found, err := h.readRow(ctx, fingerprintSQL, []any{rel.oid}, &fingerprint)
	// Up to PostgreSQL 13, pg_identify_object fails for what has just gone.
	switch {
	case postgres.SQLState(err) == pgerrcode.InternalError:
		err = viewMissing(r.View).because(fmt.Errorf("%w: %w", errReplaced, err))
	case err == nil && !found:
		err = viewMissing(r.View).because(errReplaced)
	}
	return fingerprint, err
}

// loginSQL says what the login may do that other people's functions must not,
// and null if nothing: $1 is the exporter's own login, $2 the view. A member
// that does not inherit may still SET ROLE.
const loginSQL = `SELECT CASE
    WHEN EXISTS (SELECT FROM pg_catalog.pg_roles AS s WHERE s.rolsuper AND pg_has_role(r.oid, s.oid, 'MEMBER'))
        THEN 'is a superuser, or may become one'
    WHEN EXISTS (SELECT FROM pg_catalog.pg_roles AS s WHERE s.rolname = $1 AND pg_has_role(r.oid, s.oid, 'MEMBER'))
        THEN 'is a member of the role of the exporter itself'
    WHEN EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = $2 AND pg_has_role(r.oid, c.relowner, 'MEMBER'))
        THEN 'owns the view, or is a member of its owner'
    WHEN EXISTS (SELECT FROM pg_catalog.pg_roles AS s WHERE pg_has_role(r.oid, s.oid, 'MEMBER')
                 AND s.rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'))
        THEN 'may reach files or programs of the server'
    END
FROM pg_catalog.pg_roles AS r WHERE r.rolname = session_user`

// readLive runs the query, read-only and under its timeout. It gives nil if
// there is no such row.
func (h *Handler) readLive(ctx context.Context, r *route, values []string, outdated *relation) (columns []byte, err error) {
	rel, err := h.relationOf(ctx, r, outdated)
	if err != nil {
		return nil, err
	}
	query, err := h.liveQueryOf(ctx, r, rel)
	if err != nil {
		return nil, err
	}
	err = withConn(ctx, h.RealTimePool, func(conn *pgx.Conn) error {
		defer endLive(ctx, conn)
		if err := h.beginLive(ctx, conn, rel, values); err != nil {
			return err
		}
		rows, err := conn.Query(ctx, query.sql, asArgs(values)...)
		if err != nil {
			return liveError(err)
		}
		defer rows.Close()
		for rows.Next() {
			if columns != nil {
				return ambiguousRow()
			}
			if err := rows.Scan(&columns); err != nil {
				return liveError(err)
			}
		}
		return liveError(rows.Err())
	})
	return columns, err
}

// endLive takes back what the view's functions may have left: a transaction
// gives back all but the advisory locks of the session.
func endLive(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if _, err := conn.Exec(ctx, "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()", pgx.QueryExecModeSimpleProtocol); err != nil {
		_ = conn.Close(ctx) // its locks go with it
	}
}

// beginLive opens the transaction and makes sure, before any of the view's
// query runs, that the login is a plain one and the key of its type.
func (h *Handler) beginLive(ctx context.Context, conn *pgx.Conn, rel *relation, values []string) error {
	batch := &pgx.Batch{}
	// The server itself stops a statement, and each has this time to itself.
	timeout := h.Config.RealTime.StatementTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline)-grace) // some of the time may be gone
	}
	begin(batch, timeout)
	var tooMuch *string
	batch.Queue(loginSQL, h.Pool.Config().ConnConfig.User, rel.oid).QueryRow(func(row pgx.Row) error { return row.Scan(&tooMuch) })
	casts := make([]string, len(rel.keys))
	for i, k := range rel.keys {
		casts[i] = fmt.Sprintf("$%d::%s IS NULL", i+1, k.typ)
	}
	var keyErr error
	batch.Queue("SELECT "+strings.Join(casts, ", "), asArgs(values)...).Query(func(rows pgx.Rows) error {
		rows.Close()
		keyErr = rows.Err()
		return rows.Err()
	})
	err := conn.SendBatch(ctx, batch).Close()
	switch {
	case isOfType(postgres.SQLState(keyErr)):
		if wrong := h.wrongKey(ctx, rel, values); wrong != nil {
			return wrong
		}
		return err
	case err != nil:
		return err
	case tooMuch != nil:
		return misconfigured(h.Config.RealTime.Errorf("url", "%q %s; real-time queries run functions that others wrote: use a login with SELECT on what the views read and no other right",
			conn.Config().User, *tooMuch))
	}
	return nil
}

// liveError is an error of the view's query, if it is not the database's.
func liveError(err error) error {
	if err == nil {
		return nil
	}
	if postgres.SQLState(err) == pgerrcode.InsufficientPrivilege {
		return misconfigured(fmt.Errorf("the login of real_time may not run the view's query: %w; grant it SELECT on what the query reads, and USAGE on the schemas of that", err))
	}
	p := fromDatabase(err)
	switch strings.TrimPrefix(p.Type, problemType) {
	case "internal", "not-installed":
		return liveQueryFailed(err)
	}
	return p
}
