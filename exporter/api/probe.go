package api

import (
	"context"
	"io"
	"net/http"
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

// ready says whether freshness can be read.
func (h *Handler) ready(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	err := withConn(ctx, h.Pool, func(conn *pgx.Conn) error {
		// The read model as everything else reads it, of no view at all: finds
		// tables that are missing, old or closed to this login.
		_, _, err := freshness.Find(ctx, conn, h.Schema, "")
		return err
	})
	if err == nil {
		return plain(w, http.StatusOK, "ready")
	}
	var reason string
	switch state := postgres.SQLState(err); state {
	case postgres.UndefinedTable, postgres.UndefinedColumn, postgres.UndefinedFunction, postgres.InvalidSchemaName:
		reason = "the tables of matview are not installed in schema " + postgres.QuoteIdent(h.Schema) + ", or not up to date: run matview-exporter migrate"
	default:
		reason = unwrapped(err)
	}
	return plain(w, http.StatusServiceUnavailable, "not ready: "+reason)
}

// unwrapped is the cause of a problem, for those who run the exporter.
func unwrapped(err error) string {
	if p, ok := err.(*problem); ok && p.cause != nil { //nolint:errorlint // ours, as it comes
		return postgres.Message(p.cause)
	}
	return postgres.Message(err)
}

func plain(w http.ResponseWriter, status int, line string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n") // the client has gone
	return nil
}
