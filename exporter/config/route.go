package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// Route is a path that answers with one row of a view.
type Route struct {
	Path   string
	View   string // as the file writes it; any name that materialized_view_names knows
	Public bool   // answers without credentials

	segments []segment
	at       place
}

type segment struct {
	text   string // of a parameter: the column
	column bool
}

// NewRoute is for a route that is in no file.
func NewRoute(path, view string) (Route, error) {
	return newRoute(path, view, place{key: "routes[]"})
}

// Columns are the view's columns that the path's parameters stand for, in the
// order of the path.
func (r Route) Columns() []string {
	var columns []string
	for _, s := range r.segments {
		if s.column {
			columns = append(columns, s.text)
		}
	}
	return columns
}

// Pattern is the path for http.ServeMux, its parameters called k0, k1 and so
// on, since columns may have names that the mux does not take.
func (r Route) Pattern() string {
	var b strings.Builder
	n := 0
	for _, s := range r.segments {
		if s.column {
			fmt.Fprintf(&b, "/{k%d}", n)
			n++
			continue
		}
		b.WriteString("/" + s.text)
	}
	return b.String()
}

// Errorf is an error of one of the route's keys, with its file and line.
func (r Route) Errorf(key, format string, args ...any) error {
	return r.at.errorf(key, format, args...)
}

// plainSegment is what needs no escaping in a URL.
var plainSegment = regexp.MustCompile(`^[A-Za-z0-9._~-]+$`)

func newRoute(path, view string, at place) (Route, error) {
	r := Route{Path: path, View: view, at: at}
	var problems []error
	if view == "" {
		problems = append(problems, r.Errorf("view", "is required"))
	} else if _, err := matview.ParseName(view); err != nil {
		problems = append(problems, r.Errorf("view", "%w", err))
	}
	var err error
	if r.segments, err = parsePath(path); err != nil {
		problems = append(problems, r.Errorf("path", "%w", err))
	}
	return r, errors.Join(problems...)
}

func parsePath(path string) ([]segment, error) {
	if path == "" {
		return nil, errors.New("is required")
	}
	if !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("%q does not start with /", path)
	}
	var segments []segment
	columns := map[string]bool{}
	for text := range splitPath(path[1:]) {
		if strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}") {
			column := text[1 : len(text)-1]
			if column == "" || strings.ContainsAny(column, "{}") {
				return nil, fmt.Errorf("%q is no parameter: write {column}, for example /jobs/{job_id}", text)
			}
			if columns[column] {
				return nil, fmt.Errorf("has {%s} twice", column)
			}
			columns[column] = true
			segments = append(segments, segment{column, true})
			continue
		}
		if text == "." || text == ".." || !plainSegment.MatchString(text) {
			return nil, fmt.Errorf("has the part %q: between slashes stands either {column} or letters, digits and -._~", text)
		}
		segments = append(segments, segment{text, false})
	}
	if err := checkPath(path, segments, len(columns)); err != nil {
		return nil, err
	}
	return segments, nil
}

// splitPath yields the parts between slashes; a slash within braces belongs to
// the column's name.
func splitPath(path string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, depth := 0, 0
		for i, c := range path {
			switch c {
			case '{':
				depth++
			case '}':
				depth--
			case '/':
				if depth > 0 {
					continue
				}
				if !yield(path[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(path[start:])
	}
}

func checkPath(path string, segments []segment, columns int) error {
	first := segments[0]
	switch {
	case first.column:
		return fmt.Errorf("%q starts with a parameter, which would also stand for %s", path, reservedPaths)
	case first.text == "metrics" || first.text == "cache" || first.text == "-":
		return fmt.Errorf("%q is taken: the exporter itself answers at %s", path, reservedPaths)
	case columns == 0:
		return fmt.Errorf("%q has no parameter: a route answers with one row, found by its key, as in /jobs/{job_id}", path)
	}
	return nil
}

const reservedPaths = "/, /metrics, /cache and /-/"

// collisions are the routes that could answer the same URL. Also where one is
// more specific: a row whose key is the other's word could never be read.
func collisions(routes []Route) error {
	var problems []error
	for i, r := range routes {
		for _, earlier := range routes[:i] {
			if r.overlaps(earlier) {
				problems = append(problems, r.Errorf("path", "%q and %q of line %d could be the same URL",
					r.Path, earlier.Path, earlier.line()))
				break
			}
		}
	}
	return errors.Join(problems...)
}

func (r Route) line() int {
	if r.at.document == nil {
		return 0
	}
	return r.at.document.lines[r.at.key+".path"]
}

func (r Route) overlaps(other Route) bool {
	if len(r.segments) == 0 || len(r.segments) != len(other.segments) {
		return false
	}
	for i, s := range r.segments {
		o := other.segments[i]
		if !s.column && !o.column && s.text != o.text {
			return false
		}
	}
	return true
}
