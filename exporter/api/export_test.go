package api

// LiveSQL is the live query of the n-th route, once one has run.
func LiveSQL(h *Handler, n int) string { return h.routes[n].live.Load().sql }

// ParseAge and Matches are what reads the text of clients.
var (
	ParseAge = parseAge
	Matches  = matches
	InWords  = inWords
)
