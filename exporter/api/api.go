// Package api answers over HTTP: rows of materialized views with how fresh they
// are, the freshness of every view, and the probes. It only reads.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/matview/terraform-provider-matview/exporter/config"
)

// DefaultTimeout is how long a request may wait for the database.
const DefaultTimeout = 10 * time.Second

// Options are what a [Handler] needs.
type Options struct {
	Pool *pgxpool.Pool
	// RealTimePool logs in with the rights of real-time queries and nobody
	// else's; nil if they are not offered.
	RealTimePool *pgxpool.Pool
	Schema       string // of the tables of matview
	Config       *config.Config
	Logger       *slog.Logger
	// Authenticated reports whether a request that reaches the handler has proved
	// already who it is from, by the web configuration as it is at the moment; nil:
	// none has.
	Authenticated func(*http.Request) bool
	// Explain says why a view runs next when it does, "" if there is nothing to say;
	// nil: the page does not say it.
	Explain func(ctx context.Context, view string) (string, error)
	// Timeout bounds what a request waits for the database; 0 is
	// [DefaultTimeout]. Real-time queries have a limit of their own.
	Timeout time.Duration
}

// Handler serves the status page, /cache/status, the row routes and the probes.
// Everything else is answered as an unknown route.
type Handler struct {
	Options
	mux    *http.ServeMux
	routes []*route
	live   chan struct{} // a token for each real-time query under way
	said   saidBefore

	readiness singleflight.Group
	statuses  *semaphore.Weighted // of those who read the freshness of views
}

// New makes a handler. It does not connect.
func New(o Options) (*Handler, error) {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	h := &Handler{Options: o, mux: http.NewServeMux(), live: make(chan struct{}, max(o.Config.RealTime.MaxConcurrent, 1))}
	// However slow the read model is, half of the connections are left for rows.
	half := int64(max(o.Pool.Config().MaxConns/2, 1))
	h.statuses = semaphore.NewWeighted(half)
	if err := o.checkLogins(); err != nil {
		return nil, err
	}
	h.mux.HandleFunc("/-/healthy", h.get(h.healthy))
	h.mux.HandleFunc("/-/ready", h.get(h.ready))
	h.mux.HandleFunc("/cache/status", h.closed(o.Config.Public, h.get(h.cacheStatus)))
	h.mux.HandleFunc("/cache/status/{view}", h.closed(o.Config.Public, h.get(h.cacheStatusOf)))
	h.mux.HandleFunc("/{$}", h.closed(o.Config.Public, h.get(h.page("./", h.viewsPage))))
	h.mux.HandleFunc("/cache/views/{view}", h.closed(o.Config.Public, h.get(h.page("../../", h.viewPage))))
	h.mux.HandleFunc("/-/icon.svg", h.get(h.icon))
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { h.fail(w, r, unknownRoute()) })
	for _, c := range o.Config.Routes {
		r := &route{Route: c, readers: semaphore.NewWeighted(half)}
		h.routes = append(h.routes, r)
		h.mux.HandleFunc(c.Pattern(), h.closed(c.Public, h.get(func(w http.ResponseWriter, req *http.Request) error {
			return h.row(w, req, r)
		})))
	}
	return h, nil
}

// checkLogins refuses to run other people's SQL with the exporter's own rights.
func (o Options) checkLogins() error {
	if o.RealTimePool == nil {
		return nil
	}
	own, live := o.Pool.Config().ConnConfig, o.RealTimePool.Config().ConnConfig
	if own.User == live.User {
		return o.Config.RealTime.Errorf("url", "logs in as %q, like the exporter itself; real-time queries need a login of their own, with SELECT on what the views read and no other right", live.User)
	}
	return nil
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if err := tooLarge(r); err != nil {
		w.Header().Set("Connection", "close")
		h.fail(w, r, err)
		return
	}
	// The mux would redirect these, with a page of HTML.
	if p := r.URL.EscapedPath(); p != "*" && p != path.Clean(p) {
		h.fail(w, r, unknownRoute())
		return
	}
	h.mux.ServeHTTP(w, r)
}

// maxURI is longer than a key of any use; longer lines of other headers are cut
// off by the server.
const maxURI = 8 << 10

// tooLarge refuses what is not going to be read anyway, before any of it is.
func tooLarge(r *http.Request) error {
	switch {
	case len(r.RequestURI) > maxURI:
		return uriTooLong()
	case r.ContentLength != 0:
		return bodyNotRead()
	}
	return nil
}

// get serves GET and HEAD, and what goes wrong as a problem.
func (h *Handler) get(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			h.fail(w, r, methodNotAllowed(r.Method))
			return
		}
		if err := serve(w, r); err != nil {
			h.fail(w, r, err)
		}
	}
}

// closed asks for credentials unless the route is public.
func (h *Handler) closed(public bool, serve http.HandlerFunc) http.HandlerFunc {
	if public {
		return serve
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if h.Authenticated != nil && h.Authenticated(r) {
			serve(w, r)
			return
		}
		if err := h.authenticate(r); err != nil {
			if err.Status == http.StatusUnauthorized {
				h.challenge(w, r, err)
			}
			h.fail(w, r, err)
			return
		}
		serve(w, r)
	}
}

// Guard asks for credentials where there are any to ask for.
func (h *Handler) Guard(serve http.HandlerFunc) http.HandlerFunc {
	return h.closed(h.Config.Tokens.Empty(), serve)
}

// authenticate looks for one of the tokens: as a bearer token, or as the
// password of basic authentication, which is what a browser can ask people for.
func (h *Handler) authenticate(r *http.Request) *problem {
	if h.Config.Tokens.Empty() {
		return errClosed
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if _, password, ok := r.BasicAuth(); ok {
		scheme, token = "Bearer", password
	}
	switch {
	case !strings.EqualFold(scheme, "Bearer") && isPage(r.URL.Path):
		return errNoPassword
	case !strings.EqualFold(scheme, "Bearer"):
		return errNoToken
	case !h.Config.Tokens.Accept(strings.TrimSpace(token)):
		return errWrongToken
	}
	return nil
}

func (h *Handler) challenge(w http.ResponseWriter, r *http.Request, err *problem) {
	if isPage(r.URL.Path) {
		w.Header().Set("WWW-Authenticate", `Basic realm="matview", charset="UTF-8"`)
		return
	}
	challenge := `Bearer realm="matview"`
	if err == errWrongToken {
		challenge += `, error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
}

// fail answers with a problem, and logs those that are the server's to mend.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	if !errors.As(err, &p) {
		p = fromDatabase(err)
	}
	h.log(r, p)
	if isPage(r.URL.Path) {
		failPage(w, r, p)
		return
	}
	p.write(w)
}

// pathOf is the path as the configuration has it, which names no key's value.
func (h *Handler) pathOf(r *http.Request) string {
	for _, known := range h.routes {
		if known.Pattern() == r.Pattern {
			return known.Path
		}
	}
	return r.Pattern
}

// log writes what is the server's to mend.
func (h *Handler) log(r *http.Request, p *problem) {
	if r.Context().Err() != nil {
		return // the client has gone, which failed whatever was under way
	}
	if p.Status >= http.StatusInternalServerError && p.cause != nil && h.said.first(p.Type+p.key) {
		h.Logger.Warn("request failed", "path", h.pathOf(r), "status", p.Status, "err", p.causeInOneLine())
	}
}
