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
	"github.com/matview/terraform-provider-matview/internal/postgres"
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
	// History is the last attempts, the latest first, if they were asked for.
	History []Attempt `json:"history,omitzero"`
}

// Attempt is one attempt to refresh a view.
type Attempt struct {
	Trigger      string     `json:"trigger"`
	Method       *string    `json:"method"`
	Outcome      string     `json:"outcome"`
	StartedAt    *Timestamp `json:"started_at"`
	DataAsOf     *Timestamp `json:"data_as_of"`
	FinishedAt   *Timestamp `json:"finished_at"`
	LockWaitMS   *int64     `json:"lock_wait_ms"`
	DurationMS   *int64     `json:"duration_ms"`
	RowsInserted *int64     `json:"rows_inserted"`
	RowsDeleted  *int64     `json:"rows_deleted"`
	Error        *string    `json:"error"`
	SQLState     *string    `json:"sqlstate"`
	Reason       *string    `json:"reason"`
	Warning      *string    `json:"warning"`
}

func newHistory(attempts []freshness.Attempt) []Attempt {
	history := make([]Attempt, len(attempts)) // not null where there is none
	for i, a := range attempts {
		history[i] = Attempt{
			Trigger: a.Trigger, Method: a.Method, Outcome: a.Outcome,
			StartedAt: newTimestamp(&a.StartedAt), DataAsOf: newTimestamp(a.DataAsOf), FinishedAt: newTimestamp(a.FinishedAt),
			LockWaitMS: a.LockWaitMS, DurationMS: a.DurationMS, RowsInserted: a.RowsInserted, RowsDeleted: a.RowsDeleted,
			Error: withoutDetail(a.Error), SQLState: a.SQLState, Reason: a.Reason, Warning: withoutDetail(a.Warning),
		}
	}
	return history
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
	history, err := readHistory(r.URL)
	if err != nil {
		return err
	}
	views, err := h.views(r.Context(), history)
	if err != nil {
		return err
	}
	return writeJSON(w, Status{Views: views})
}

func (h *Handler) cacheStatusOf(w http.ResponseWriter, r *http.Request) error {
	history, err := readHistory(r.URL)
	if err != nil {
		return err
	}
	view, err := h.view(r.Context(), r.PathValue("view"), history)
	if err != nil {
		return err
	}
	return writeJSON(w, view)
}

// views is every view, each with its last attempts if history is not negative.
func (h *Handler) views(ctx context.Context, history int) ([]View, error) {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	var views []View
	err := h.readStatus(ctx, func(conn *pgx.Conn) error {
		found, err := freshness.All(ctx, conn, h.Schema)
		if err != nil {
			return err
		}
		views = NewStatus(found).Views
		return h.addHistory(ctx, conn, views, history)
	})
	return views, err
}

// view is the one that has this name among others.
func (h *Handler) view(ctx context.Context, name string, history int) (*View, error) {
	if !isText(name) {
		return nil, noSuchView()
	}
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	var views []View
	err := h.readStatus(ctx, func(conn *pgx.Conn) error {
		found, ok, err := freshness.Find(ctx, conn, h.Schema, name)
		switch {
		case err != nil:
			return err
		case !ok:
			return noSuchView()
		}
		views = []View{NewView(found)}
		return h.addHistory(ctx, conn, views, history)
	})
	if err != nil {
		return nil, err
	}
	return &views[0], nil
}

// readStatus borrows one of the connections that may read the freshness of views,
// when its turn comes.
func (h *Handler) readStatus(ctx context.Context, read func(*pgx.Conn) error) error {
	if err := acquire(ctx, h.statuses); err != nil {
		return err
	}
	defer h.statuses.Release(1)
	return withConn(ctx, h.Pool, read)
}

func (h *Handler) addHistory(ctx context.Context, db postgres.Querier, views []View, limit int) error {
	if limit < 0 {
		return nil
	}
	names := make([]string, len(views))
	for i, v := range views {
		names[i] = v.Name
	}
	of, err := freshness.History(ctx, db, h.Schema, names, limit)
	if err != nil {
		return err
	}
	for i := range views {
		views[i].History = newHistory(of[views[i].Name])
	}
	return nil
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
