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

// errPortTaken says that another process took the port before the server did.
var errPortTaken = errors.New("the port is taken")

// How to ask a postmaster to end; see "Shutting Down the Server" in the manual.
const (
	fastShutdown      = syscall.SIGINT
	immediateShutdown = syscall.SIGQUIT
)

// postmaster is one run of a server's main process.
type postmaster struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// launchOnFreePort starts the postmaster on a port of its choice. Another process
// may take the port before the postmaster does, so it tries several.
func (s *Server) launchOnFreePort(ctx context.Context) error {
	var err error
	for range 10 {
		s.port = freePort()
		if err = s.launch(ctx); !errors.Is(err, errPortTaken) {
			break
		}
	}
	return err
}

// freePort returns a port that is free on loopback just now. It is below the
// ephemeral ports of Linux (32768 and up) and macOS (49152), so that no outgoing
// connection takes it while the server restarts.
func freePort() int {
	for {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil && l.Close() == nil {
			return port
		}
	}
}

// launch starts the postmaster on s.port and waits until it accepts connections.
func (s *Server) launch(ctx context.Context) error {
	before, err := s.log.Stat()
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(s.bin.dir, "postgres"),
		"-D", s.dataDir(), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses="+host, "-c", "unix_socket_directories="+s.dir,
		"-c", "logging_collector=off")
	s.prepare(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &postmaster{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // ProcessState has it
		close(p.done)
	}()
	s.postmaster = p
	if err = s.waitReady(ctx, p); err == nil {
		return nil
	}
	log, readErr := os.ReadFile(s.log.Name())
	if readErr == nil && strings.Contains(string(log[before.Size():]), "could not bind") {
		err = fmt.Errorf("%w: %d", errPortTaken, s.port)
	}
	return errors.Join(err, p.end(immediateShutdown))
}

// waitReady polls postmaster.pid, as pg_ctl does: unlike an attempt to connect, that
// leaves no errors in the log and cannot reach another server.
func (s *Server) waitReady(ctx context.Context, p *postmaster) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !s.ready(p) {
		select {
		case <-p.done:
			return fmt.Errorf("postgres from %s ended: %s\n%s", s.bin.dir, p.cmd.ProcessState, s.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("postgres from %s does not accept connections: %w\n%s", s.bin.dir, ctx.Err(), s.LogTail())
		case <-poll.C:
		}
	}
	return nil
}

// ready reads lines 1, the process id, and 8, the status, of postmaster.pid
// (see utils/pidfile.h).
func (s *Server) ready(p *postmaster) bool {
	file, err := os.ReadFile(filepath.Join(s.dataDir(), "postmaster.pid"))
	lines := strings.Split(string(file), "\n")
	return err == nil && len(lines) > 7 && lines[0] == strconv.Itoa(p.cmd.Process.Pid) &&
		strings.TrimSpace(lines[7]) == "ready"
}

// end signals the postmaster and waits for it and its children. How it exits does
// not matter.
func (p *postmaster) end(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal the postmaster: %w", err)
	}
	<-p.done
	return nil
}

// Stop ends the server with a fast shutdown, which ends its connections, and
// removes its directory. Stopping again does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := running.LoadAndDelete(s); !ok {
		return nil
	}
	var err error
	if s.postmaster != nil {
		err = s.postmaster.end(fastShutdown)
	}
	err = errors.Join(err, s.watchdog.release()) // which removes the directory
	if s.log != nil {
		err = errors.Join(err, s.log.Close())
	}
	if err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

// Crash ends the server like a crash: connections break, nothing is written any
// more, and the next start begins with recovery. Committed transactions survive
// even with fsync off, as the machine does not crash.
func (s *Server) Crash() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.end(immediateShutdown); err != nil {
		return fmt.Errorf("crash PostgreSQL: %w", err)
	}
	return nil
}

// Restart starts the server again, on the same port and with the same data. If it
// is running, a fast shutdown comes first.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.end(fastShutdown)
	if err == nil {
		err = s.launch(ctx)
	}
	if err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	return nil
}

// end ends the postmaster of a server that has not been stopped for good.
func (s *Server) end(signal os.Signal) error {
	if _, ok := running.Load(s); !ok {
		return errors.New("it was stopped with Stop")
	}
	return s.postmaster.end(signal)
}
