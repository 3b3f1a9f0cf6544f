package postgres

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLState returns the SQLSTATE of err, or "" if err does not come from the server.
func SQLState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// Message returns err as one line for a person: for an error of the server its
// message, detail and hint without pgx's prefix; for a failed connection the host, the
// user and the cause. It never contains a password.
func Message(err error) string {
	var connectErr *pgconn.ConnectError
	if errors.As(err, &connectErr) {
		return connectMessage(connectErr.Config, connectCause(connectErr))
	}
	var tokenErr *tokenError
	if errors.As(err, &tokenErr) {
		return connectMessage(tokenErr.config, oneLine(tokenErr.Error()))
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		// Keep the context that our code adds to the server's error, but not pgx's.
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
	if hint := Hint(e); hint != "" {
		message += "; hint: " + strings.TrimSuffix(hint, ".")
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", message, e.Code)
}

// denied finds what the server denies a role.
var denied = regexp.MustCompile(`^permission denied for (table|view|materialized view|sequence|schema|function|foreign table|foreign server|type|language) (.+)$`)

// MissingGrant is the GRANT after which a role would have what the server denied it, or
// "" where no GRANT is known to help: a role that must be the owner, or something that is
// forbidden in a materialized view. It reads the English message, as no other field of the
// error says what is missing.
func MissingGrant(err error, role string) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.InsufficientPrivilege {
		return ""
	}
	found := denied.FindStringSubmatch(pgErr.Message)
	if found == nil {
		return ""
	}
	privilege := "SELECT ON "
	switch kind := found[1]; kind {
	case "schema", "foreign server", "type", "language":
		privilege = "USAGE ON " + strings.ToUpper(kind) + " "
	case "function":
		privilege = "EXECUTE ON FUNCTION "
	case "sequence":
		privilege = "SELECT ON SEQUENCE "
	}
	return "GRANT " + privilege + found[2] + " TO " + QuoteIdent(role)
}

// function finds the innermost function in the context of an error: PL/pgSQL names it
// with its schema and arguments, SQL by its bare name.
var function = regexp.MustCompile(`(?:PL/pgSQL function |SQL function ")((?:[^(" ]|"[^"]*")+(?:\([^)]*\))?)`)

// Hint returns the server's hint, or what there is to do where it has none: about a
// read-only database, a pooler, and what a function names without a schema in vain.
func Hint(e *pgconn.PgError) string {
	switch e.Code {
	case pgerrcode.ReadOnlySQLTransaction:
		return "the database is read-only: default_transaction_read_only is on for the role, the database or the server, or the server is a standby"
	case pgerrcode.DuplicatePreparedStatement, pgerrcode.InvalidSQLStatementName:
		return "a pooler in transaction mode, such as PgBouncer, gives the session to several clients: set pgbouncer = true in Terraform, or --database.pgbouncer for the exporter"
	case pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction, pgerrcode.UndefinedObject, pgerrcode.InvalidSchemaName:
		if found := function.FindStringSubmatch(e.Where); found != nil {
			return strings.TrimSpace(e.Hint + " " + fmt.Sprintf(
				"%s names it without its schema, and the search_path does not have that: give the function SET search_path, or name the schema in it. From PostgreSQL 17 on, the query of a materialized view runs under pg_catalog, pg_temp", found[1]))
		}
	}
	return e.Hint
}

func connectMessage(c *pgconn.Config, cause string) string {
	return fmt.Sprintf("cannot connect to PostgreSQL at %s, database %q, as user %q: %s", endpoints(c), cmp.Or(c.Database, c.User), c.User, cause)
}

// Unreachable reports whether err says that no connection could be made for now. A
// later attempt may succeed: the server is up, the role or the certificate's file exists.
func Unreachable(err error) bool {
	var connectErr *pgconn.ConnectError
	var tokenErr *tokenError
	return errors.As(err, &connectErr) || errors.As(err, &tokenErr) || errors.Is(err, fs.ErrNotExist)
}

// endpoints lists the addresses of all attempts, each once: pgx may try the same server
// with and without TLS.
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

// connectCause names the cause, or the cause at each host if they differ.
func connectCause(e *pgconn.ConnectError) string {
	attempts := []error{e.Unwrap()}
	var several interface{ Unwrap() []error }
	if errors.As(e.Unwrap(), &several) {
		attempts = several.Unwrap()
	}
	var hosts []string
	decisive := map[string]error{}
	for _, err := range attempts {
		host := attemptedHost(err)
		known, found := decisive[host]
		if !found {
			hosts = append(hosts, host)
		}
		if !found || weight(err) > weight(known) {
			decisive[host] = err
		}
	}
	first := attemptCause(e.Config, decisive[hosts[0]])
	same := true
	for i, host := range hosts {
		cause := attemptCause(e.Config, decisive[host])
		same = same && cause == first
		hosts[i] = host + ": " + cause
	}
	if same {
		return first
	}
	return strings.Join(hosts, "; and at ")
}

// attemptedHost returns the host of an attempt. pgconn has it only in the text, which
// begins with ADDRESS (HOST).
func attemptedHost(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Name
	}
	address, rest, _ := strings.Cut(err.Error(), " (")
	host, _, _ := strings.Cut(rest, "): ")
	if _, port, err := net.SplitHostPort(address); err == nil {
		return net.JoinHostPort(host, port)
	}
	return address
}

