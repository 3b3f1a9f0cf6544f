package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
)

// StartStandby starts a hot standby that streams from s, with the same password.
// s restarts for it: its data directory is copied while it is stopped, as not
// every installation has pg_basebackup.
func (s *Server) StartStandby(ctx context.Context) (*Server, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	standby, err := newServer(s.bin, s.password)
	if err == nil {
		err = s.end(fastShutdown)
	}
	if err == nil {
		err = errors.Join(standby.copyOf(s), s.launch(ctx))
	}
	if err == nil {
		err = standby.launchOnFreePort(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a standby: %w", err), standby.Stop())
	}
	return standby, nil
}

// copyOf copies the data of a stopped server, with owners and modes.
func (s *Server) copyOf(primary *Server) error {
	if out, err := exec.Command("cp", "-a", primary.dataDir(), s.dataDir()).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the data: %w: %s", err, out)
	}
	source := "host=" + primary.dir + " port=" + strconv.Itoa(primary.port) + " user=" + superuser
	return errors.Join(
		s.account.writeFile(filepath.Join(s.dataDir(), "standby.signal"), ""),
		s.configure(map[string]string{"primary_conninfo": source}))
}
