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

// exporters are real processes of matview-exporter: two replicas of `run`, and
// whatever `refresh` an event starts.
type exporters struct {
	binary string
	env    []string
	launch chan func()

	mu       sync.Mutex
	replicas []*process
}

// process is one matview-exporter.
type process struct {
	cmd  *exec.Cmd
	log  tail
	done chan struct{} // closed when it has ended
}

// tail keeps the end of what a process writes.
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
		// A child that is to die with its parent dies with its parent's thread.
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
	dieWithUs(p.cmd)
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

// freeze stops it for a while, as a suspended machine would be.
func (p *process) freeze(ctx context.Context, d time.Duration) error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	pause(ctx, d)
	return p.signal(syscall.SIGCONT)
}

// end asks it to end, and says how it did.
func (p *process) end() error {
	if err := p.signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.kill()
		return errors.New("it did not end within a minute of SIGTERM")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("it ended with %d", code)
	}
	return nil
}

func (e *exporters) replica() (*process, error) {
	return e.start("run", "--web.listen-address=127.0.0.1:0", "--max-concurrent=3", "--shutdown-timeout=10s")
}

// startReplicas starts the two daemons.
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

// take gives one daemon to an event that is to harm it, nil while another event
// has it; back puts it, or another in its stead, back.
func (e *exporters) take(i int) *process {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.replicas[i]
	e.replicas[i] = nil
	return p
}

func (e *exporters) back(i int, p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.replicas[i] = p
}

func (e *exporters) all() []*process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*process(nil), e.replicas...)
}

// replace starts another daemon in the place of one that is gone.
func (e *exporters) replace(i int) error {
	p, err := e.replica()
	if err != nil {
		return err
	}
	e.back(i, p)
	return nil
}
