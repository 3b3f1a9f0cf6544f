//go:build e2e

package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// browser is a headless Chromium, driven by the DevTools protocol over a pair of
// pipes.
type browser struct {
	t       *testing.T
	to      *os.File
	session string

	mu      sync.Mutex
	last    int
	answers map[int]chan reply
	loaded  chan struct{}
	console []string
}

type reply struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	program, err := osexec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not on PATH: scripts/install-e2e.sh installs it")
	}
	// Chromium reads its descriptor 3 and writes to 4.
	theirs, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, theirsToo, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir, whose removal fails while one of its processes still writes.
	profile, err := os.MkdirTemp("", "chromium") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	cmd := osexec.Command(program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--hide-scrollbars", "--user-data-dir="+profile, "about:blank") //nolint:noctx // it ends in the cleanup
	cmd.ExtraFiles = []*os.File{theirs, theirsToo}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirs.Close(), theirsToo.Close()
	b := &browser{t: t, to: to, answers: map[int]chan reply{}, loaded: make(chan struct{}, 100)}
	go b.listen(from)
	t.Cleanup(func() {
		_ = to.Close() // which ends it
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = from.Close()
		for deadline := time.Now().Add(10 * time.Second); os.RemoveAll(profile) != nil && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // until the last process of the group is gone
		}
	})
	var target struct{ TargetID, SessionID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	b.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

func (b *browser) listen(from *os.File) {
	reader := bufio.NewReader(from)
	for {
		text, err := reader.ReadBytes(0)
		if err != nil {
			return
		}
		var r reply
		if json.Unmarshal(text[:len(text)-1], &r) != nil {
			continue
		}
		b.mu.Lock()
		switch {
		case r.ID != 0:
			b.answers[r.ID] <- r
		case r.Method == "Page.loadEventFired":
			select {
			case b.loaded <- struct{}{}:
			default:
			}
		case r.Method == "Runtime.exceptionThrown", r.Method == "Runtime.consoleAPICalled", r.Method == "Log.entryAdded":
			b.console = append(b.console, string(r.Params))
		}
		b.mu.Unlock()
	}
}

func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	if err := b.try(method, params, result); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

func (b *browser) try(method string, params, result any) error {
	b.mu.Lock()
	b.last++
	id, answer := b.last, make(chan reply, 1)
	b.answers[id] = answer
	b.mu.Unlock()
	message := map[string]any{"id": id, "method": method}
	if params != nil {
		message["params"] = params
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		return err
	}
	select {
	case r := <-answer:
		if r.Error != nil {
			return fmt.Errorf("%s", r.Error.Message)
		}
		if result != nil {
			return json.Unmarshal(r.Result, result)
		}
		return nil
	case <-time.After(browserTimeout):
		return fmt.Errorf("no answer within %s", browserTimeout)
	}
}

// open waits until the page has been loaded.
func (b *browser) open(url string) {
	b.t.Helper()
	for len(b.loaded) > 0 {
		<-b.loaded
	}
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	select {
	case <-b.loaded:
	case <-time.After(browserTimeout):
		b.t.Fatalf("%s was not loaded", url)
	}
}

// eval gives the value of an expression as text, "" while a page is replaced by
// the next one.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var result struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
	}
	if b.try("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &result) != nil || result.Result.Value == nil {
		return ""
	}
	return fmt.Sprint(result.Result.Value)
}

func (b *browser) authorize(user, password string) {
	b.t.Helper()
	b.call("Network.setExtraHTTPHeaders", map[string]any{"headers": map[string]string{
		"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)),
	}}, nil)
}

func (b *browser) size(width int, dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

func (b *browser) picture() []byte {
	b.t.Helper()
	var result struct {
		Data []byte `json:"data"`
	}
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &result)
	return result.Data
}

func (b *browser) key(name string) {
	b.t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": name, "code": name, "windowsVirtualKeyCode": 9}, nil)
	}
}

// errors is what the console has shown.
func (b *browser) errors() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.console
}
