package matview

import (
	"regexp"
	"slices"
	"strings"
)

// SameText reports whether two texts of SQL differ at most in layout: white space,
// comments, the case of what is not quoted, and semicolons at the end. The server
// then reads both as the same, so that a plan need not ask it, which would fire DDL
// triggers. If SameText is false, the texts may still mean the same: they may contain
// something that only the server can read, such as a string with a backslash, whose
// end depends on standard_conforming_strings.
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

// What a text can begin with, as the server's lexer (scan.l) reads it. A letter is any
// character that is not ASCII, too.
var (
	layout      = regexp.MustCompile(`^(?:[ \t\n\r\f]|--[^\n\r]*)+`)
	quoted      = regexp.MustCompile(`^(?:'(?:[^'\\]|'')*'|"(?:[^"]|"")*")`)
	dollarTag   = regexp.MustCompile(`^\$(?:[A-Za-z_[:^ascii:]][\w[:^ascii:]]*)?\$`)
	word        = regexp.MustCompile(`^[\w.$[:^ascii:]]+`)
	plainWord   = regexp.MustCompile(`^(?:[0-9.]+|(?:\.|[A-Za-z_[:^ascii:]][\w$[:^ascii:]]*)+)$`) // digits, or names with their dots
	operator    = regexp.MustCompile("^[-~!@#^&|`?+*/%<>=:]+")
	punctuation = regexp.MustCompile(`^[][(),;]`)
	upperCase   = regexp.MustCompile(`[A-Z]+`)
)

// tokens splits SQL into pieces that the lexer reads the same whatever layout is
// between them. A piece may consist of several of its tokens, such as `j.id`. It is
// not ok if the pieces depend on anything else.
func tokens(sql string) (all []string, ok bool) {
	for sql != "" {
		if strings.HasPrefix(sql, "/*") {
			if sql, ok = skipComment(sql); !ok {
				return nil, false
			}
			continue
		}
		if space := layout.FindString(sql); space != "" {
			sql = sql[len(space):]
			continue
		}
		token := firstToken(sql)
		// Two strings with a line break between them are one.
		if token == "" || token[0] == '\'' && len(all) > 0 && strings.HasSuffix(all[len(all)-1], "'") {
			return nil, false
		}
		sql = sql[len(token):]
		if word.MatchString(token) && token[0] != '$' {
			token = upperCase.ReplaceAllStringFunc(token, strings.ToLower) // in any locale
		}
		all = append(all, token)
	}
	return all, true
}

// firstToken is "" if it cannot tell the first token of sql.
func firstToken(sql string) string {
	if token := quoted.FindString(sql); token != "" {
		return token
	}
	if tag := dollarTag.FindString(sql); tag != "" {
		body := strings.Index(sql[len(tag):], tag)
		if body < 0 {
			return ""
		}
		return sql[:len(tag)+body+len(tag)]
	}
	if token := word.FindString(sql); token != "" {
		// E'…' is a string, and 1e-5 and 1.e-5 are numbers.
		if !plainWord.MatchString(token) || strings.HasPrefix(sql[len(token):], "'") {
			return ""
		}
		return token
	}
	if token := operator.FindString(sql); token != "" {
		for _, comment := range []string{"--", "/*"} {
			token, _, _ = strings.Cut(token, comment)
		}
		if rest := sql[len(token):]; strings.HasSuffix(token, "&") && strings.IndexAny(rest, `'"`) == 0 {
			return "" // U&'…'
		}
		return token
	}
	return punctuation.FindString(sql)
}

// skipComment returns what follows a comment, which may contain other comments.
func skipComment(sql string) (rest string, ok bool) {
	for depth := 0; sql != ""; {
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
