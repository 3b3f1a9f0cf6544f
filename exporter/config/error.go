package config

import (
	"fmt"
	"strings"
)

// Error is one thing that is wrong with the configuration, and where.
type Error struct {
	File string
	Line int    // 0 where no line is to blame, as for an environment variable
	Key  string // as in "routes[0].path"; "" for a line that is no YAML
	Err  error
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ":")
		if e.Line > 0 {
			fmt.Fprintf(&b, "%d:", e.Line)
		}
		b.WriteString(" ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	return b.String() + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }
