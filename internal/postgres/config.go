// Package postgres connects to PostgreSQL and makes its errors readable. The
// provider and the exporter both connect through it, under the same names.
package postgres

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config is how to connect. What is empty comes from the PG* environment
// variables, the service file and the password file, as in libpq.
type Config struct {
	// URL is a postgres:// URL or a keyword=value string; the other fields
	// override what it says.
	URL string

	Host     string
	Port     int
	Database string
	Username string
	Password string

	SSLMode string
	// Each of these is the name of a file, or a PEM text itself.
	SSLRootCert string
	SSLCert     string
	SSLKey      string

	// ConnectTimeout is for each of several hosts; 0 is [DefaultConnectTimeout].
	ConnectTimeout time.Duration
	// MaxConnections caps the pool; 0 means pgxpool's default.
	MaxConnections  int
	ApplicationName string

	// IAM logs in with tokens of Amazon RDS; nil with the password.
	IAM *IAM

	// PgBouncer says that a pooler in transaction mode is between, which gives
	// each transaction any of its sessions: no prepared statements then, and
	// nothing that a session would have to remember.
	PgBouncer bool
}

// DefaultConnectTimeout is for those who say nothing of it. A server that takes
// connections and answers none, as behind a proxy, would be waited for without end.
const DefaultConnectTimeout = 30 * time.Second

// maxIdle is how long an unused connection is kept: long enough for a plan and
// for a scheduler's poll, short enough not to hold a slot of a busy server.
const maxIdle = 5 * time.Minute

// cancelGrace is how long a server may take to act on a cancel request before
// the connection is cut.
const cancelGrace = 2 * time.Second

// PoolConfig resolves the configuration without connecting.
func (c Config) PoolConfig() (*pgxpool.Config, error) {
	cleanUp, err := c.writeTexts()
	if err != nil {
		return nil, err
	}
	defer cleanUp() // pgx has read them by then
	dsn, err := c.dsn()
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, &unreadable{err}
	}
	if err := misreadPassword(dsn, &config.ConnConfig.Config); err != nil {
		return nil, err
	}
	if err := libpqSettings(&config.ConnConfig.Config); err != nil {
		return nil, err
	}
	if config.ConnConfig.ConnectTimeout == 0 && !c.waitsForEver() {
		config.ConnConfig.ConnectTimeout = DefaultConnectTimeout
	}
	if c.MaxConnections > 0 {
		config.MaxConns = int32(c.MaxConnections) //nolint:gosec // validated where it is set
	}
	config.MaxConnIdleTime = maxIdle
	// A server that has gone without a word is noticed within half a minute.
	config.ConnConfig.DialFunc = (&net.Dialer{
		Timeout:         config.ConnConfig.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
	}).DialContext
	// Ending a context ends the statement on the server too, not only our wait
	// for it: a refresh that goes on alone would keep its locks.
	config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelGrace}
	}
	if c.PgBouncer {
		// Types are asked for once, with the unnamed statement, and each query is
		// one round trip after that, which a pooler does not split.
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

// Open makes a pool that connects when it is first used.
func Open(ctx context.Context, c Config) (*pgxpool.Pool, error) {
	config, err := c.PoolConfig()
	if err != nil {
		return nil, err
	}
	return OpenPool(ctx, config)
}

// OpenPool makes a pool from a resolved configuration.
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

// Connect makes a connection like those of pool, outside of it, for a session
// that is kept. Close it.
func Connect(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	config := pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	return pgx.ConnectConfig(ctx, config.ConnConfig)
}

// waitsForEver reports whether a connect_timeout of 0 is what was asked for.
func (c Config) waitsForEver() bool {
	return os.Getenv("PGCONNECT_TIMEOUT") != "" || strings.Contains(c.URL, "connect_timeout")
}

// dsn folds the fields into the URL, or into a keyword=value string: either way
// a field that is set wins.
func (c Config) dsn() (string, error) {
	c.URL = strings.TrimSpace(c.URL) // a file of one line ends with a newline
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

// overriddenURL puts the fields behind the URL as parameters: the last one of a
// name wins, also over what comes before the query. The URL is left as it is,
// since libpq's syntax (a list of hosts, a plus for a plus) is not that of net/url.
func (c Config) overriddenURL() string {
	_, rest, _ := strings.Cut(c.URL, "://")
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest = rest[i:] // a question mark in the password starts no query
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
	var set []setting
	add := func(key, value string) {
		if value != "" {
			set = append(set, setting{key, value})
		}
	}
	add("host", c.Host)
	if c.Port != 0 {
		add("port", strconv.Itoa(c.Port))
	}
	add("dbname", c.Database)
	add("user", c.Username)
	add("password", c.Password)
	add("sslmode", c.SSLMode)
	add("sslrootcert", c.SSLRootCert)
	add("sslcert", c.SSLCert)
	add("sslkey", c.SSLKey)
	if c.ConnectTimeout > 0 {
		add("connect_timeout", strconv.Itoa(int((c.ConnectTimeout+time.Second-1)/time.Second)))
	}
	return set
}

// QuoteIdent quotes an identifier, or a qualified one from its parts.
func QuoteIdent(parts ...string) string { return pgx.Identifier(parts).Sanitize() }
