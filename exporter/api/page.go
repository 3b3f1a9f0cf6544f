package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/version"
)

// The status page is plain HTML: it runs no script, loads nothing from
// elsewhere, and updates itself by being loaded again.

var (
	//go:embed page/page.html
	pageHTML string
	//go:embed page/page.css
	pageCSS string
	//go:embed page/icon.svg
	pageIcon []byte

	pages = template.Must(template.New("").Parse(pageHTML))

	contentSecurity = "default-src 'none'; style-src 'sha256-" + sha256Base64(pageCSS) +
		"'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

func sha256Base64(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// page is what the template shows.
type page struct {
	Title, Heading string
	Root           string // the way back to /, whatever a proxy puts before it
	Query          string // of links to other pages
	Every          int    // seconds; 0: no updates
	Now, NowText   string
	CSS            template.CSS
	Version        string

	Warnings []string
	Counts   []count
	Views    []viewModel
	Detail   *viewModel
	Problem  *problem
	Hint     string // what to do
}

type count struct {
	N           int
	Text, Class string
}

const (
	defaultEvery    = 10 // seconds
	longestEvery    = 3600
	plottedOfEach   = 30
	plotWidth       = 150
	plottedAttempts = 50
	tabledAttempts  = 20
)

// page serves what fill has put into a page.
func (h *Handler) page(root string, fill func(*http.Request, *page) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		p := newPage(r, root)
		if err := fill(r, p); err != nil {
			return err
		}
		writePage(w, http.StatusOK, p)
		return nil
	}
}

// failPage shows what went wrong. It goes on updating itself.
func failPage(w http.ResponseWriter, r *http.Request, err *problem) {
	root := "./"
	if r.URL.Path != "/" {
		root = "../../"
	}
	p := newPage(r, root)
	p.Problem = err
	if err.Status == http.StatusUnauthorized {
		p.Every = 0 // or the browser would ask for a password all the time
	}
	if err.Status >= http.StatusInternalServerError && err.Detail == "" {
		p.Hint = "The exporter's log says why."
		if p.Every > 0 {
			p.Hint += " This page asks again by itself."
		}
	}
	err.headers(w)
	writePage(w, err.Status, p)
}

func newPage(r *http.Request, root string) *page {
	now := time.Now().UTC()
	p := &page{
		Title: "Materialized views", Heading: "Materialized views", Root: root, Every: defaultEvery,
		Now: Timestamp(now).String(), NowText: now.Format("2006-01-02 15:04:05") + " UTC",
		CSS: template.CSS(pageCSS), Version: version.Version, //nolint:gosec // our own file
	}
	switch every := r.URL.Query().Get("refresh"); every {
	case "":
	case "off":
		p.Every, p.Query = 0, "?refresh=off"
	default:
		if n, err := strconv.Atoi(every); err == nil && n >= 1 && n <= longestEvery {
			p.Every, p.Query = n, "?refresh="+strconv.Itoa(n)
		}
	}
	return p
}

func writePage(w http.ResponseWriter, status int, p *page) {
	var body bytes.Buffer
	if err := pages.ExecuteTemplate(&body, "page", p); err != nil {
		http.Error(w, "the page cannot be rendered", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	header.Set("Content-Security-Policy", contentSecurity)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the client has gone
}

func (h *Handler) icon(w http.ResponseWriter, _ *http.Request) error {
	header := w.Header()
	header.Set("Content-Type", "image/svg+xml")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	header.Set("Cache-Control", "max-age=86400")
	header.Set("Content-Length", strconv.Itoa(len(pageIcon)))
	_, _ = w.Write(pageIcon) // the client has gone
	return nil
}

// viewsPage is every view, those that want looking at first.
func (h *Handler) viewsPage(r *http.Request, p *page) error {
	views, err := h.views(r.Context(), plottedOfEach)
	if err != nil {
		return err
	}
	p.Warnings = h.unserved(r.Context())
	now := time.Now()
	counts := map[string]int{}
	for _, v := range views {
		model := newViewModel(v, now)
		counts[model.Class]++
		if model.Failed != "" {
			counts["failing"]++
		}
		p.Views = append(p.Views, model)
	}
	slices.SortStableFunc(p.Views, func(a, b viewModel) int { return a.rank() - b.rank() })
	for _, c := range []count{{counts["stale"], "stale", "stale"}, {counts["failing"], "failing", "stale"}, {counts["fresh"], "fresh", "fresh"}, {counts["other"], "not watched", "other"}} {
		if c.N > 0 {
			p.Counts = append(p.Counts, c)
		}
	}
	if len(views) > 0 && counts["other"] == len(views) {
		p.Hint = "Nothing refreshes these views or says how fresh they are. Give a view a schedule: a matview_refresh_schedule in Terraform, or a row in materialized_view_refresh_schedule."
	}
	if n := counts["stale"]; n > 0 {
		p.Title = "(" + strconv.Itoa(n) + " stale) " + p.Title
	}
	return nil
}

// viewPage is one view with its attempts.
func (h *Handler) viewPage(r *http.Request, p *page) error {
	name := r.PathValue("view")
	p.Title, p.Heading = name+" – materialized view", name
	view, err := h.view(r.Context(), name, plottedAttempts)
	if err != nil {
		return err
	}
	model := newViewDetail(*view, time.Now())
	if err := h.addExplanation(r.Context(), &model); err != nil {
		return err
	}
	p.Heading, p.Detail = model.Name, &model
	p.Title = model.State + ": " + model.Name + " – materialized view"
	return nil
}

// addExplanation adds why the view runs next when it does.
func (h *Handler) addExplanation(ctx context.Context, model *viewModel) error {
	if h.Explain == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	reason, err := h.Explain(ctx, model.Name)
	if err == nil && reason != "" {
		model.Facts = append(model.Facts, fact{Name: "Why it runs then", Text: reason})
	}
	return err
}

// isPage reports whether a path is one that people open in a browser.
func isPage(path string) bool { return path == "/" || strings.HasPrefix(path, "/cache/views/") }

func pathOf(view string) string { return url.PathEscape(view) }
