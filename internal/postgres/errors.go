package postgres

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that callers tell apart.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	UndefinedTable        = "42P01"
	UndefinedFunction     = "42883"
	UndefinedColumn       = "42703"
	UndefinedObject       = "42704"
	InvalidSchemaName     = "3F000"
	DuplicateTable        = "42P07"
	DuplicateObject       = "42710"
	InsufficientRight     = "42501"
	InvalidParameterValue = "22023"
	DependentObjects      = "2BP01"
	UniqueViolation       = "23505"
	LockNotAvailable      = "55P03"
	QueryCanceled         = "57014"
	FeatureNotSupported   = "0A000"
	ReadOnlyTransaction   = "25006"
	InvalidPassword       = "28P01"
	InvalidAuth           = "28000"
	UndefinedDatabase     = "3D000"
	CannotConnectNow      = "57P03"
	TooManyConnections    = "53300"
	DeadlockDetected      = "40P01"
	InternalError         = "XX000"
	SerializationFailure  = "40001"
)

// SQLState is the SQLSTATE of err, or "" if it does not come from the server.
func SQLState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// Message is err in one line for a person: for a server's error its message,
// detail and hint without pgx's prefix, for a failed connection the host, the
// user and the cause. It never holds a password.
func Message(err error) string {
	var connectErr *pgconn.ConnectError
	if errors.As(err, &connectErr) {
		return connectMessage(connectErr)
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		// Keep what our own code wrapped around the server's error, but not pgx.
		text := strings.Replace(err.Error(), pgErr.Error(), serverMessage(pgErr), 1)
		return oneLine(strings.ReplaceAll(text, "error preprocessing batch (prepare): ", ""))
	}
	text := oneLine(err.Error())
	if errors.Is(err, pgconn.ErrConnClosed) {
		text = strings.Replace(text, pgconn.ErrConnClosed.Error(), "the connection to the server was lost", 1)
	}
	return text
}

func serverMessage(e *pgconn.PgError) string {
	message := e.Message
	if e.Detail != "" {
		message += " (" + strings.TrimSuffix(e.Detail, ".") + ")"
	}
	if e.Hint != "" {
		message += "; hint: " + strings.TrimSuffix(e.Hint, ".")
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", message, e.Code)
}

func connectMessage(e *pgconn.ConnectError) string {
	return fmt.Sprintf("cannot connect to PostgreSQL at %s, database %q, as user %q: %s",
		endpoints(e.Config), e.Config.Database, e.Config.User, connectCause(e))
}

// endpoints lists where it was tried, each once: the same server may be tried
// with TLS and without.
func endpoints(c *pgconn.Config) string {
	all := []string{endpoint(c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if e := endpoint(f.Host, f.Port); !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return strings.Join(all, " or ")
}

func endpoint(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return fmt.Sprintf("%s/.s.PGSQL.%d", host, port)
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}

// connectCause names the cause without the addresses that Go's network errors
// repeat, and says what to do where that is known.
func connectCause(e *pgconn.ConnectError) string {
	var pgErr *pgconn.PgError
	var dns *net.DNSError
	var op *net.OpError
	var otherName x509.HostnameError
	var unknownAuthority x509.UnknownAuthorityError
	switch {
	case errors.As(e, &pgErr):
		switch pgErr.Code {
		case InvalidPassword, InvalidAuth:
			return pgErr.Message + "; " + authRemedy(pgErr)
		case CannotConnectNow:
			return pgErr.Message + "; try again when it is up"
		}
		return serverMessage(pgErr)
	case errors.Is(e, context.DeadlineExceeded):
		return "no answer in time; check the host, the port and the network between"
	case errors.As(e, &dns):
		return "the host name does not resolve"
	case errors.As(e, &unknownAuthority):
		return "the server's certificate is signed by an authority that is not trusted; set sslrootcert"
	case errors.As(e, &otherName):
		return fmt.Sprintf("the server's certificate is not for %s but for %s; connect by that name, or set sslmode to verify-ca",
			otherName.Host, namesOf(otherName.Certificate))
	case errors.As(e, &op):
		return op.Err.Error() + "; is the server running there?"
	case strings.Contains(e.Error(), "server refused TLS connection"):
		return "the server offers no TLS; set sslmode to disable if that is intended"
	}
	causes := strings.Split(oneLine(e.Unwrap().Error()), "): ")
	return causes[len(causes)-1]
}

// authRemedy goes by the English message, as no other field tells these apart.
func authRemedy(e *pgconn.PgError) string {
	refused := strings.HasPrefix(e.Message, "no pg_hba.conf entry")
	plain := strings.HasSuffix(e.Message, "no encryption") || strings.HasSuffix(e.Message, "SSL off") // before 14
	switch {
	case refused && plain:
		return "the server may want TLS: set sslmode to require or better, or check its pg_hba.conf"
	case refused:
		return "check host, username, database and the server's pg_hba.conf"
	case strings.Contains(e.Message, "client certificate"):
		return "set clientcert, or sslcert and sslkey in a URL, to a certificate of this user"
	}
	return "check username and password"
}

func namesOf(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}

// oneLine joins lines as sentences are joined: errors.Join puts each on its own.
func oneLine(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if words := strings.Fields(line); len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return strings.Join(lines, "; ")
}
