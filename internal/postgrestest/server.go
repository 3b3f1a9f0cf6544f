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
)

const (
	superuser = "postgres"
	host      = "127.0.0.1"

	startTimeout = time.Minute
)

// Options change the server that [Start] starts.
type Options struct {
	// Settings override those of this package, which suit a throwaway server: fsync
	// and full_page_writes are off, max_connections is 200. The port, the addresses
	// and the socket's directory cannot be set.
	Settings map[string]string
}

// Server is a PostgreSQL server that this process started. It ends with the
// process at the latest.
type Server struct {
	bin      binaries
	account  *account
	dir      string // of the data, the log and the socket
	password string
	log      *os.File
	watchdog *watchdog
	port     int // constant once Start has returned

	mu         sync.Mutex // guards the postmaster, and starting and stopping it
	postmaster *postmaster
}

// running keeps servers from the garbage collector. It would close the
// watchdog's pipe, and so stop a server of which only the URL is still in use.
var running sync.Map

// Start starts a server for what cannot share one: the demo, and tests that crash
// or restart it. Stop it with [Server.Stop].
//
// It never uses MATVIEW_TEST_DATABASE_URL, and takes about two seconds; the
// first time on a machine without PostgreSQL, minutes. When ctx ends before
// Start returns, the server does not start; afterwards ctx does not matter.
func Start(ctx context.Context, o Options) (*Server, error) {
	bin, err := newFinder().find(ctx)
	if err != nil {
		return nil, err
	}
	s, err := newServer(bin, rand.Text())
	if err == nil {
		err = s.initdb(ctx)
	}
	if err == nil {
		err = s.configure(o.Settings)
	}
	if err == nil {
		err = s.launchOnFreePort(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), s.Stop())
	}
	return s, nil
}

// newServer creates the server's directory, without data, and what removes it. Its
// server is to be stopped even if there is an error.
func newServer(bin binaries, password string) (s *Server, err error) {
	s = &Server{bin: bin, password: password}
	if s.account, err = serverAccount(); err != nil {
		return s, err
	}
	if s.dir, err = makeDir(s.account); err != nil {
		return s, err
	}
	if s.watchdog, err = startWatchdog(s.dir, s.account); err != nil {
		return s, errors.Join(err, os.RemoveAll(s.dir))
	}
	running.Store(s, true)
	name := filepath.Join(s.dir, "postgres.log")
	s.log, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return s, err
}

// URL returns the superuser's URL for a database, over TCP and with the password.
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

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }

// SocketDir returns the directory of the Unix socket, where no password is asked
// for. Only root and the server's user can enter it.
func (s *Server) SocketDir() string { return s.dir }

// Host returns the only address that the server listens on.
func (s *Server) Host() string { return host }

// Port returns the port, which restarts do not change.
func (s *Server) Port() int { return s.port }

// Version returns server_version_num, such as 150018.
func (s *Server) Version() int { return s.bin.version }
