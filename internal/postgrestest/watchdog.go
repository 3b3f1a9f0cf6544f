package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// watchdogScript ends a server and removes its directory as soon as the process
// that started it ends or calls release. A process that gets kill -9 can do
// neither itself.
//
//   - Standard input is a pipe whose only writer is that process. Nothing is ever
//     written, so read returns when the process is gone.
//   - The watchdog leads a process group, which Ctrl-C at the terminal does not
//     reach, and in which initdb and the postmaster run. Signals to group 0 reach
//     them even if the process was killed before it learned their ids, and cannot hit
//     another process that got one of these ids. SIGQUIT is PostgreSQL's immediate
//     shutdown.
//   - Descriptor 3 is a pipe whose writers are that process and all descendants of
//     the group, including backends, which lead groups of their own. Its end of file
//     means that no process is left that writes to the directory.
const watchdogScript = `
trap '' HUP INT QUIT TERM
read -r nothing
kill -s QUIT 0
kill -s CONT 0
read -r nothing <&3
rm -rf -- "$1"
`

// watchdog guards the directory of one server.
type watchdog struct {
	account *account
	cmd     *exec.Cmd
	leash   *os.File // the kernel closes it when this process ends
	members *os.File // the server's processes hold it open
}

func startWatchdog(dir string, a *account) (*watchdog, error) {
	leashEnd, leash, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	defer leashEnd.Close()
	membersEnd, members, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start watchdog: %w", err), leash.Close())
	}
	defer membersEnd.Close()

	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "postgrestest-watchdog", dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/bin:/bin"}
	cmd.Stdin = leashEnd
	cmd.ExtraFiles = []*os.File{membersEnd}
	// Standard output and error stay /dev/null: go test waits for every process that
	// holds the test binary's own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: a.credential()}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start watchdog: %w", err), leash.Close(), members.Close())
	}
	return &watchdog{account: a, cmd: cmd, leash: leash, members: members}, nil
}

// adopt makes cmd, which has not started, one of the processes that the watchdog
// ends.
func (w *watchdog) adopt(cmd *exec.Cmd) {
	cmd.ExtraFiles = []*os.File{w.members}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: w.cmd.Process.Pid, Credential: w.account.credential()}
}

// release has the watchdog end what still runs and remove the directory, and waits
// for it.
func (w *watchdog) release() error {
	_, _ = w.members.Close(), w.leash.Close()
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	return nil
}
