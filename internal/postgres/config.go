// Package postgres connects to PostgreSQL and makes its errors readable. The
// provider and the exporter both connect through it, under the same names.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config says how to connect. Empty fields are taken from the PG* environment
// variables, the service file and the password file, as in libpq.
type Config struct {
	// URL is a postgres:// URL or a keyword=value string. The other fields override it.
	URL string

	Host     string
	Port     int
	Database string
	Username string
	Password string

	SSLMode string
	// Each of these is the name of a file or a PEM text.
	SSLRootCert string
	SSLCert     string
	SSLKey      string

	// ConnectTimeout applies to each of several hosts; 0 means [DefaultConnectTimeout].
	ConnectTimeout time.Duration
	// MaxConnections limits the pool; 0 means pgxpool's default.
	MaxConnections  int
	ApplicationName string

	// IAM logs in with tokens of Amazon RDS; nil means with the password.
	IAM *IAM

	// PgBouncer says that the connection goes through a pooler in transaction mode, which
	// runs each transaction in any of its sessions: neither prepared statements nor
	// session state can be used.
	PgBouncer bool
}

// DefaultConnectTimeout applies if no other timeout is configured. Without it, a
// server that accepts connections and never answers, as behind a proxy, would block for
// ever.
const DefaultConnectTimeout = 30 * time.Second

// maxIdle is how long an idle connection stays open: long enough for a plan and for a
// scheduler's poll, short enough not to occupy a slot of a busy server.
const maxIdle = 5 * time.Minute

// cancelGrace is how long the server has to act on a cancel request before the
// connection is closed.
const cancelGrace = 2 * time.Second

// parse reads the configuration, with the files that it names.
func (c Config) parse() (*pgxpool.Config, error) {
	cleanUp, err := c.writePEM()
	defer cleanUp() // pgx has read the files by then
	if err != nil {
		return nil, err
	}
	dsn, err := c.dsn()
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		if _, rest, isURL := strings.Cut(dsn, "://"); isURL && strings.Count(rest, "@") > 1 {
			return nil, errUnexpectedAt
		}
		return nil, &unreadable{err}
	}
	if err := misreadPassword(dsn, &config.ConnConfig.Config); err != nil {
		return nil, err
	}
	return config, libpqSettings(&config.ConnConfig.Config)
}

// readSecrets takes the password and the certificates from the files as they are when a
// connection is made: they may have been rotated since the program started.
func (c Config) readSecrets(_ context.Context, connection *pgx.ConnConfig) error {
	config, err := c.parse()
	if err != nil {
		return err
	}
	now := config.ConnConfig
	connection.Password, connection.TLSConfig, connection.Fallbacks = now.Password, now.TLSConfig, now.Fallbacks
	return nil
}

// PoolConfig resolves the configuration without connecting.
func (c Config) PoolConfig() (*pgxpool.Config, error) {
	config, err := c.parse()
	if err != nil {
		return nil, err
	}
	config.BeforeConnect = c.readSecrets
	if config.ConnConfig.ConnectTimeout == 0 && !c.setsConnectTimeout() {
		config.ConnConfig.ConnectTimeout = DefaultConnectTimeout
	}
	if c.MaxConnections > 0 {
		config.MaxConns = int32(c.MaxConnections) //nolint:gosec // validated where it is set
	}
	config.MaxConnIdleTime = maxIdle
	// Keepalives detect within half a minute that the server's machine has gone.
	config.ConnConfig.DialFunc = (&net.Dialer{
		Timeout:         config.ConnConfig.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
	}).DialContext
	// The end of a context cancels the statement on the server, too: a refresh that
	// continued alone would keep its locks.
	config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelGrace}
	}
	if c.PgBouncer {
		// The first use of a query describes it through the unnamed statement. After that
		// each query is one round trip, which a pooler does not split.
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		config.ConnConfig.StatementCacheCapacity = 0
	}
	if c.IAM != nil {
		if err := c.IAM.authenticate(config); err != nil {
			return nil, err
		}
	}
	runtime := config.ConnConfig.RuntimeParams
	if c.ApplicationName != "" && os.Getenv("PGAPPNAME") == "" && runtime["application_name"] == "" {
		runtime["application_name"] = c.ApplicationName
	}
	return config, nil
}

