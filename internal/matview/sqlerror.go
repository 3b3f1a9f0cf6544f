package matview

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLError is what the server says against SQL that a user wrote. Its place is
// within the user's text, not within the statement that carried it.
type SQLError struct {
	SQLState string
	Message  string
	Detail   string
	Hint     string

	// Position counts characters from 1; 0 where the server names no place.
	Position int
	// Line and Column count from 1; 0 where the server names no place.
	Line   int
	Column int

	text string
	err  error
}

func (e *SQLError) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("%s (line %d, column %d)", e.Message, e.Line, e.Column)
}

// Unwrap is the server's error, with its position as the server counted it.
func (e *SQLError) Unwrap() error { return e.err }

// Missing says that the SQL names something that does not exist, and that may
// exist by the time it is run.
func (e *SQLError) Missing() bool {
	var pgErr *pgconn.PgError
	if errors.As(e.err, &pgErr) {
		switch pgErr.Routine {
		case "errorMissingRTE", "transformWindowFuncCall", "transformWindowDefinitions":
			return false // an alias or a window, which only the query itself can name
		}
	}
	switch e.SQLState {
	case pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName, pgerrcode.UndefinedFunction, pgerrcode.UndefinedObject:
		return true
	}
	return false
}

// Explain is the error for a person, in several lines: message, detail, hint,
// and the place, with the line of the user's text and a caret under it.
func (e *SQLError) Explain() string {
	var b strings.Builder
	b.WriteString(e.Message)
	if e.SQLState != "" {
		fmt.Fprintf(&b, " (SQLSTATE %s)", e.SQLState)
	}
	if e.Detail != "" {
		b.WriteString("\n" + e.Detail)
	}
	if e.Hint != "" {
		b.WriteString("\nHint: " + e.Hint)
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "\n\nAt line %d, column %d:\n%s", e.Line, e.Column, e.excerpt())
	}
	return b.String()
}

// maxExcerpt keeps a query written in one long line readable.
const maxExcerpt = 100

func (e *SQLError) excerpt() string {
	lines := strings.Split(e.text, "\n")
	line := []rune(strings.TrimSuffix(lines[e.Line-1], "\r"))
	column := min(e.Column-1, len(line))
	from := 0
	if column > maxExcerpt-20 {
		from = column - maxExcerpt/2
	}
	to := min(len(line), from+maxExcerpt)
	indent := make([]rune, 0, maxExcerpt)
	for _, r := range line[from:column] {
		if r != '\t' {
			r = ' '
		}
		indent = append(indent, r)
	}
	return fmt.Sprintf("  %s\n  %s^", string(line[from:to]), string(indent))
}

// sqlError turns a server's error about a statement that is prefix followed by
// text into one about text. Other errors it returns as they are.
func sqlError(err error, prefix, text string) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	e := &SQLError{SQLState: pgErr.Code, Message: pgErr.Message, Detail: pgErr.Detail, Hint: pgErr.Hint, text: text, err: err}
	position := int(pgErr.Position) - utf8.RuneCountInString(prefix)
	// Past the end is an error at the end of the input.
	if pgErr.Position > 0 && position > 0 {
		e.Position = min(position, utf8.RuneCountInString(text)+1)
		e.Line, e.Column = place(text, e.Position)
	}
	return e
}

// place is the line and the column of the character at position.
func place(text string, position int) (line, column int) {
	line, column = 1, 1
	for _, r := range text {
		position--
		if position < 1 {
			break
		}
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	return line, column
}
