package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	superuser = "postgres"
	host      = "127.0.0.1"

	startTimeout = time.Minute
	stopTimeout  = time.Minute
)

// Options change the server that Start starts.
type Options struct {
	// Settings go to postgresql.conf. They override the defaults of this
	// package, which suit a throwaway server: fsync and full_page_writes are
	// off, max_connections is 200. Port, addresses and the socket's folder
	// cannot be set.
	Settings map[string]string
}

// Server is a PostgreSQL server that this process started. It ends with the
// process at the latest.
type Server struct {
	bin      binaries
	account  *account
	dir      string // the data folder, the log, and the socket are in it
	password string
	log      *os.File
	watchdog *watchdog

	port    int // never changes once Start has returned, nor does version
	version int

	mu         sync.Mutex // guards the postmaster, and starting and stopping it
	postmaster *postmaster
}

// running keeps servers from the garbage collector, which would close the
// watchdog's pipe, and so stop a server of which only the URL is still known.
var running sync.Map

// Start starts a server of its own, for what cannot share one: the demo, and
// tests that crash or restart it. Stop it with Stop.
//
// It never uses MATVIEW_TEST_DATABASE_URL, and takes about two seconds; the
// first time on a machine without PostgreSQL, minutes. When ctx ends before
// Start returns the server does not start; afterwards ctx does not matter.
func Start(ctx context.Context, o Options) (*Server, error) {
	bin, err := thisMachine().find(ctx)
	if err != nil {
		return nil, err
	}
	account, err := serverAccount()
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	dir, err := makeFolder(account)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	watchdog, err := startWatchdog(dir, account)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), os.RemoveAll(dir))
	}
	s := &Server{bin: bin, account: account, dir: dir, password: rand.Text(), watchdog: watchdog}
	running.Store(s, true)
	if err := s.startNew(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), s.Stop())
	}
	return s, nil
}

func (s *Server) startNew(ctx context.Context, o Options) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := filepath.Join(s.dir, "postgres.log")
	if s.log, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	if err := s.account.own(name); err != nil {
		return err
	}
	if err := s.initdb(ctx); err != nil {
		return err
	}
	if err := s.configure(o.Settings); err != nil {
		return err
	}
	if err := s.launchOnFreePort(ctx); err != nil {
		return err
	}
	return s.readVersion(ctx)
}

func (s *Server) readVersion(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.socketURL(superuser))
	if err != nil {
		return fmt.Errorf("read the version: %w", err)
	}
	defer conn.Close(ctx)
	s.version, err = serverVersion(ctx, conn)
	return err
}

func serverVersion(ctx context.Context, conn *pgx.Conn) (version int, err error) {
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("read the version: %w", err)
	}
	return version, nil
}

// URL returns a URL of the superuser for a database, over TCP and with the
// password.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, s.password),
		Host:     host + ":" + strconv.Itoa(s.port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// socketURL spares our own connections the work of SCRAM.
func (s *Server) socketURL(database string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.User(superuser),
		Path:   "/" + database,
		RawQuery: url.Values{
			"host":    {s.dir},
			"port":    {strconv.Itoa(s.port)},
			"sslmode": {"disable"},
		}.Encode(),
	}
	return u.String()
}

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }

// SocketDir returns the folder of the Unix socket, where no password is asked
// for. Only root and the server's own user can enter it.
func (s *Server) SocketDir() string { return s.dir }

// Host returns the only address the server listens on.
func (s *Server) Host() string { return host }

// Port returns the port, which stays the same over restarts.
func (s *Server) Port() int { return s.port }

// Password returns the superuser's password; the superuser is postgres.
func (s *Server) Password() string { return s.password }

// BinDir returns the folder of the server's programs. Besides postgres and
// initdb it may lack any, such as psql.
func (s *Server) BinDir() string { return s.bin.dir }

// Version returns server_version_num, such as 150018.
func (s *Server) Version() int { return s.version }
