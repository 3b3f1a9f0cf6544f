package honesty

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// exporters are processes of matview-exporter: two replicas of `run`, and the
// `refresh` commands that events start.
type exporters struct {
	binary string
	env    []string
	launch chan func()

	mu       sync.Mutex
	replicas []*process
}

// process is one matview-exporter process.
type process struct {
	cmd  *exec.Cmd
	log  tail
	done chan struct{} // closed when it has ended
}

// tail keeps the end of a process's output.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Write(p)
	if extra := t.b.Len() - tailSize; extra > 0 {
		t.b.Next(extra)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func newExporters(t *testing.T, databaseURL string) *exporters {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "matview-exporter")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../exporter").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	e := &exporters{binary: binary, env: append(os.Environ(), "MATVIEW_DATABASE_URL="+databaseURL), launch: make(chan func())}
	go func() {
		// Linux kills such a child as soon as the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for start := range e.launch {
			start()
		}
	}()
	t.Cleanup(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, p := range e.replicas {
			if p != nil {
				p.kill()
			}
		}
		close(e.launch)
	})
	return e
}

func (e *exporters) start(args ...string) (*process, error) {
	p := &process{cmd: exec.Command(e.binary, args...), done: make(chan struct{})}
	p.cmd.Env = e.env
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	killWithParent(p.cmd)
	started := make(chan error)
	e.launch <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

func (p *process) kill() {
	_ = p.signal(syscall.SIGKILL)
	<-p.done
}

// freeze suspends the process for a while, like a suspended machine.
func (p *process) freeze(ctx context.Context, d time.Duration) error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	pause(ctx, d)
	return p.signal(syscall.SIGCONT)
}

// end sends SIGTERM and waits; it returns an error unless the process exits with 0.
func (p *process) end() error {
	if err := p.signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.kill()
		return errors.New("it did not exit within a minute of SIGTERM")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("it exited with %d", code)
	}
	return nil
}

func (e *exporters) replica() (*process, error) {
	return e.start("run", "--web.listen-address=127.0.0.1:0", "--max-concurrent=3", "--shutdown-timeout=10s")
}

// startReplicas starts the two replicas.
func (e *exporters) startReplicas(t *testing.T) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for range 2 {
		p, err := e.replica()
		if err != nil {
			t.Fatal(err)
		}
		e.replicas = append(e.replicas, p)
	}
}

// acquire reserves a replica for an event that injects a fault into it; it returns nil
// while another event has it. release returns it, or its replacement.
func (e *exporters) acquire(i int) *process {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.replicas[i]
	e.replicas[i] = nil
	return p
}

func (e *exporters) release(i int, p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.replicas[i] = p
}

func (e *exporters) all() []*process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*process(nil), e.replicas...)
}

// replace starts a replica in place of one that has ended.
func (e *exporters) replace(i int) error {
	p, err := e.replica()
	if err != nil {
		return err
	}
	e.release(i, p)
	return nil
}

// killWithParent has the kernel kill the process when this one ends, in whatever
// way. It needs Linux.
func killWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
