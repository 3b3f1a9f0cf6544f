//go:build unix

package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// watchdogScript ends a server and removes its folder as soon as the process
// that started it has ended or says so: kill -9 lets that process do nothing
// itself.
//
//   - Standard input is a pipe whose only writer is that process; nothing is
//     ever written, so read returns when it is gone.
//   - The watchdog leads a process group, which Ctrl-C at the terminal does not
//     reach, and in which initdb and the postmaster run: signals to group 0
//     reach them even if the process was killed before it learnt their ids, and
//     cannot hit a stranger who inherited an id. SIGQUIT is PostgreSQL's
//     immediate shutdown.
//   - Descriptor 3 is a pipe whose writers are that process and everything in
//     the group with all its descendants, backends too, which lead groups of
//     their own. Its end of file means that nobody is left to write to the
//     folder.
const watchdogScript = `
trap '' HUP INT QUIT TERM
read -r nothing
kill -s QUIT 0
kill -s CONT 0
read -r nothing <&3
rm -rf -- "$1"
`

// watchdog guards the folder of one server.
type watchdog struct {
	account *account
	cmd     *exec.Cmd
	leash   *os.File // closed by the kernel when we die
	members *os.File // held open by the server's processes
}

func startWatchdog(dir string, a *account) (w *watchdog, err error) {
	leashEnd, leash, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	defer leashEnd.Close()
	membersEnd, members, err := os.Pipe()
	if err != nil {
		_ = leash.Close()
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	defer membersEnd.Close()

	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "postgrestest-watchdog", dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/bin:/bin"}
	cmd.Stdin = leashEnd
	cmd.ExtraFiles = []*os.File{membersEnd}
	// Standard output and error stay /dev/null: go test waits for whoever
	// holds the test binary's own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: a.credential()}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start watchdog: %w", err), leash.Close(), members.Close())
	}
	return &watchdog{account: a, cmd: cmd, leash: leash, members: members}, nil
}

// adopt makes a command, not yet started, one of the processes that the
// watchdog ends.
func (w *watchdog) adopt(cmd *exec.Cmd) {
	cmd.ExtraFiles = []*os.File{w.members}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Pgid:       w.cmd.Process.Pid,
		Credential: w.account.credential(),
	}
}

// release has the watchdog end what still runs and remove the folder, and
// waits for it.
func (w *watchdog) release() error {
	_ = w.members.Close()
	_ = w.leash.Close()
	done := make(chan error, 1)
	go func() { done <- w.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("watchdog: %w", err)
		}
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("watchdog: the server is still running after %s", stopTimeout)
	}
}
