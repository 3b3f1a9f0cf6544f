package api

import (
	"maps"
	"slices"
)

// LiveSQL is the live query of the n-th route, once one has run.
func LiveSQL(h *Handler, n int) string { return h.routes[n].live.Load().sql }

// ParseAge and Matches are what reads the text of clients.
var (
	ParseAge = parseAge
	Matches  = matches
	InWords  = inWords
)

// Waiting is how many requests for rows of the n-th route wait to be read.
func Waiting(h *Handler, n int) int {
	q := &h.routes[n].relation.Load().queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// Takes reports whether a value is certain to be of a type.
func Takes(typ, value string) bool {
	return (&relation{keys: []key{{typ: typ}}}).takes([]string{value})
}

// CertainTypes are those of which Takes knows.
func CertainTypes() []string { return slices.Sorted(maps.Keys(certain)) }
