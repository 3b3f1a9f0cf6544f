package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errPortTaken is that another process took the port before the server did.
var errPortTaken = errors.New("the port is taken")

// How to ask a postmaster to end; see "Shutting Down the Server" in the manual.
const (
	fastShutdown      = syscall.SIGINT
	immediateShutdown = syscall.SIGQUIT
)

// postmaster is one run of a server's main process.
type postmaster struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended, after which err is set
	err  error
}

// launchOnFreePort starts the postmaster on a port of its choice. Between
// finding a port free and using it another process may be faster.
func (s *Server) launchOnFreePort(ctx context.Context) error {
	var err error
	for range 10 {
		s.port = freePort()
		if err = s.launch(ctx); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// freePort returns a port that is free on loopback just now. It is below the
// ephemeral ports of Linux (32768 and up) and macOS (49152), so that no
// outgoing connection takes it while the server restarts.
func freePort() int {
	var port int
	for range 100 {
		port = 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if l.Close() == nil {
			break
		}
	}
	return port
}

// launch starts the postmaster on s.port and waits until it accepts
// connections.
func (s *Server) launch(ctx context.Context) error {
	before, err := s.log.Stat()
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(s.bin.dir, "postgres"),
		"-D", s.dataDir(), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses="+host, "-c", "unix_socket_directories="+s.dir,
		"-c", "logging_collector=off")
	cmd.Dir = s.dir
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = s.log, s.log
	s.watchdog.adopt(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &postmaster{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	s.postmaster = p

	err = s.waitReady(ctx, p)
	if err == nil {
		return nil
	}
	if s.portTaken(before.Size()) {
		err = fmt.Errorf("%w: %d", errPortTaken, s.port)
	}
	return errors.Join(err, p.end(immediateShutdown))
}

// waitReady polls postmaster.pid, as pg_ctl does: unlike trying to connect it
// leaves no errors in the log, and cannot meet another server.
func (s *Server) waitReady(ctx context.Context, p *postmaster) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !s.ready(p) {
		select {
		case <-p.done:
			return fmt.Errorf("postgres from %s ended: %w\n%s", s.bin.dir, p.exitError(), s.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("postgres from %s does not get ready: %w\n%s", s.bin.dir, ctx.Err(), s.LogTail())
		case <-poll.C:
		}
	}
	return nil
}

// ready reads lines 1, the process id, and 8, the status, of postmaster.pid
// (see utils/pidfile.h).
func (s *Server) ready(p *postmaster) bool {
	file, err := os.ReadFile(filepath.Join(s.dataDir(), "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(file), "\n")
	return len(lines) > 7 && lines[0] == strconv.Itoa(p.cmd.Process.Pid) &&
		strings.TrimSpace(lines[7]) == "ready"
}

// portTaken looks for the postmaster's complaint in the log after an offset.
func (s *Server) portTaken(offset int64) bool {
	log, err := os.ReadFile(s.log.Name())
	return err == nil && int64(len(log)) > offset && strings.Contains(string(log[offset:]), "could not bind")
}

func (p *postmaster) exitError() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// end signals the postmaster and waits for it and its children. How it exits
// does not matter.
func (p *postmaster) end(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal the postmaster: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("the postmaster ignores %v for %s", signal, stopTimeout)
	}
}

// Stop ends the server with a fast shutdown, which ends its connections, and
// removes its folder. Stopping again does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := running.LoadAndDelete(s); !ok {
		return nil
	}
	var stopErr error
	if s.postmaster != nil {
		stopErr = s.postmaster.end(fastShutdown)
	}
	// The watchdog removes the folder here, too, lest there be two ways.
	err := errors.Join(stopErr, s.watchdog.release())
	if s.log != nil {
		err = errors.Join(err, s.log.Close())
	}
	if err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

// Crash ends the server as a crash would: its connections break, nothing is
// written any more, and the next start begins with recovery. What was committed
// survives, even with fsync off: the machine does not crash.
func (s *Server) Crash() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mustRun(); err != nil {
		return fmt.Errorf("crash PostgreSQL: %w", err)
	}
	if err := s.postmaster.end(immediateShutdown); err != nil {
		return fmt.Errorf("crash PostgreSQL: %w", err)
	}
	return nil
}

// Restart starts the server again, on the same port and with the same data;
// if it is running it ends first, with a fast shutdown.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mustRun(); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	if err := s.postmaster.end(fastShutdown); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	if err := s.launch(ctx); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	return nil
}

func (s *Server) mustRun() error {
	if _, ok := running.Load(s); !ok {
		return errors.New("it was stopped with Stop")
	}
	return nil
}
