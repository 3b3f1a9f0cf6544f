//go:build !unix

package postgrestest

import (
	"errors"
	"os/exec"
)

// Elsewhere only a given server can be used; these let the package compile.

var errUnsupported = errors.New("starting a PostgreSQL server needs a Unix system; set " + urlEnv + " instead")

type account struct{}

func serverAccount() (*account, error)  { return nil, errUnsupported }
func (*account) own(string) error       { return errUnsupported }
func (*account) reaches(string) bool    { return false }
func lockFolder(string) (func(), error) { return nil, errUnsupported }

type watchdog struct{}

func startWatchdog(string, *account) (*watchdog, error) { return nil, errUnsupported }
func (*watchdog) adopt(*exec.Cmd)                       {}
func (*watchdog) release() error                        { return errUnsupported }

func processAlive(int) bool { return true }
