package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// probeTimeout is below the period of the usual probes.
const probeTimeout = 2 * time.Second

// healthy says that the process is up. It never asks the database: restarting
// the exporter would not mend that.
func (h *Handler) healthy(w http.ResponseWriter, _ *http.Request) error {
	return plain(w, http.StatusOK, "healthy")
}

// ready says whether freshness can be read. Anybody may ask, so it says no more
// than that; the log names what is in the way.
func (h *Handler) ready(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	// Anybody may ask as often as they like, at the price of one connection.
	_, err := wait(ctx, h.readiness.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		return struct{}{}, withConn(ctx, h.Pool, func(conn *pgx.Conn) error {
			return freshness.Check(ctx, conn, h.Schema)
		})
	}), struct{}{})
	if err == nil {
		return plain(w, http.StatusOK, "ready")
	}
	reason, cause := notReady(err), err
	if p := (*problem)(nil); errors.As(err, &p) && p.cause != nil {
		cause = p.cause
	}
	if h.said.first("ready " + reason) {
		h.Logger.Warn("not ready", "reason", reason, "schema", h.Schema, "err", postgres.Message(cause))
	}
	return plain(w, http.StatusServiceUnavailable, "not ready: "+reason)
}

// notReady says in fixed words, without names, why freshness cannot be read.
func notReady(err error) string {
	if p := (*problem)(nil); !errors.As(err, &p) {
		err = fromDatabase(err)
	}
	var p *problem
	errors.As(err, &p)
	switch strings.TrimPrefix(p.Type, problemType) {
	case "not-installed":
		return "the tables of matview are not installed or not up to date: run matview-exporter migrate"
	case "misconfigured":
		return "the exporter's login lacks rights; its log says which"
	case "timeout", "view-busy":
		return "the database took too long"
	case "database-unavailable":
		return "the database does not answer; the exporter's log says why"
	default:
		return "freshness cannot be read; the exporter's log says why"
	}
}

func plain(w http.ResponseWriter, status int, line string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n") // the client has gone
	return nil
}