// Open creates a pool that connects when it is first used.
func Open(ctx context.Context, c Config) (*pgxpool.Pool, error) {
	config, err := c.PoolConfig()
	if err != nil {
		return nil, err
	}
	return OpenPool(ctx, config)
}

// OpenPool creates a pool from a resolved configuration.
func OpenPool(ctx context.Context, config *pgxpool.Config) (*pgxpool.Pool, error) {
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, &unreadable{err}
	}
	return pool, nil
}

// IsPooled reports whether the pool was opened with [Config.PgBouncer].
func IsPooled(pool *pgxpool.Pool) bool {
	return pool.Config().ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheDescribe
}

// Connect opens a connection with the pool's configuration but outside of the pool, for
// a long-lived session. Close it.
func Connect(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	config := pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	return pgx.ConnectConfig(ctx, config.ConnConfig)
}

// setsConnectTimeout reports whether a connect_timeout of 0 was requested, which means
// to wait for ever.
func (c Config) setsConnectTimeout() bool {
	return os.Getenv("PGCONNECT_TIMEOUT") != "" || strings.Contains(c.URL, "connect_timeout")
}

// dsn merges the fields into the URL or the keyword=value string. A field that is set
// wins.
func (c Config) dsn() (string, error) {
	c.URL = strings.TrimSpace(c.URL) // a URL from a file ends with a newline
	if strings.HasPrefix(c.URL, "postgres://") || strings.HasPrefix(c.URL, "postgresql://") {
		return c.overriddenURL(), nil
	}
	if c.URL != "" && !strings.Contains(c.URL, "=") {
		return "", settingsError("the url must start with postgres:// or be a list of keyword=value")
	}
	var b strings.Builder
	b.WriteString(c.URL)
	for _, s := range c.settings() {
		fmt.Fprintf(&b, " %s='%s'", s.key, strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s.value))
	}
	return b.String(), nil
}

// overriddenURL appends the fields to the URL as parameters: the last parameter of a
// name wins, also over what comes before the query. The URL is not parsed, as libpq's
// syntax (several hosts, a literal plus) differs from net/url's.
func (c Config) overriddenURL() string {
	_, rest, _ := strings.Cut(c.URL, "://")
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest = rest[i:] // a question mark in the password does not start the query
	}
	separator := "?"
	if _, query, found := strings.Cut(rest, "?"); found {
		separator = "&"
		if query == "" || strings.HasSuffix(query, "&") {
			separator = ""
		}
	}
	var b strings.Builder
	b.WriteString(c.URL)
	for _, s := range c.settings() {
		b.WriteString(separator + s.key + "=" + strings.ReplaceAll(url.QueryEscape(s.value), "+", "%20"))
		separator = "&"
	}
	return b.String()
}

type setting struct{ key, value string }

func (c Config) settings() []setting {
	seconds := int((c.ConnectTimeout + time.Second - 1) / time.Second)
	all := []setting{
		{"host", c.Host},
		{"port", numberOrEmpty(c.Port)},
		{"dbname", c.Database},
		{"user", c.Username},
		{"password", c.Password},
		{"sslmode", c.SSLMode},
		{"sslrootcert", c.SSLRootCert},
		{"sslcert", c.SSLCert},
		{"sslkey", c.SSLKey},
		{"connect_timeout", numberOrEmpty(seconds)},
	}
	return slices.DeleteFunc(all, func(s setting) bool { return s.value == "" })
}

func numberOrEmpty(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// QuoteIdent quotes an identifier, or a qualified name from its parts.
func QuoteIdent(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// writePEM writes certificates and keys that are given as PEM texts to files, which
// pgx reads, and replaces the texts by the files' names. cleanUp removes the files,
// also after an error.
func (c *Config) writePEM() (cleanUp func(), err error) {
	var written []string
	cleanUp = func() {
		for _, name := range written {
			_ = os.Remove(name)
		}
	}
	for _, text := range []*string{&c.SSLRootCert, &c.SSLCert, &c.SSLKey} {
		if !strings.Contains(*text, "-----BEGIN ") {
			continue
		}
		file, err := os.CreateTemp("", "matview-*.pem") // only this user may read it
		if err == nil {
			written = append(written, file.Name())
			_, err = file.WriteString(*text)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return cleanUp, fmt.Errorf("connection settings of PostgreSQL: write a certificate to a temporary file: %w", err)
		}
		*text = file.Name()
	}
	return cleanUp, nil
}
