package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// StartStandby starts a hot standby that streams from s, which restarts for it:
// its folder is copied while it is stopped, as not every installation has
// pg_basebackup. Its superuser has the same password.
func (s *Server) StartStandby(ctx context.Context) (*Server, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mustRun(); err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	dir, err := makeFolder(s.account)
	if err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	watchdog, err := startWatchdog(dir, s.account)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a standby: %w", err), os.RemoveAll(dir))
	}
	standby := &Server{bin: s.bin, account: s.account, dir: dir, password: s.password, watchdog: watchdog, version: s.version}
	running.Store(standby, true)
	if err := s.postmaster.end(fastShutdown); err != nil {
		return nil, errors.Join(fmt.Errorf("start a standby: %w", err), standby.Stop())
	}
	err = errors.Join(standby.copyOf(s), s.launch(ctx))
	if err == nil {
		err = standby.launchOnFreePort(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a standby: %w", err), standby.Stop())
	}
	return standby, nil
}

// copyOf copies the folder of a stopped server, owners and modes included.
func (s *Server) copyOf(primary *Server) (err error) {
	name := filepath.Join(s.dir, "postgres.log")
	if s.log, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", primary.dataDir(), s.dataDir()).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the data: %w: %s", err, out)
	}
	signal := filepath.Join(s.dataDir(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return err
	}
	source := "host=" + primary.dir + " port=" + strconv.Itoa(primary.port) + " user=" + superuser
	return errors.Join(s.account.own(name), s.account.own(signal), s.configure(map[string]string{"primary_conninfo": source}))
}
