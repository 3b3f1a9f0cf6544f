package honesty

import (
	"os/exec"
	"syscall"
)

// dieWithUs has the kernel end the process with ours, however ours ends.
func dieWithUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
