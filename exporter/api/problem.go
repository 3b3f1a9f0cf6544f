package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// problem is an error as RFC 9457 has it. Its text is for anybody: it holds no
// SQL, no credentials and nothing from the server's messages.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`

	retryAfter time.Duration
	cause      error  // for the log
	key        string // what the cause is about, to log it once
}

// problemType starts the types, which are stable: programs may compare them.
const problemType = "urn:matview:error:"

func newProblem(status int, kind, title, detail string) *problem {
	return &problem{Type: problemType + kind, Title: title, Status: status, Detail: detail}
}

func (p *problem) Error() string { return p.Title }

func (p *problem) Unwrap() error { return p.cause }

func (p *problem) because(err error) *problem {
	p.cause = err
	return p
}

func (p *problem) causeInOneLine() string { return postgres.Message(p.cause) }

func (p *problem) retry(after time.Duration) *problem {
	p.retryAfter = after
	return p
}

func (p *problem) headers(w http.ResponseWriter) {
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(p.retryAfter/time.Second)))
	}
}

func (p *problem) write(w http.ResponseWriter) {
	p.headers(w)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(p) // the client has gone
}

var (
	errClosed = newProblem(http.StatusForbidden, "closed", "This is closed",
		"No credentials are configured. Set auth.bearer_tokens_file, a web configuration with users, or public: true.")
	errNoPassword = newProblem(http.StatusUnauthorized, "unauthorized", "A token is needed", "Sign in with any user name, and a bearer token as the password.")
	errNoToken    = newProblem(http.StatusUnauthorized, "unauthorized", "A bearer token is needed", "Send Authorization: Bearer TOKEN.")
	errWrongToken = newProblem(http.StatusUnauthorized, "unauthorized", "The bearer token is not valid", "")
)

func unknownRoute() *problem {
	return newProblem(http.StatusNotFound, "unknown-route", "There is no such route", "")
}

func uriTooLong() *problem {
	return newProblem(http.StatusRequestURITooLong, "uri-too-long", "The URL is too long", "At most "+strconv.Itoa(maxURI)+" bytes are read.")
}

func bodyNotRead() *problem {
	return newProblem(http.StatusRequestEntityTooLarge, "body-not-read", "A request here has no body", "")
}

func methodNotAllowed(method string) *problem {
	return newProblem(http.StatusMethodNotAllowed, "method-not-allowed", "Only GET and HEAD are answered here", "The method was "+strconv.Quote(method)+".")
}

func noSuchRow() *problem {
	return newProblem(http.StatusNotFound, "no-such-row", "There is no such row", "")
}

func noSuchView() *problem {
	return newProblem(http.StatusNotFound, "no-such-view", "There is no such materialized view", "")
}

func invalidKey(column, kind string) *problem {
	return newProblem(http.StatusBadRequest, "invalid-key", "The key is not of the column's type", column+" must be of type "+kind+".").because(errOutdated)
}

func invalidParameter(detail string) *problem {
	return newProblem(http.StatusBadRequest, "invalid-parameter", "A query parameter is not valid", detail)
}

func viewMissing(view string) *problem {
	return newProblem(http.StatusServiceUnavailable, "view-missing", "The materialized view does not exist",
		"The route is configured, but there is no view "+view+" at the moment.").retry(30 * time.Second)
}

func notPopulated(view string) *problem {
	return newProblem(http.StatusServiceUnavailable, "not-populated", "The materialized view holds no data",
		"The view "+view+" was created or last refreshed WITH NO DATA: it answers again after a refresh.").retry(10 * time.Second)
}

// misconfigured is for what the route or the login has to be given first. It says what
// that is, unless the server's own message does.
func misconfigured(err error) *problem {
	p := newProblem(http.StatusServiceUnavailable, "misconfigured", "The route cannot be served as it is configured",
		"The exporter's log says why.").because(err).retry(30 * time.Second)
	var wrong *config.Error
	if errors.As(err, &wrong) && postgres.SQLState(err) == "" {
		p.Detail = sentence(wrong.Err.Error())
	}
	p.key = err.Error()
	return p
}

