package postgres

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// libpqKeywords are those of libpq that pgx does not know, and would send to the
// server as settings, which it refuses. The true ones change nothing here: what they
// are about is not done, or done in any case. To ignore one of the others would be
// to connect elsewhere, or less safely, than was asked.
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

// libpqSettings takes libpq's keywords out of the settings that are sent to the
// server.
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
	// pgx speaks UTF8 only; auto is the terminal's, which is not asked here.
	if config.RuntimeParams["client_encoding"] == "auto" {
		delete(config.RuntimeParams, "client_encoding")
	}
	return nil
}

// misreadPassword finds what comes of a password in a URL with an @ or a / that is
// not percent-encoded: part of it would be taken for the host or for the database,
// which messages name.
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
		return settingsError("an @ is where none can be; in the user name and password of a url write %%40 for it, and %%2F for a /")
	}
	return nil
}

func settingsError(format string, args ...any) error {
	return fmt.Errorf("connection settings of PostgreSQL: "+format, args...)
}

// unreadable is an error of pgx about the settings, without what it quotes of
// them: it hides a password where it recognises one, and a malformed URL may be all
// password.
type unreadable struct{ error }

func (e *unreadable) Unwrap() error { return e.error }

func (e *unreadable) Error() string {
	text := e.error.Error()
	if _, reason, found := strings.Cut(text, "`: "); found {
		text = reason
	}
	switch {
	case strings.HasPrefix(text, "failed to parse as URL"):
		text = "the url cannot be read; its parameters are name=value with & between, and what is no letter or digit in a user name, password or value is written as % and two hexadecimal digits"
	case strings.HasPrefix(text, "failed to parse as keyword/value"):
		text = "the url is no list of keyword=value; put a value with spaces between single quotes, with \\ before each ' and \\ in it"
	case strings.Contains(text, "failed to parse private key"):
		text += "; if the key is encrypted, decrypt it (openssl pkey -in KEY -out DECRYPTED)"
	case strings.Contains(text, "unable to find sslpassword"):
		text += "; the key is encrypted: decrypt it (openssl pkey -in KEY -out DECRYPTED), or set sslpassword in the url"
	}
	return "connection settings of PostgreSQL: " + text
}