// weight ranks the attempts at one host by how much they say about the cause. There is
// one for each address and, with sslmode allow and prefer, with and without TLS.
func weight(err error) int {
	var pgErr *pgconn.PgError
	var op *net.OpError
	switch {
	case errors.As(err, &pgErr) && notListed(pgErr):
		return 2
	case errors.As(err, &pgErr):
		return 3
	case refusesTLS(err):
		return 1
	case errors.As(err, &op) && op.Op == "dial", errors.Is(err, context.DeadlineExceeded):
		return 0
	}
	return 3
}

// attemptCause names the cause without the addresses that Go's network errors repeat,
// and the remedy if it is known.
func attemptCause(c *pgconn.Config, err error) string {
	var pgErr *pgconn.PgError
	var dns *net.DNSError
	var op *net.OpError
	var otherName x509.HostnameError
	var unknownAuthority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &pgErr):
		switch pgErr.Code {
		case pgerrcode.InvalidPassword, pgerrcode.InvalidAuthorizationSpecification:
			return pgErr.Message + "; " + authRemedy(c, pgErr)
		case pgerrcode.CannotConnectNow:
			return pgErr.Message + "; try again when it is up"
		case pgerrcode.TooManyConnections:
			return serverMessage(pgErr) + "; use fewer (max_connections in Terraform, --max-concurrent of the exporter), or raise the limit"
		}
		return serverMessage(pgErr)
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time; check the host, the port and the network"
	case errors.As(err, &dns):
		return "the host name does not resolve"
	case errors.As(err, &unknownAuthority):
		return "the server's certificate is signed by an authority that is not trusted; set sslrootcert"
	case errors.As(err, &otherName):
		return fmt.Sprintf("the server's certificate is not for %s but for %s; connect by that name, or set sslmode to verify-ca",
			otherName.Host, namesOf(otherName.Certificate))
	case errors.As(err, &invalid):
		return "the server's certificate is not valid: " + strings.TrimPrefix(invalid.Error(), "x509: ")
	case errors.As(err, &op) && op.Op == "remote error":
		return "the server refused TLS: " + op.Err.Error() + "; check the client certificate"
	case errors.As(err, &op) && op.Op != "dial" && c.TLSConfig != nil && len(c.TLSConfig.Certificates) > 0:
		// With TLS 1.3 the server rejects the certificate after the handshake, and the
		// connection may be closed before its alert is read.
		return op.Err.Error() + "; check the client certificate, which the server may have refused"
	case errors.As(err, &op):
		return op.Err.Error() + "; is the server running there?"
	case refusesTLS(err):
		return "the server does not support TLS; set sslmode to disable if that is intended"
	}
	causes := strings.Split(oneLine(err.Error()), "): ")
	cause := causes[len(causes)-1]
	if unwanted, found := strings.CutPrefix(cause, "ValidateConnect failed: "); found {
		return unwanted + "; target_session_attrs requires another"
	}
	return cause
}

func refusesTLS(err error) bool {
	return strings.Contains(err.Error(), "server refused TLS connection")
}

func notListed(e *pgconn.PgError) bool { return strings.HasPrefix(e.Message, "no pg_hba.conf entry") }

// authRemedy reads the English message, as no other field distinguishes these errors.
func authRemedy(c *pgconn.Config, e *pgconn.PgError) string {
	plain := strings.HasSuffix(e.Message, "no encryption") || strings.HasSuffix(e.Message, "SSL off") // before 14
	switch {
	case notListed(e) && plain:
		return "the server may want TLS: set sslmode to require or better, or check its pg_hba.conf"
	case notListed(e):
		return "check host, username, database and the server's pg_hba.conf"
	case strings.Contains(e.Message, "client certificate"):
		return "set clientcert, or sslcert and sslkey in a URL, to a certificate of this user"
	case strings.HasPrefix(e.Message, "certificate authentication failed"):
		return "the client certificate belongs to another user"
	case strings.HasPrefix(e.Message, "Peer authentication failed"):
		return "on this socket, each user of the operating system logs in as the role of the same name; set host to log in with a password"
	case strings.HasPrefix(e.Message, "PAM authentication failed"):
		return "check username and password; with IAM on Amazon RDS, that the role is a member of rds_iam and the policy allows rds-db:connect. A token is signed for the host and port that are connected to (" + endpoint(c.Host, c.Port) + "): through a tunnel or proxy, set aws_rds_iam_endpoint to those of the database"
	case e.Code == pgerrcode.InvalidPassword && c.Password == "":
		return "no password is set, here or in PGPASSWORD or a password file"
	}
	return "check username and password"
}

func namesOf(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return fmt.Sprintf("no name (its common name, %q, does not count)", c.Subject.CommonName)
	}
	return strings.Join(names, ", ")
}

// oneLine joins lines with semicolons, as errors.Join separates errors by newlines.
func oneLine(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if words := strings.Fields(line); len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return strings.Join(lines, "; ")
}