// sentence makes one of the text of an error.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:] + "."
}

func realTimeNotOffered() *problem {
	return newProblem(http.StatusNotImplemented, "real-time-not-offered", "Real-time answers are not configured", "Leave out real_time=true for the cached row.")
}

func notFreshEnough() *problem {
	return newProblem(http.StatusServiceUnavailable, "not-fresh-enough", "The cached row is older than max_age, or of unknown age",
		"Real-time answers are not configured. Leave out max_age for the cached row.").retry(10 * time.Second)
}

// neverRefreshed is not fresh enough either. Without max_age such a row is
// served, with null for what is not known.
func neverRefreshed() *problem {
	return newProblem(http.StatusServiceUnavailable, "never-refreshed", "No refresh of the materialized view is on record",
		"So the age of the row is unknown, and real-time answers are not configured. Leave out max_age for the cached row.").retry(10 * time.Second)
}

func tooManyLive() *problem {
	return newProblem(http.StatusServiceUnavailable, "too-many-live-queries", "Too many real-time queries are running",
		"Try again in a moment, or leave out real_time=true and max_age for the cached row.").retry(time.Second)
}

func liveQueryFailed(err error) *problem {
	return newProblem(http.StatusInternalServerError, "live-query-failed", "The view's query failed", "The exporter's log says why.").because(err)
}

func ambiguousRow() *problem {
	return newProblem(http.StatusInternalServerError, "ambiguous-row", "There is more than one such row", "The key is not unique in the result of the view's query.").
		because(errors.New("more than one row for a key"))
}

func unavailable(err error) *problem {
	return newProblem(http.StatusServiceUnavailable, "database-unavailable", "The database does not answer", "").retry(5 * time.Second).because(err)
}

func timedOut(err error) *problem {
	return newProblem(http.StatusGatewayTimeout, "timeout", "The database took too long", "").because(err)
}

func notInstalled(err error) *problem {
	return newProblem(http.StatusServiceUnavailable, "not-installed", "The tables of matview are not installed",
		"Run matview-exporter migrate, or apply a matview_refresh_log.").retry(30 * time.Second).because(err)
}

// fromDatabase says what an error of the database means to a client.
func fromDatabase(err error) *problem {
	if errors.Is(err, context.DeadlineExceeded) {
		return timedOut(err)
	}
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return unavailable(err) // the connection broke
	}
	switch server.Code {
	case pgerrcode.QueryCanceled:
		return timedOut(err)
	case pgerrcode.LockNotAvailable:
		return newProblem(http.StatusServiceUnavailable, "view-busy", "The view is locked",
			"Somebody is refreshing or changing it.").retry(5 * time.Second).because(err)
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedColumn, pgerrcode.UndefinedFunction, pgerrcode.InvalidSchemaName:
		return notInstalled(err) // what else is missing is looked for before
	case pgerrcode.InsufficientPrivilege:
		return misconfigured(err)
	}
	switch server.Code[:2] {
	// Lost or refused connections, a server that starts or stops, too many
	// connections, conflicts with the recovery of a standby.
	case "08", "28", "3D", "40", "53", "57":
		return unavailable(err)
	}
	return newProblem(http.StatusInternalServerError, "internal", "Something went wrong", "The exporter's log says what.").because(err)
}

// saidBefore keeps a database that is away from filling the log.
type saidBefore struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const sayAgainAfter = 10 * time.Second

func (s *saidBefore) first(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if said, found := s.last[what]; found && now.Sub(said) < sayAgainAfter {
		return false
	}
	if s.last == nil || len(s.last) > 100 {
		s.last = map[string]time.Time{}
	}
	s.last[what] = now
	return true
}
