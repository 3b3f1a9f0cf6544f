package config

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Tokens are the bearer tokens that open the closed routes. Only their digests
// are kept.
type Tokens struct {
	digests [][sha256.Size]byte
}

// bearerToken is the syntax of RFC 6750, section 2.1: nothing else can be sent.
var bearerToken = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// NewTokens is for tokens that are in no file.
func NewTokens(tokens ...string) Tokens {
	var t Tokens
	for _, token := range tokens {
		t.digests = append(t.digests, sha256.Sum256([]byte(token)))
	}
	return t
}

// Empty reports whether there is no token at all.
func (t Tokens) Empty() bool { return len(t.digests) == 0 }

// Accept reports whether token is one of them. How long it takes depends only
// on how many there are and on the length of the one offered.
func (t Tokens) Accept(token string) bool {
	offered := sha256.Sum256([]byte(token))
	accepted := 0
	for _, digest := range t.digests {
		accepted |= subtle.ConstantTimeCompare(offered[:], digest[:])
	}
	return accepted == 1
}

// readTokens reads one token a line; empty lines and lines that start with # do
// not count. Its errors name the line and never a token.
func readTokens(file string) (Tokens, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return Tokens{}, fmt.Errorf("read the bearer tokens: %w", err)
	}
	var found []string
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		token := strings.TrimSpace(lines.Text())
		if token == "" || strings.HasPrefix(token, "#") {
			continue
		}
		if !bearerToken.MatchString(token) {
			return Tokens{}, fmt.Errorf("%s:%d: not a bearer token: letters, digits and -._~+/ only", file, n)
		}
		found = append(found, token)
	}
	if err := lines.Err(); err != nil {
		return Tokens{}, fmt.Errorf("read the bearer tokens in %s: %w", file, err)
	}
	if len(found) == 0 {
		return Tokens{}, fmt.Errorf("%s holds no token", file)
	}
	return NewTokens(found...), nil
}
