package matview

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// SQLError is an error of the server about SQL that a user wrote. Its position is
// within the user's text, not within the statement that contained it.
type SQLError struct {
	SQLState string
	Message  string
	Detail   string
	Hint     string

	// Position counts characters from 1; 0 if the server reports none.
	Position int
	// Line and Column count from 1; 0 if the server reports no position.
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

// Unwrap returns the server's error, with its position within the statement.
func (e *SQLError) Unwrap() error { return e.err }

// Missing reports whether the SQL names an object that does not exist, but may exist
// by the time the SQL is run.
func (e *SQLError) Missing() bool {
	var pgErr *pgconn.PgError
	if errors.As(e.err, &pgErr) {
		switch pgErr.Routine {
		case "errorMissingRTE", "transformWindowFuncCall", "transformWindowDefinitions":
			return false // an alias or a window, which only the query itself can define
		}
	}
	switch e.SQLState {
	case pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName, pgerrcode.UndefinedFunction, pgerrcode.UndefinedObject:
		return true
	}
	return false
}

// Explain returns the error for a person, in several lines: message, detail, hint
// and position, with the line of the user's text and a caret under it.
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

// maxExcerpt limits the characters that are shown of a long line.
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

// sqlError turns the server's error about a statement, which is prefix followed by
// text, into one about text. It returns other errors unchanged.
func sqlError(err error, prefix, text string) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	e := &SQLError{SQLState: pgErr.Code, Message: pgErr.Message, Detail: pgErr.Detail, Hint: postgres.Hint(pgErr), text: text, err: err}
	position := int(pgErr.Position) - utf8.RuneCountInString(prefix)
	// An error at the end of the input has a position past it.
	if pgErr.Position > 0 && position > 0 {
		e.Position = min(position, utf8.RuneCountInString(text)+1)
		e.Line, e.Column = lineAndColumn(text, e.Position)
	}
	return e
}

// lineAndColumn are those of the character at position.
func lineAndColumn(text string, position int) (line, column int) {
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
