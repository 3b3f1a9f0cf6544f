package matview

import (
	"slices"
	"strings"
)

// SameText tells whether two texts of SQL are the same but for layout: white
// space, comments, the case of what is not quoted, and semicolons at the end.
// The server reads the same of both, so there is no need to ask it. False says
// nothing: the two may still mean the same, or be of a kind that only the server
// can take apart, such as a string with a backslash, whose end depends on
// standard_conforming_strings.
func SameText(a, b string) bool {
	if a == b {
		return true
	}
	x, ok := tokens(a)
	if !ok {
		return false
	}
	y, ok := tokens(b)
	return ok && slices.Equal(withoutEnd(x), withoutEnd(y))
}

func withoutEnd(tokens []string) []string {
	for len(tokens) > 0 && tokens[len(tokens)-1] == ";" {
		tokens = tokens[:len(tokens)-1]
	}
	return tokens
}

// tokens cuts SQL into pieces that the server's lexer (scan.l) reads on their
// own, whatever space is between them. They may be longer than its own tokens,
// as is `j.id`: cut in other places, two texts count as different, no more. It is
// not ok where the pieces would depend on more than that.
func tokens(sql string) (all []string, ok bool) {
	for sql != "" {
		c := sql[0]
		n := 1
		switch {
		case strings.IndexByte(" \t\n\r\f", c) >= 0:
			sql = sql[1:]
			continue
		case isComment(sql):
			if sql, ok = skipComment(sql); !ok {
				return nil, false
			}
			continue
		case c == '\'' || c == '"':
			n = quotedSize(sql)
			// Two strings with a new line between them are one.
			if n == 0 || c == '\'' && len(all) > 0 && strings.HasSuffix(all[len(all)-1], "'") {
				return nil, false
			}
			all = append(all, sql[:n])
		case c == '$':
			if n = dollarQuotedSize(sql); n == 0 {
				return nil, false // $1
			}
			all = append(all, sql[:n])
		case isWord(c):
			for n < len(sql) && isWord(sql[n]) {
				n++
			}
			if !isPlainWord(sql[:n], sql[n:]) {
				return nil, false
			}
			all = append(all, lower(sql[:n]))
		case isOperator(c):
			for n < len(sql) && isOperator(sql[n]) && !isComment(sql[n:]) {
				n++
			}
			if sql[n-1] == '&' && n < len(sql) && (sql[n] == '\'' || sql[n] == '"') {
				return nil, false // U&'...'
			}
			all = append(all, sql[:n])
		case strings.IndexByte("()[],;", c) >= 0:
			all = append(all, sql[:1])
		default: // control characters, and what SQL has no use for
			return nil, false
		}
		sql = sql[n:]
	}
	return all, true
}

func isComment(sql string) bool { return strings.HasPrefix(sql, "--") || strings.HasPrefix(sql, "/*") }

// skipComment returns what follows a comment; one in slashes may hold others.
func skipComment(sql string) (rest string, ok bool) {
	if sql[0] == '-' {
		end := strings.IndexAny(sql, "\r\n")
		if end < 0 {
			return "", true
		}
		return sql[end:], true
	}
	depth := 0
	for sql != "" {
		switch {
		case strings.HasPrefix(sql, "/*"):
			depth, sql = depth+1, sql[2:]
		case strings.HasPrefix(sql, "*/"):
			if depth, sql = depth-1, sql[2:]; depth == 0 {
				return sql, true
			}
		default:
			sql = sql[1:]
		}
	}
	return "", false
}

// quotedSize is that of a string or a quoted name with its quotes, 0 where that
// is not certain. A doubled quote within is an end and a beginning.
func quotedSize(sql string) int {
	quote := sql[0]
	for i := 1; i < len(sql); i++ {
		switch {
		case sql[i] == '\\' && quote == '\'':
			return 0
		case sql[i] != quote:
		case i+1 < len(sql) && sql[i+1] == quote:
			i++
		default:
			return i + 1
		}
	}
	return 0
}

func dollarQuotedSize(sql string) int {
	end := strings.IndexByte(sql[1:], '$') + 1
	if end == 0 {
		return 0
	}
	tag := sql[:end+1]
	for i := 1; i < end; i++ {
		if !isLetter(tag[i]) && (i == 1 || !isDigit(tag[i])) {
			return 0
		}
	}
	body := strings.Index(sql[len(tag):], tag)
	if body < 0 {
		return 0
	}
	return len(tag) + body + len(tag)
}

// isPlainWord says that a word, with its dots, is made of names or else is a
// number of digits, and that what follows does not change that: no E'...', and
// neither 1e-5 nor 1.e-5.
func isPlainWord(word, rest string) bool {
	if strings.HasPrefix(rest, "'") {
		return false
	}
	if strings.Trim(word, "0123456789.") == "" {
		return true
	}
	for part := range strings.SplitSeq(word, ".") {
		if part != "" && !isLetter(part[0]) {
			return false
		}
	}
	return true
}

// lower folds what the server folds in any encoding and locale.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func isLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isWord takes a dollar within a name, where it begins no quote; isPlainWord
// refuses it elsewhere.
func isWord(c byte) bool { return isLetter(c) || isDigit(c) || c == '.' || c == '$' }

func isOperator(c byte) bool { return strings.IndexByte("~!@#^&|`?+-*/%<>=:", c) >= 0 }
