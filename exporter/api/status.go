package api

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

// Status is the body of /cache/status.
type Status struct {
	Views []View `json:"views"`
}

// View is the freshness of a view as JSON: the columns of
// materialized_view_freshness by their names. What is unknown is null.
type View struct {
	Name                string     `json:"view_name"`
	Schema              *string    `json:"schema_name"`
	Relation            *string    `json:"relation_name"`
	IsPopulated         *bool      `json:"is_populated"`
	IsScheduled         bool       `json:"is_scheduled"`
	Enabled             *bool      `json:"enabled"`
	LastRefreshedAt     *Timestamp `json:"last_refreshed_at"`
	RefreshDurationMS   *int64     `json:"refresh_duration_ms"`
	DataAsOf            *Timestamp `json:"data_as_of"`
	StalenessSeconds    *float64   `json:"staleness_seconds"`
	SecondsSinceRefresh *float64   `json:"seconds_since_refresh"`
	DataAge             *string    `json:"data_age"`
	PerformanceRating   *string    `json:"performance_rating"`
	TotalJobs           *int64     `json:"total_jobs"`
	TotalObjects        *int64     `json:"total_objects"`
	MaxStalenessSeconds *float64   `json:"max_staleness_seconds"`
	IsStale             *bool      `json:"is_stale"`
	StaleReason         *string    `json:"stale_reason"`
	LastAttemptAt       *Timestamp `json:"last_attempt_at"`
	LastOutcome         *string    `json:"last_outcome"`
	LastError           *string    `json:"last_error"`
	ConsecutiveFailures int64      `json:"consecutive_failures"`
	NextRunAt           *Timestamp `json:"next_run_at"`
	RefreshInProgress   bool       `json:"refresh_in_progress"`
	SizeBytes           *int64     `json:"size_bytes"`
}

// NewStatus is the status of views, in their order.
func NewStatus(views []freshness.View) Status {
	s := Status{Views: make([]View, len(views))} // not null where there is none
	for i, v := range views {
		s.Views[i] = NewView(v)
	}
	return s
}

// NewView is v as JSON has it, its error without what PostgreSQL says in DETAIL,
// which may be data of the table.
func NewView(v freshness.View) View {
	return View{
		Name: v.Name, Schema: v.Schema, Relation: v.Relation, IsPopulated: v.IsPopulated, IsScheduled: v.IsScheduled, Enabled: v.Enabled,
		LastRefreshedAt: newTimestamp(v.LastRefreshedAt), RefreshDurationMS: v.RefreshDurationMS,
		DataAsOf: newTimestamp(v.DataAsOf), StalenessSeconds: v.StalenessSeconds, SecondsSinceRefresh: v.SecondsSinceRefresh,
		DataAge: v.DataAge, PerformanceRating: v.PerformanceRating, TotalJobs: v.TotalJobs, TotalObjects: v.TotalObjects,
		MaxStalenessSeconds: v.MaxStalenessSeconds, IsStale: v.IsStale, StaleReason: v.StaleReason,
		LastAttemptAt: newTimestamp(v.LastAttemptAt), LastOutcome: v.LastOutcome, LastError: withoutDetail(v.LastError),
		ConsecutiveFailures: v.ConsecutiveFailures, NextRunAt: newTimestamp(v.NextRunAt),
		RefreshInProgress: v.RefreshInProgress, SizeBytes: v.SizeBytes,
	}
}

// Timestamp is a time as RFC 3339 in UTC, to the millisecond, never later than
// it was.
type Timestamp time.Time

const timestampLayout = "2006-01-02T15:04:05.000Z" // Format cuts, it does not round

func (t Timestamp) String() string { return time.Time(t).UTC().Format(timestampLayout) }

// MarshalJSON implements [json.Marshaler].
func (t Timestamp) MarshalJSON() ([]byte, error) {
	return []byte(`"` + t.String() + `"`), nil
}

func newTimestamp(t *time.Time) *Timestamp {
	if t == nil {
		return nil
	}
	at := Timestamp(*t)
	return &at
}

// serverError ends what postgres.Message makes of an error of the server:
// "message (detail); hint: … (SQLSTATE 23505)".
var serverError = regexp.MustCompile(` \(SQLSTATE [0-9A-Z]{5}\)$`)

// withoutDetail cuts at the first parenthesis, since a detail may hold any
// text, parentheses and hints too.
func withoutDetail(message *string) *string {
	if message == nil {
		return nil
	}
	text := *message
	if state := serverError.FindString(text); state != "" {
		text, _, _ = strings.Cut(text, " (")
		text += state
	}
	return &text
}

func (h *Handler) cacheStatus(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), h.Timeout)
	defer cancel()
	var views []freshness.View
	err := withConn(ctx, h.Pool, func(conn *pgx.Conn) (err error) {
		views, err = freshness.All(ctx, conn, h.Schema)
		return err
	})
	if err != nil {
		return err
	}
	return writeJSON(w, NewStatus(views))
}

func (h *Handler) cacheStatusOf(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), h.Timeout)
	defer cancel()
	name := r.PathValue("view")
	if !isText(name) {
		return noSuchView()
	}
	var view freshness.View
	var found bool
	err := withConn(ctx, h.Pool, func(conn *pgx.Conn) (err error) {
		view, found, err = freshness.Find(ctx, conn, h.Schema, name)
		return err
	})
	switch {
	case err != nil:
		return err
	case !found:
		return noSuchView()
	}
	return writeJSON(w, NewView(view))
}

func writeJSON(w http.ResponseWriter, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return newProblem(http.StatusInternalServerError, "internal", "Something went wrong", "The exporter's log says what.").because(err)
	}
	writeBody(w, append(text, '\n'))
	return nil
}

func writeBody(w http.ResponseWriter, body []byte) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(body))) // also for HEAD
	_, _ = w.Write(body)                                  // the client has gone
}
