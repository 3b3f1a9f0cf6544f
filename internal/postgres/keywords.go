package postgres

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// libpqKeywords are keywords of libpq that pgx does not know. It would send them to the
// server as settings, which the server rejects. Those with true can be ignored: they
// are about something that is not done here, or is done anyway. Ignoring one of the
// others would connect to another server, or less securely, than requested.
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
var libpqKeywords = map[string]bool{
	"fallback_application_name": true,
	"gssdelegation":             true,
	"gssencmode":                true,
	"gsslib":                    true,
	"keepalives":                true,
	"keepalives_count":          true,
	"keepalives_idle":           true,
	"keepalives_interval":       true,
	"sslcompression":            true,
	"sslkeylogfile":             true,
	"tcp_user_timeout":          true,

	"hostaddr":                 false,
	"load_balance_hosts":       false,
	"requirepeer":              false,
	"ssl_max_protocol_version": false,
	"ssl_min_protocol_version": false,
	"sslcrl":                   false,
	"sslcrldir":                false,
}

// libpqSettings removes libpq's keywords from the settings that are sent to the server.
func libpqSettings(config *pgconn.Config) error {
	if os.Getenv("PGHOSTADDR") != "" {
		return settingsError("PGHOSTADDR is not supported; set PGHOST")
	}
	for keyword, harmless := range libpqKeywords {
		value, given := config.RuntimeParams[keyword]
		if !given {
			continue
		}
		if !harmless || keyword == "gssencmode" && value == "require" {
			return settingsError("%s=%s is not supported", keyword, value)
		}
		delete(config.RuntimeParams, keyword)
	}
	// All texts of this program are UTF-8, whatever the url, the database and the role
	// have: the server converts them, or says which character it cannot.
	config.RuntimeParams["client_encoding"] = "UTF8"
	return nil
}

var errUnexpectedAt = settingsError("unexpected @; in the user name and password of a url, write %%40 for @ and %%2F for /")

// misreadPassword detects a password in a URL with an @ or a / that is not
// percent-encoded. Part of it would be read as the host or the database, and appear in
// messages.
func misreadPassword(dsn string, config *pgconn.Config) error {
	var path string
	if _, rest, isURL := strings.Cut(dsn, "://"); isURL && !strings.ContainsRune(dsn[:len(dsn)-len(rest)], '=') {
		rest, _, _ = strings.Cut(rest, "?")
		_, path, _ = strings.Cut(rest, "/")
	}
	hosts := []string{config.Host}
	for _, f := range config.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	if strings.Contains(path, "@") || slices.ContainsFunc(hosts, func(h string) bool { return strings.Contains(h, "@") && !strings.HasPrefix(h, "/") }) {
		return errUnexpectedAt
	}
	return nil
}

func settingsError(format string, args ...any) error {
	return fmt.Errorf("connection settings of PostgreSQL: "+format, args...)
}

// unreadable is an error of pgx about the settings, without what it quotes of them: pgx
// hides a password only where it recognizes one, and any part of a malformed URL may be
// the password.
type unreadable struct{ error }

func (e *unreadable) Unwrap() error { return e.error }

func (e *unreadable) Error() string {
	text := e.error.Error()
	if _, reason, found := strings.Cut(text, "`: "); found {
		text = reason
	}
	switch {
	case strings.HasPrefix(text, "failed to parse as URL"):
		text = "the url cannot be parsed; separate its parameters, name=value, by &, and write each character of a user name, password or value that is neither a letter nor a digit as % and two hexadecimal digits"
	case strings.HasPrefix(text, "failed to parse as keyword/value"):
		text = "the url is not a list of keyword=value; enclose a value with spaces in single quotes, and write \\ before each ' and \\ in it"
	case strings.Contains(text, "sslmode is invalid"):
		text = "sslmode must be disable, allow, prefer, require, verify-ca or verify-full"
	case strings.Contains(text, "failed to parse private key"):
		text += "; if the key is encrypted, decrypt it (openssl pkey -in KEY -out DECRYPTED)"
	case strings.Contains(text, "unable to find sslpassword"):
		text += "; the key is encrypted: decrypt it (openssl pkey -in KEY -out DECRYPTED), or set sslpassword in the url"
	}
	return "connection settings of PostgreSQL: " + text
}
