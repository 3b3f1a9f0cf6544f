package postgrestest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv activates TestChild; see startChild.
const childEnv = "POSTGRESTEST_CHILD"

// TestChild is not a test: the tests of this file run it in a process of its own, and
// end that process in various ways.
func TestChild(t *testing.T) {
	how := os.Getenv(childEnv)
	if how == "" {
		return
	}
	s := New(t).Server()
	backend := New(t).Connect(t)
	fmt.Printf("child: %s %d %d %d\n", s.dir, s.postmaster.cmd.Process.Pid,
		backend.PgConn().PID(), s.watchdog.cmd.Process.Pid)
	switch how {
	case "panic":
		panic("as asked")
	case "exit":
		os.Exit(0)
	case "return":
		return
	}
	time.Sleep(time.Hour) // to be killed
}

type child struct {
	cmd                           *exec.Cmd
	dir                           string
	postmaster, backend, watchdog int
}

// startChild runs TestChild until it has a database and a connection to it.
func startChild(t *testing.T, how string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0], "-test.run=^TestChild$")}
	c.cmd.Env = append(os.Environ(), childEnv+"="+how, urlEnv+"=")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // for a Ctrl-C of its own
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	lines := bufio.NewScanner(out)
	var printed []string
	for lines.Scan() {
		printed = append(printed, lines.Text())
		n, _ := fmt.Sscanf(lines.Text(), "child: %s %d %d %d", &c.dir, &c.postmaster, &c.backend, &c.watchdog)
		if n == 4 {
			return c
		}
	}
	t.Fatalf("the child started no server:\n%s", strings.Join(printed, "\n"))
	return nil
}

func (c *child) interrupt(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-c.cmd.Process.Pid, sig); err != nil {
		t.Fatal(err)
	}
}

// waitFor polls, as nothing notifies us about processes that are not our children.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	ends := map[string]func(*testing.T, *child){
		"return":  nil,
		"exit":    nil,
		"panic":   nil,
		"SIGINT":  func(t *testing.T, c *child) { c.interrupt(t, syscall.SIGINT) },
		"SIGTERM": func(t *testing.T, c *child) { c.interrupt(t, syscall.SIGTERM) },
		"SIGHUP":  func(t *testing.T, c *child) { c.interrupt(t, syscall.SIGHUP) },
		"SIGQUIT": func(t *testing.T, c *child) { c.interrupt(t, syscall.SIGQUIT) },
		"SIGKILL": func(t *testing.T, c *child) { c.interrupt(t, syscall.SIGKILL) },
	}
	if signal.Ignored(syscall.SIGHUP) { // under nohup, which a child inherits
		delete(ends, "SIGHUP")
	}
	for how, end := range ends {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c := startChild(t, how)
			if end != nil {
				end(t, c)
			}
			waitFor(t, "the directory is gone", func() bool { return !exists(c.dir) })
			// Without waiting: they must have ended before.
			for name, pid := range map[string]int{"postmaster": c.postmaster, "backend": c.backend} {
				if processRuns(pid) {
					t.Errorf("the %s outlives the directory", name)
				}
			}
			waitFor(t, "the watchdog is gone", func() bool { return !processRuns(c.watchdog) })
		})
	}
}

// A killed process leaves no initdb that still writes, either.
func TestNothingIsLeftOfInitdb(t *testing.T) {
	t.Parallel()
	tmp, err := os.MkdirTemp("/tmp", "pgt") //nolint:usetesting // the server's user cannot reach t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	if err := os.Chmod(tmp, 0o777); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0], "-test.run=^TestChild$")
	c.Env = append(os.Environ(), childEnv+"=wait", urlEnv+"=", "TMPDIR="+tmp)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "initdb has begun", func() bool {
		found, _ := filepath.Glob(filepath.Join(tmp, "*", "data", "base"))
		return len(found) > 0
	})
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	waitFor(t, "the directory is gone", func() bool {
		found, _ := filepath.Glob(filepath.Join(tmp, "*"))
		return len(found) == 0
	})
}

// The directory stays as long as a process may write to it. A stopped backend delays
// the postmaster's immediate shutdown until the postmaster kills it, after 5 seconds.
func TestFolderOutlivesServer(t *testing.T) {
	t.Parallel()
	c := startChild(t, "wait")
	if err := syscall.Kill(c.backend, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.interrupt(t, syscall.SIGKILL)
	killed := time.Now()
	waitFor(t, "the directory is gone", func() bool {
		there := exists(c.dir) // first: a process may end in between
		if !there && (processRuns(c.backend) || processRuns(c.postmaster)) {
			t.Fatal("the directory went before the server")
		}
		return !there
	})
	if took := time.Since(killed); took < time.Second {
		t.Errorf("the server was gone in %s: the stopped backend held up nothing", took)
	}
}
